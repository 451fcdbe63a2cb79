// SPDX-License-Identifier: GPL-2.0-or-later
// Lists as CSV (RFC 4180). Pure.

/** What a spreadsheet takes for the beginning of a formula; some take the wide forms, too. */
const FORMULA = /^\s*[=+\-@\t\r＝＋－＠]/;

/** The same within a text, where one that splits at semicolons (as with Dutch settings) or tabs begins a field. */
const WITHIN = /([;\t]["'\s]*)(?=[=+\-@＝＋－＠])/g;

/**
 * One field. Text that a spreadsheet would calculate gets a ' before it: names come from the network, and
 * `=HYPERLINK(...)` is a name that a device can give itself. Numbers stay numbers.
 */
export function field(value) {
  if (typeof value === "number") return String(value);
  if (typeof value === "boolean") return value ? "true" : "false";
  let text = String(value ?? "").replace(WITHIN, "$1'");
  if (FORMULA.test(text)) text = `'${text}`;
  return /[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Lines of fields, the first of them the heads. */
export const csv = (lines) => lines.map((line) => `${line.map(field).join(",")}\r\n`).join("");
