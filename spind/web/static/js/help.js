// SPDX-License-Identifier: GPL-2.0-or-later
// Help: a welcome that comes once and stands in nobody's way, and a dialog with signs, keys and what things mean.

import { openDialog } from "./deeds.js";
import { byId, fill, h } from "./dom.js";
import { STATES } from "./look.js";
import { remember, remembered, t } from "./words.js";

const KEPT = "spind.welcome";
const STEPS = 4;

/** Shows the welcome, unless it was read before. */
export function welcome(step = 1) {
  const place = byId("welcome");
  if (step === 0 || remembered(KEPT)) {
    fill(place);
    return;
  }
  const done = () => {
    remember(KEPT, "read");
    fill(place);
    byId("graph").focus({ preventScroll: true });
  };
  const next = h("button.primary", { type: "button", "data-testid": "welcome-next", onclick: () => (step < STEPS ? (welcome(step + 1), byId("welcome").querySelector(".primary").focus()) : done()) }, t(step < STEPS ? "welcome.next" : "welcome.done"));
  fill(
    place,
    h("h2", {}, t("welcome.title")),
    h("p", { "aria-live": "polite" }, t(`welcome.${step}`)),
    h("div.buttons", {}, next, step < STEPS && h("button", { type: "button", "data-testid": "welcome-skip", onclick: done }, t("welcome.skip")), h("span.space", {}), h("span.muted", {}, t("welcome.step", { count: step, total: STEPS }))),
  );
}

const SVG = "http://www.w3.org/2000/svg";

/** A line or a dot as the graph draws it. */
function drawing(kind) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 54 20");
  svg.setAttribute("aria-hidden", "true");
  const put = (name, attributes, style) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    Object.assign(element.style, style);
    svg.append(element);
  };
  const colour = `var(--${kind === "site" ? "recent" : kind})`;
  if (kind === "device") put("circle", { cx: 27, cy: 10, r: 9 }, { fill: colour });
  else if (kind === "site") put("circle", { cx: 27, cy: 10, r: 6 }, { fill: colour });
  else {
    const dash = STATES[kind].dash.join(" ") || "none";
    put("path", { d: "M2 10H42" }, { stroke: colour, strokeWidth: "2.5px", strokeDasharray: dash, strokeLinecap: kind === "query" ? "round" : "butt" });
    put("circle", { cx: 46, cy: 10, r: 5.5 }, { stroke: colour, strokeWidth: "2px", fill: ["recent", "blocked"].includes(kind) ? colour : "none" });
    if (kind === "blocked") put("path", { d: "M43.5 7.5l5 5M48.5 7.5l-5 5" }, { stroke: "var(--panel)", strokeWidth: "1.6px" });
  }
  return svg;
}

const KEYS = [
  ["/", "search"], ["P", "pause"], ["L", "lock"], ["F", "fit"], ["O", "focus"], ["T", "theme"], ["1 – 8", "tabs"], ["?", "help"], ["Esc", "escape"],
  ["← ↑ → ↓", "arrows"], ["Enter", "enter"], ["+ −", "zoom"],
];

/** May single keys be shortcuts? People who dictate switch them off (WCAG 2.2, 2.1.4). */
export const shortcutsOn = () => remembered("spind.keys") !== "off";

/** The help dialog. */
export function showHelp() {
  const keys = h("input", { type: "checkbox", checked: shortcutsOn(), onchange: () => remember("spind.keys", keys.checked ? "on" : "off") });
  const dialog = openDialog(
    t("help.title"),
    h("section", {}, h("h3", {}, t("help.legend")), h("dl.legend", {}, ["device", "site", "recent", "older", "blocked", "query"].map((kind) => [h("dt", {}, drawing(kind)), h("dd", {}, t(`help.${kind}`))])), h("p.hint", {}, t("help.width"))),
    h("section", {}, h("h3", {}, t("help.rulesTitle")), h("p", {}, t("help.rules"))),
    h("section", {}, h("h3", {}, t("help.numbersTitle")), h("p", {}, t("help.numbers"))),
    h("section", {}, h("h3", {}, t("help.keys")), h("dl.legend.keys", {}, KEYS.map(([key, word]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, t(`key.${word}`))])), h("label.check", {}, keys, t("help.keysOn"))),
    h("div.buttons", {}, h("button", { type: "button", onclick: () => {
      remember(KEPT, "");
      dialog.close();
      welcome();
    } }, t("help.again"))),
  );
}
