// SPDX-License-Identifier: GPL-2.0-or-later
// Builds elements. The only place where text gets into the page, and always as text: a name from the network
// may hold markup, control characters for the direction of writing, or hundreds of letters.

/** Characters that change how their neighbours are shown: controls of C0 and C1, of direction, and invisible ones. */
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]/g;

/** Text in which nothing hides: each such character is shown as a replacement mark. */
export function plain(value) {
  return String(value ?? "").replace(HIDDEN, "\ufffd");
}

/**
 * An element: `h("button.quiet", {type: "button", onclick: act}, "text", otherElement)`.
 * Properties that begin with `on` are listeners, the others attributes; `true` is an empty attribute, and what is
 * false, null or undefined is left out. Children: nodes, text, lists of these.
 */
export function h(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A name of the network: apart from the text around it in direction, cut by the style where long, whole in its title. */
export function name(value, className = "name") {
  const text = plain(value);
  return h(`bdi.${className}`, { title: text.length > 18 ? text : null }, text);
}

/** Replaces what is in an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

const SVG = "http://www.w3.org/2000/svg";

/** Strokes of the signs on buttons, in a square of 24. */
const SIGNS = {
  pause: "M9 5v14M15 5v14",
  play: "M8 5l11 7-11 7z",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  unlock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 6.7-1.4",
  fit: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.400M17.6 17.600L19 19M19 5l-1.4 1.400M6.4 17.600L5 19",
  moon: "M20 14.500A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.500z",
  auto: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 3v18M12 8h7M12 12h8.800M12 16h7",
  help: "M9.3 9.200a2.8 2.8 0 1 1 4.1 2.500c-1 .6-1.4 1.1-1.4 2.300M12 17.500v.1M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
  user: "M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM4.5 20.500c.8-4 3.7-6 7.5-6s6.7 2 7.5 6",
  close: "M6 6l12 12M18 6L6 18",
  filter: "M4 5h16l-6.5 8v6l-3-1.500V13z",
  up: "M6 15l6-6 6 6",
  down: "M6 9l6 6 6-6",
  save: "M12 4v11M7.5 11l4.5 4.5 4.5-4.500M5 20h14",
  focus: "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM12 2v5M12 17v5M2 12h5M17 12h5",
};

/** A sign, which says nothing to a screen reader: the button around it has a name. */
export function sign(kind) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "sign", "aria-hidden": "true", focusable: "false" }))
    svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", SIGNS[kind]);
  svg.append(path);
  return svg;
}
