// SPDX-License-Identifier: GPL-2.0-or-later
// Doing things: one call, one toast that says what happened, and a way back. Knows who may.

import { act, call, logOut } from "./calls.js";
import { byId, fill, h, name, sign } from "./dom.js";
import { say, t } from "./words.js";

/** Toasts at most at a time, and how long one stays, in ms. One that is pointed at or has the focus stays. */
const TOASTS = 4;
const STAY = 9000;

/** Shows a toast: {text: nodes, undo?: function, bad?: boolean, link?: element}. */
export function toast({ text, undo = null, bad = false, link = null }) {
  const box = byId("toasts");
  const close = () => {
    clearTimeout(timer);
    card.remove();
  };
  const card = h(
    bad ? "div.toast.bad" : "div.toast",
    { role: bad ? "alert" : "status" },
    h("span.said", {}, text),
    link,
    undo && h("button.link", { type: "button", "data-testid": "undo", onclick: (event) => undo(event.currentTarget, close) }, t("do.undo")),
    h("button.icon", { type: "button", "aria-label": t("tool.close"), "data-testid": "toast-close", onclick: close }, sign("close")),
  );
  let timer = 0;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => (card.matches(":hover, :focus-within") ? wait() : close()), bad ? STAY * 2 : STAY);
  };
  box.append(card);
  while (box.children.length > TOASTS) box.firstChild.remove();
  wait();
}

/** A failure, in words. */
export function failure(error) {
  if (error.code === "lost") return [t("fail.lost")];
  if (error.code === "login") return [t("login.title")];
  return error.message ? say("fail.refused", { why: name(error.message, "") }) : [t("fail.unknown")];
}

export class Deeds {
  constructor(records) {
    this.records = records;
    this.role = "";
  }

  /** May who is here change anything? */
  get may() {
    return this.role === "owner" || this.role === "provider";
  }

  /**
   * Call a method that changes something; `done` are the words that say so. The button cannot be pressed again
   * until it is over. Whether it worked.
   */
  async do(button, method, params, done, { link = null, undoes = true } = {}) {
    return this.#busy(button, async () => {
      const { entry, warning, result } = undoes ? await act(method, params) : { result: await call(method, params) };
      const text = warning ? say("done.warning", { why: warning }) : done;
      toast({ text, undo: entry ? this.#undoer(entry, "done.undo") : null, link: link?.(result) });
      this.#refresh(method);
    });
  }

  /** Undo an entry of the audit list; the toast offers to do it again. */
  undo(button, entry, words = "done.undo") {
    return this.#busy(button, async () => {
      const made = await act("undo", { id: entry });
      const again = words === "done.undo" ? "done.undoAgain" : "done.undo";
      toast({ text: [t(words)], undo: made.entry ? this.#undoer(made.entry, again) : null });
      this.#refresh("undo");
    });
  }

  #undoer(entry, words) {
    return async (button, close) => {
      if (await this.undo(button, entry, words)) close();
    };
  }

  async #busy(button, work) {
    if (button?.getAttribute("aria-busy")) return false;
    button?.setAttribute("aria-busy", "true");
    if (button) button.disabled = true;
    try {
      await work();
      return true;
    } catch (error) {
      toast({ text: failure(error), bad: true });
      return false;
    } finally {
      button?.removeAttribute("aria-busy");
      if (button) button.disabled = false;
      // A button that is disabled loses the focus: who works with the keyboard goes on from here.
      if (button?.isConnected && document.activeElement === document.body) button.focus();
    }
  }

  /** The feed says what changed, too, a second later; who has just pressed a button looks now. */
  #refresh(method) {
    const names = method.includes("capture")
      ? ["captures"]
      : method.includes("notification") ? ["notifications"] : ["rules", "profiles", "audit"];
    for (const each of names) this.records.load(each);
  }

  async leave() {
    await logOut().catch(() => null);
    location.reload();
  }
}

/** A button that does something, or says why it cannot. */
export function deedButton(deeds, key, testid, onclick, { style = "", reason = "" } = {}) {
  const why = deeds.may ? reason : t("do.viewer");
  return h(
    `button${style}`,
    { type: "button", "data-testid": testid, disabled: Boolean(why), title: why || null, onclick: (event) => onclick(event.currentTarget) },
    t(key),
  );
}

/** Opens a dialog with a title and a body; `dialog.close()` or Esc ends it, and it is gone then. */
export function openDialog(title, ...body) {
  const opener = document.activeElement;
  const heading = h("h2", { id: "dialog-title" }, title);
  const dialog = h(
    "dialog",
    { "aria-labelledby": "dialog-title" },
    h("header", {}, heading, h("button.icon", { type: "button", "aria-label": t("tool.close"), "data-testid": "dialog-close", onclick: () => dialog.close() }, sign("close"))),
  );
  dialog.append(h("div.body", {}));
  fill(dialog.lastChild, ...body);
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (opener?.isConnected) opener.focus();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
