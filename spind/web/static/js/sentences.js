// SPDX-License-Identifier: GPL-2.0-or-later
// Rules, audit entries and notifications in the language of the page, made of their fields: spind says them in
// English only. Text in, text out.

import { moment, momentInFull, protocolName } from "./format.js";
import { has, locale, t } from "./words.js";

/** What a node is called by its MAC, domain or address. */
export function labelOfKey(home, key) {
  for (const node of home.nodes.values()) {
    if (node.mac === key || (!node.mac && (node.domain === key || (!node.domain && node.ips?.[0] === key)))) return home.label(node.id);
  }
  return key;
}

const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/** The short name of a day of the week; 0 is Monday. */
export const dayName = (day, style = "short") =>
  new Intl.DateTimeFormat(locale(), { weekday: style, timeZone: "UTC" }).format(new Date(Date.UTC(2024, 0, 1 + day)));

/** A schedule with days in the language of the page. */
export function scheduleText(text) {
  return text.replace(/\b(mon|tue|wed|thu|fri|sat|sun|daily)\b/g, (day) =>
    day === "daily" ? "" : dayName(DAYS.indexOf(day)),
  ).trim();
}

/** A rule as a sentence. Fields as `list_rules` or the configuration has them. */
export function ruleText(home, rule) {
  const party = rule.node
    ? typeof rule.node === "number" ? home.label(rule.node) : labelOfKey(home, rule.node)
    : rule.party ? labelOfKey(home, rule.party) : rule.domain || rule.ip || t("say.anything");
  const action = rule.action === "allow" ? "allow" : "block";
  let sentence = rule.device
    ? t(action === "allow" ? "say.allow.device" : "say.block.device", { device: labelOfKey(home, rule.device), party })
    : t(action === "allow" ? "say.allow.all" : "say.block.all", { party });
  const port = Number(rule.port) || 0;
  if (rule.protocol || port) {
    const named = rule.protocol ? (Number(rule.protocol) ? protocolName(Number(rule.protocol)) : String(rule.protocol).toUpperCase()) : "";
    sentence = t("say.on", { sentence, service: [named, port ? t("say.port", { port: String(port) }) : ""].filter(Boolean).join(" ") });
  }
  if (rule.schedule) sentence = t("say.at", { sentence, schedule: scheduleText(rule.schedule) });
  if (Number(rule.until)) sentence = t("say.until", { sentence, time: moment(Number(rule.until)) });
  return sentence;
}

/** The end of a rule in full, for a title. */
export const ruleEnd = (rule) => (rule.until ? momentInFull(rule.until) : "");

/** An entry of the audit list. */
export function auditText(home, entry) {
  const changes = (entry.after ?? []).map((after, index) => changeText(home, entry.before?.[index] ?? {}, after));
  return changes.flat().filter(Boolean).join("; ") || entry.text;
}

function changeText(home, before, after) {
  if ("rule" in after) {
    const key = !before.options ? "say.rule.made" : !after.options ? "say.rule.removed" : "say.rule.changed";
    const options = after.options ?? before.options;
    return options ? t(key, { rule: ruleText(home, options) }) : "";
  }
  if ("ignored" in after) {
    return t("say.ignoredAddresses", { list: after.ignored.slice(0, 5).join(", ") || t("say.none") });
  }
  if ("options" in after) return t(after.options ? "say.profile.set" : "say.profile.removed", { profile: after.options?.name || after.profile });
  const node = labelOfKey(home, after.device ?? after.site);
  const said = [];
  if (before.name !== after.name) said.push(after.name ? t("say.called", { node, name: after.name }) : t("say.unnamed", { node }));
  if (before.ignore !== after.ignore) said.push(t(after.ignore ? "say.ignored" : "say.unignored", { node }));
  if ((before.profile ?? "") !== (after.profile ?? "")) {
    said.push(after.profile ? t("say.hasProfile", { node, profile: after.profile }) : t("say.noProfile", { node }));
  }
  return said;
}

/** A notification: by its key where the page knows it, else as spind says it. */
export function notificationText(item) {
  const key = `news.${item.message_key}`;
  if (!has(key)) return item.message;
  return t(key, Object.fromEntries((item.message_args ?? []).map((value, index) => [String(index), value])));
}
