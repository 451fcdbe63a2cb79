// SPDX-License-Identifier: GPL-2.0-or-later
// Gives sentences in the language of the moment (words.en.js, words.nl.js), and keeps what this browser wants.

import { plain } from "./dom.js";
import { en } from "./words.en.js";
import { nl } from "./words.nl.js";

const LANGUAGES = { en, nl };
const known = (tag) => Object.hasOwn(LANGUAGES, tag);

/** The languages that people want, the best first; none where there is no browser. */
const wanted = () => globalThis.navigator?.languages ?? [];

function initial() {
  const kept = remembered("spind.language");
  if (known(kept)) return kept;
  return wanted().find((tag) => known(tag.slice(0, 2)))?.slice(0, 2) ?? "en";
}

/** What this browser keeps under a key; empty where it keeps nothing. */
export function remembered(key) {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}

/** Keep something in this browser, if it lets us. */
export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // A private window may refuse; the page works without.
  }
}

let current = initial();

/** The language of the page: "en" or "nl". */
export const language = () => current;

/** Change it; whoever shows words has to show them again. */
export function setLanguage(tag) {
  if (!known(tag)) return;
  current = tag;
  remember("spind.language", tag);
}

/** The language as people here write numbers and times: en-GB rather than en, where the browser says so. */
export const locale = () => wanted().find((tag) => tag.slice(0, 2) === current) ?? current;

/** Is there such a sentence? */
export const has = (key) => Object.hasOwn(en, key);

function template(key, values) {
  const words = LANGUAGES[current];
  if (key in words) return words[key];
  if ("count" in values) {
    const form = new Intl.PluralRules(current).select(Number(values.count));
    return words[`${key}.${form === "one" ? "one" : "other"}`] ?? key;
  }
  return key;
}

const PLACE = /\{(\w+)\}/;

/** A sentence as text, with each value set apart in direction (Unicode UAX #9: FSI, PDI) unless it is plain ASCII. */
export function t(key, values = {}) {
  return template(key, values).replace(/\{(\w+)\}/g, (whole, place) => {
    if (!(place in values)) return whole;
    const value = typeof values[place] === "number" ? new Intl.NumberFormat(locale()).format(values[place]) : plain(values[place]);
    return /^[\x20-\x7e\u00a0–]*$/.test(value) ? value : `\u2068${value}\u2069`;
  });
}

/** A sentence as a list of nodes and text, in which values may be elements. */
export function say(key, values = {}) {
  return template(key, values)
    .split(new RegExp(PLACE.source, "g"))
    .map((part, index) => {
      if (index % 2 === 0) return part;
      const value = values[part];
      if (value === undefined) return `{${part}}`;
      return typeof value === "number" ? new Intl.NumberFormat(locale()).format(value) : value;
    });
}
