// SPDX-License-Identifier: GPL-2.0-or-later
// The page: who is here, what is chosen and filtered, and the parts, which know each other through this only.

import { session, whoAmI } from "./calls.js";
import { Deeds } from "./deeds.js";
import { byId, fill, h } from "./dom.js";
import { Feed } from "./feed.js";
import { loginView } from "./forms.js";
import { moment } from "./format.js";
import { Graph } from "./graph.js";
import { shortcutsOn, showHelp, welcome } from "./help.js";
import { Home } from "./home.js";
import { Panel } from "./panel.js";
import { Records } from "./records.js";
import { LISTS, Tables } from "./tables.js";
import { Timeline } from "./timeline.js";
import { Toolbar, applyTheme } from "./toolbar.js";
import { language, t } from "./words.js";

/** How long between attempts to ask who we are while nobody answers, in ms. */
const ASK_AGAIN = 3000;

class App {
  constructor() {
    this.who = { open: false, name: "", role: "", version: "", login: true };
    this.selection = null;
    this.focused = null;
    this.filter = { text: "", device: "", port: 0, blocked: false, direction: "", ignored: false };
    this.home = new Home();
    this.feed = new Feed();
    this.home.attach(this.feed);
    this.records = new Records(this.home);
    this.deeds = new Deeds(this.records);
    applyTheme();
    this.#words();
    this.toolbar = new Toolbar(this);
    this.graph = new Graph(byId("graph"), this.home);
    this.timeline = new Timeline(byId("timeline"), this.home);
    this.panel = new Panel(this);
    this.tables = new Tables(this);
    this.#listen();
    this.render();
    window.spind = { home: this.home, graph: this.graph, timeline: this.timeline };
  }

  #listen() {
    const { home, graph } = this;
    graph.addEventListener("select", (event) => this.select(event.detail, graph));
    graph.addEventListener("open", () => byId("panel").querySelector("h2")?.focus());
    home.addEventListener("status", () => {
      this.#status();
      if (home.status === "lost") this.#check();
    });
    home.addEventListener("tick", () => this.#status());
    home.addEventListener("reset", () => {
      document.body.classList.remove("starting");
      // The page is that of another version than the daemon, which was renewed.
      if (home.version && this.who.version && home.version !== this.who.version) location.reload();
      // Ids are those of one run of spind: after a restart sites have others.
      if (this.selection && this.#labels(this.selection) !== this.selected) this.select(null);
    });
    home.addEventListener("merged", (event) => this.#follow(event.detail));
    session.addEventListener("login", () => this.#login());
    this.feed.addEventListener("unauthorised", () => this.#login());
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Begin: log in where one has to, then listen to the feed. */
  async start() {
    try {
      const who = await whoAmI();
      if (who.role) this.#enter(who);
      else this.#login();
    } catch {
      this.home.status = "lost";
      this.#status();
      setTimeout(() => this.start(), ASK_AGAIN);
    }
  }

  #enter(who) {
    this.who = who;
    this.deeds.role = who.role;
    byId("login").hidden = true;
    this.#shut(false);
    this.render();
    this.feed.start();
  }

  /** The stream ended: perhaps because the session did, which a stream cannot say. */
  async #check() {
    const who = await whoAmI().catch(() => null);
    if (who && !who.role) this.#login();
  }

  #login() {
    if (!byId("login").hidden) return;
    this.feed.stop();
    this.#shut(true);
    loginView(byId("login"), (who) => this.#enter(who));
  }

  /** What is behind the login can be reached by nobody, by keyboard or by a screen reader. */
  #shut(on) {
    for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
    for (const part of document.querySelectorAll("body > :is(a, header, div, main, aside, nav):not(#toasts)")) part.inert = on;
  }

  // -- choosing and filtering --------------------------------------------------------------

  /** Choose a node, an edge or nothing, everywhere; `from` is who knows already. */
  select(selection, from = null) {
    const next = selection ?? null;
    if (JSON.stringify(next) === JSON.stringify(this.selection)) return;
    this.selection = next;
    this.selected = next && this.#labels(next);
    if (from !== this.graph) this.graph.select(next);
    this.timeline.selection = next;
    this.panel.render();
    if (next) this.tables.reveal();
    else this.tables.refresh();
  }

  #labels(selection) {
    const ids = selection.type === "edge" ? [selection.device, selection.node] : [selection.id];
    return JSON.stringify(ids.map((id) => [id, this.home.label(id)]));
  }

  /** Is this what is chosen? An edge is, in whichever direction. */
  isChosen(other) {
    const chosen = this.selection;
    if (!chosen || chosen.type !== other.type) return false;
    if (chosen.type === "node") return chosen.id === other.id;
    const ends = [other.device, other.node];
    return ends.includes(chosen.device) && ends.includes(chosen.node);
  }

  #follow({ id, into }) {
    const chosen = this.selection;
    if (!chosen) return;
    const moved = Object.fromEntries(Object.entries(chosen).map(([key, value]) => [key, value === id ? into : value]));
    this.select(moved.device && moved.device === moved.node ? { type: "node", id: into } : moved);
  }

  setFilter(part) {
    Object.assign(this.filter, part);
    this.graph.filter = this.filter;
    this.tables.refresh(true);
    this.#note();
  }

  /** Show one node and its neighbours only; null shows all again. */
  focus(id) {
    this.focused = id;
    this.graph.focus(id);
  }

  // -- what is said ------------------------------------------------------------------------

  /** Build everything in the language of the moment. */
  render() {
    this.#words();
    this.toolbar.render();
    this.tables.render();
    this.panel.render();
    this.graph.restyle();
    welcome();
    this.statusAt = "";
    this.noteAt = "";
    this.#status();
  }

  #words() {
    document.documentElement.lang = language();
    document.title = t("app.title");
    for (const element of document.querySelectorAll("[data-word]")) element.textContent = t(element.dataset.word);
    for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  }

  #status() {
    const { home } = this;
    const past = home.look !== null;
    const there = past ? "past" : home.capture ? "capture" : "live";
    const kind = home.status === "live" ? there : home.status;
    const time = past ? moment(Math.round(home.look)) : "";
    const at = `${kind} ${time}`;
    if (at !== this.statusAt) {
      this.statusAt = at;
      const status = byId("status");
      status.className = kind;
      status.textContent = kind === "past" ? t("status.past", { time }) : t(`status.${kind}`);
      const lost = home.status === "lost";
      fill(
        byId("banner"),
        lost && h("div.lost", { "data-testid": "lost" }, t("lost.banner")),
        !lost && past && h("div", {}, t("past.banner", { time }), h("button", { type: "button", "data-testid": "back-to-live", onclick: () => home.resume() }, t("past.live"))),
      );
    }
    this.#note();
  }

  /** What stands in the graph while there is nothing to draw. */
  #note() {
    const { home, filter } = this;
    const filtered = Boolean(filter.text || filter.device || filter.port || filter.blocked || filter.direction);
    let state = "";
    if (!home.ready) state = "loading";
    else if (![...home.nodes.values()].some((node) => node.kind !== "gateway")) state = "empty.home";
    else if (filtered && this.graph.describe().nodes.length === 0) state = "empty.filter";
    if (state === this.noteAt) return;
    this.noteAt = state;
    fill(
      byId("graph-note"),
      state === "loading" && h("div.pulse", {}),
      state && h("p", {}, t(state)),
      state === "empty.filter" && h("button", { type: "button", onclick: () => this.#clear() }, t("empty.clear")),
    );
  }

  #clear() {
    this.setFilter({ text: "", device: "", port: 0, blocked: false, direction: "" });
    this.toolbar.render();
  }

  // -- keys ----------------------------------------------------------------------------------

  #key(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]") || !byId("login").hidden) return;
    if (event.key === "Escape") {
      if (event.target instanceof HTMLElement && event.target.closest("input, select, textarea")) event.target.blur();
      else if (this.selection) this.select(null);
      else if (this.home.look !== null) this.home.resume();
      return;
    }
    if (!shortcutsOn() || event.target.closest?.("input, select, textarea")) return;
    const list = LISTS[Number(event.key) - 1];
    const deed = {
      "/": () => this.toolbar.search.focus(),
      p: () => this.toolbar.togglePause(),
      l: () => this.toolbar.toggleLock(),
      f: () => this.graph.fit(),
      o: () => this.selection?.type === "node" && (this.focus(this.focused === this.selection.id ? null : this.selection.id), this.panel.render()),
      t: () => this.toolbar.nextTheme(),
      "?": showHelp,
    }[event.key.toLowerCase()];
    if (list) {
      this.toolbar.view("lists");
      this.tables.show(list);
    } else if (deed) deed();
    else return;
    event.preventDefault();
  }
}

new App().start();
