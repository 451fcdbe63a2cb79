// SPDX-License-Identifier: GPL-2.0-or-later
// Everything above and beside the graph that is pressed: search, filters, pause, lock, fit, colours, language, help.

import { byId, fill, h, plain, sign } from "./dom.js";
import { showUser } from "./forms.js";
import { showHelp } from "./help.js";
import { language, remember, remembered, setLanguage, t } from "./words.js";

const THEMES = ["auto", "light", "dark"];
const THEME_SIGNS = { auto: "auto", light: "sun", dark: "moon" };

/** The colours that were chosen. */
export const theme = () => (THEMES.includes(remembered("spind.theme")) ? remembered("spind.theme") : "auto");

/** Puts the chosen colours on the page. */
export function applyTheme() {
  const chosen = theme();
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

function icon(testid, kind, label, onclick, properties = {}) {
  return h("button.icon", { type: "button", "data-testid": testid, "aria-label": label, title: label, onclick, ...properties }, sign(kind));
}

/** Gives an icon button another sign and name. */
function turn(button, kind, label, pressed) {
  fill(button, sign(kind));
  button.setAttribute("aria-label", label);
  button.title = label;
  if (pressed !== undefined) button.setAttribute("aria-pressed", String(pressed));
}

export class Toolbar {
  constructor(app) {
    this.app = app;
    this.devices = "";
    app.home.addEventListener("status", () => this.state());
    app.home.addEventListener("nodes", () => this.#fillDevices());
    this.render();
  }

  /** Build it in the language of the moment. */
  render() {
    const { app } = this;
    const { filter } = app;
    const change = (part) => app.setFilter(part);
    this.search = h("input", { type: "search", value: filter.text, placeholder: t("tool.search"), title: t("tool.searchHint"), "aria-label": t("tool.search"), autocomplete: "off", spellcheck: "false", "data-testid": "search", oninput: () => change({ text: this.search.value.trim() }) });
    this.device = h("select", { "aria-label": t("tool.device"), "data-testid": "filter-device", onchange: () => change({ device: this.device.value }) });
    const port = h("input", { type: "number", min: 1, max: 65535, value: filter.port || "", placeholder: t("tool.port"), "aria-label": t("tool.port"), "data-testid": "filter-port", oninput: () => change({ port: Number(port.value) || 0 }) });
    const direction = h(
      "select",
      { "aria-label": t("tool.direction"), "data-testid": "filter-direction", onchange: () => change({ direction: direction.value }) },
      [["", "anyDirection"], ["out", "outbound"], ["in", "inbound"]].map(([value, word]) => h("option", { value, selected: value === filter.direction }, t(`tool.${word}`))),
    );
    const check = (key) => {
      const box = h("input", { type: "checkbox", checked: filter[key], "data-testid": `filter-${key}`, onchange: () => change({ [key]: box.checked }) });
      return h("label", {}, box, t(`tool.${key}`));
    };
    const toggle = icon("filters", "filter", t("tool.filters"), () => {
      const on = document.body.classList.toggle("filters");
      toggle.setAttribute("aria-expanded", String(on));
    }, { id: "toggle-filters", "aria-expanded": String(document.body.classList.contains("filters")), "aria-controls": "filters" });
    fill(byId("toolbar"), h("div.search", {}, this.search), toggle, h("div", { id: "filters" }, this.device, port, direction, check("blocked"), check("ignored")));
    this.devices = "";
    this.#fillDevices();

    this.theme = icon("theme", THEME_SIGNS[theme()], this.#themeLabel(), () => this.nextTheme());
    fill(
      byId("buttons"),
      this.theme,
      h("button.quiet", { type: "button", "data-testid": "language", lang: language() === "en" ? "nl" : "en", title: t("tool.languageHint"), "aria-label": t("tool.languageHint"), onclick: () => {
        setLanguage(language() === "en" ? "nl" : "en");
        app.render();
        byId("buttons").querySelector("[data-testid=language]").focus();
      } }, t("tool.language")),
      icon("help", "help", t("tool.help"), showHelp),
      icon("user", "user", app.who.name ? plain(app.who.name) : t("tool.user"), () => showUser(app, app.who)),
    );
    this.pause = icon("pause", "pause", "", () => this.togglePause());
    this.lock = icon("lock", "lock", "", () => this.toggleLock());
    fill(byId("graph-buttons"), this.pause, this.lock, icon("fit", "fit", t("tool.fit"), () => app.graph?.fit()));
    this.more = icon("lists-more", "up", t("tool.more"), () => this.size(1));
    this.less = icon("lists-less", "down", t("tool.less"), () => this.size(-1));
    fill(byId("sizes"), this.less, this.more);
    this.size(0);
    fill(
      byId("views"),
      ["graph", "lists"].map((view) => h("button", { type: "button", "data-testid": `view-${view}`, "aria-pressed": "false", onclick: () => this.view(view) }, t(`tool.${view}`))),
    );
    this.view(document.body.dataset.view ?? "graph");
    this.state();
  }

  #themeLabel() {
    return t("tool.theme", { theme: t(`theme.${theme()}`) });
  }

  /** A device that comes or is renamed is there to choose. */
  #fillDevices() {
    const { home, filter } = this.app;
    const devices = [...home.nodes.values()]
      .filter((node) => node.kind === "device")
      .map((node) => [String(node.id), plain(home.label(node.id))])
      .sort((one, two) => one[1].localeCompare(two[1]));
    const stamp = JSON.stringify(devices);
    if (stamp === this.devices) return;
    this.devices = stamp;
    fill(this.device, h("option", { value: "" }, t("tool.allDevices")), devices.map(([id, label]) => h("option", { value: id, selected: id === filter.device }, label)));
  }

  nextTheme() {
    remember("spind.theme", THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
    applyTheme();
    turn(this.theme, THEME_SIGNS[theme()], this.#themeLabel());
  }

  togglePause() {
    const { home } = this.app;
    if (home.paused) home.resume();
    else home.pause();
  }

  toggleLock() {
    const { graph } = this.app;
    if (!graph) return;
    graph.lock(!graph.locked);
    this.state();
  }

  /** What is paused and locked. */
  state() {
    const { home, graph } = this.app;
    turn(this.pause, home.paused ? "play" : "pause", t(home.paused ? "tool.resume" : "tool.pause"), home.paused);
    const locked = Boolean(graph?.locked);
    turn(this.lock, locked ? "lock" : "unlock", t(locked ? "tool.unlock" : "tool.lock"), locked);
  }

  /** Lists larger or smaller: hidden, beside the graph, instead of it. */
  size(step) {
    const sizes = ["hidden", "", "large"];
    const { classList } = document.body;
    const now = classList.contains("lists-large") ? 2 : classList.contains("lists-hidden") ? 0 : 1;
    const next = Math.min(2, Math.max(0, now + step));
    for (const each of sizes) if (each) classList.toggle(`lists-${each}`, sizes[next] === each);
    this.less.disabled = next === 0;
    this.more.disabled = next === 2;
    this.less.setAttribute("aria-label", t(next === 1 ? "tool.hide" : "tool.less"));
    this.app.tables?.refresh(true);
  }

  /** On a phone: graph or lists. */
  view(view) {
    document.body.dataset.view = view;
    for (const button of byId("views").children) button.setAttribute("aria-pressed", String(button.dataset.testid === `view-${view}`));
    this.app.tables?.refresh(true);
  }
}
