// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How things look: which state something is in, its size, width, colour and label. Pure, but for `palette`,
 * which reads the style sheet's colours. Each state has a second sign besides its colour: see STATES.
 */

/** Seconds after which a connection is no longer recent. */
export const RECENT = 30;

/** Seconds that a DNS query is shown as such. */
export const QUERY = 30;

/** States, the most important first. `dash` of the edge in pixels (0.1 with round ends: dots); `mark` is how
 * the site's dot is drawn. */
export const STATES = {
  blocked: { dash: [7, 5], mark: "cross", colour: "red" },
  query: { dash: [0.1, 5], mark: "ring", colour: "violet" },
  recent: { dash: [], mark: "disc", colour: "green" },
  older: { dash: [], mark: "hollow", colour: "blue" },
};

/** The state of an edge at a time: "blocked", "query", "recent" or "older". */
export function edgeState(edge, time) {
  const traffic = edge.up_packets + edge.down_packets + edge.up_bytes + edge.down_bytes > 0;
  const flows = traffic && time - edge.lastseen <= RECENT;
  // Blocked for as long as it is in the window, unless it works again since.
  if (edge.blocked && !(traffic && edge.lastseen > edge.blocked + 5)) return "blocked";
  if (edge.queried && time - edge.queried <= QUERY && !flows) return "query";
  if (flows) return "recent";
  return traffic ? "older" : edge.queried ? "query" : "older";
}

const RANK = { blocked: 3, recent: 2, query: 1, older: 0 };

/** The state of a site, or of a bundle, that has edges in these states. */
export function strongest(states) {
  let best = "older";
  for (const state of states) if (RANK[state] > RANK[best]) best = state;
  return best;
}

/** Width of an edge in pixels: from a hair for a few bytes to 6 for gigabytes, by the logarithm. */
export function edgeWidth(bytes) {
  return bytes > 0 ? Math.min(0.8 + 0.75 * Math.max(Math.log10(bytes) - 2.5, 0), 6) : 0.8;
}

/** Radius of a node in the graph's units. */
export function nodeRadius(kind, bytes) {
  const size = bytes > 0 ? Math.log10(bytes) : 0;
  if (kind === "site") return 3.5 + 0.75 * Math.max(size - 2, 0);
  return 14 + 0.9 * Math.max(size - 3, 0);
}

/** "up", "down" or "both": where most bytes of an edge go; both if neither has four times the other's. */
export function mainDirection(edge) {
  if (edge.up_bytes > 4 * edge.down_bytes) return "up";
  if (edge.down_bytes > 4 * edge.up_bytes) return "down";
  return "both";
}

/* Characters that a label must not hold: controls of C0 and C1, and those that change the direction of text
 * around them (Unicode annex 9) or are invisible. */
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]/g;

/** A label as it is drawn: at most `length` characters, nothing hidden in it, its direction its own. */
export function cutLabel(text, length = 28) {
  const clean = String(text).replace(HIDDEN, "").trim();
  const letters = Array.from(clean);
  if (letters.length <= length) return clean;
  // Of a host name its end tells most, so the middle goes.
  if (/^[^\s]+\.[^\s]+$/.test(clean)) {
    const tail = Math.floor(length * 0.55);
    return `${letters.slice(0, length - tail - 1).join("")}…${letters.slice(-tail).join("")}`;
  }
  return `${letters.slice(0, length - 1).join("").trimEnd()}…`;
}

const NAMES = ["bg", "fg", "muted", "device", "recent", "older", "blocked", "query", "accent", "panel", "line"];

const FALLBACK = {
  bg: "#fbfbf9", fg: "#1c2330", muted: "#667085", device: "#6b7280", recent: "#12855a", older: "#3b74c4",
  blocked: "#d0312d", query: "#8b5cf6", accent: "#0b6bcb", panel: "#ffffff", line: "#d9dde3",
};

/** The colours of the style sheet as they are now: {bg, fg, ...}. */
export function palette(element) {
  const style = getComputedStyle(element);
  const colours = {};
  for (const name of NAMES) colours[name] = style.getPropertyValue(`--${name}`).trim() || FALLBACK[name];
  return colours;
}
