// SPDX-License-Identifier: GPL-2.0-or-later
// Blocking and allowing: what (this pair, this site, this host name), when (from now on, for an hour, at set
// times of the week), and two buttons. Each choice becomes one rule.

import { deedButton } from "./deeds.js";
import { h, name } from "./dom.js";
import { dayName, ruleText } from "./sentences.js";
import { say, t } from "./words.js";

const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

let serial = 0;

/** Fields for times of the week: `{element, value()}`; `value` is a schedule's text, or throws a sentence. */
export function weekFields() {
  const days = DAYS.map((day, index) => {
    const box = h("input", { type: "checkbox", value: day, checked: true });
    return h("label.day", {}, box, h("span", { title: dayName(index, "long") }, dayName(index)));
  });
  const from = h("input", { type: "time", value: "22:00", required: true, "data-testid": "schedule-from" });
  const to = h("input", { type: "time", value: "06:30", required: true, "data-testid": "schedule-to" });
  const element = h(
    "fieldset.week",
    {},
    h("legend", {}, t("decide.days")),
    h("div.days", {}, days),
    h("div.times", {}, h("label", {}, t("decide.from"), from), h("label", {}, t("decide.to"), to)),
  );
  const value = () => {
    const chosen = days.map((label) => label.firstChild).filter((box) => box.checked).map((box) => box.value);
    if (!chosen.length) throw new RangeError(t("decide.noDays"));
    if (from.value === to.value || !from.value || !to.value) throw new RangeError(t("decide.sameTimes"));
    return `${chosen.length === 7 ? "daily" : chosen.join(",")} ${from.value}-${to.value}`;
  };
  return { element, value };
}

/** A choice of when: `{element, fields(now)}` with the `until` or `schedule` of a rule. */
export function whenFields() {
  const week = weekFields();
  week.element.hidden = true;
  const choice = h(
    "select",
    { "data-testid": "when", onchange: () => (week.element.hidden = choice.value !== "schedule") },
    ["always", "hour", "schedule"].map((each) => h("option", { value: each }, t(`decide.${each}`))),
  );
  const fields = (now) => {
    if (choice.value === "hour") return { until: Math.floor(now) + 3600 };
    return choice.value === "schedule" ? { schedule: week.value() } : {};
  };
  return { select: choice, week: week.element, fields };
}

/**
 * The block of controls. `scopes`: list of {key, text, rule}, where `rule` has the fields of `add_rule` that say
 * whom and what it is about. The element knows how to `refresh()` when rules changed.
 */
export function decision(app, scopes) {
  const { deeds, records, home } = app;
  const number = ++serial;
  const when = whenFields();
  const what = h(
    "select",
    { "data-testid": "scope", id: `scope-${number}`, onchange: () => refresh() },
    scopes.map((scope) => h("option", { value: scope.key }, scope.text)),
  );
  when.select.id = `when-${number}`;
  const problem = h("p.problem", { role: "alert", hidden: true });
  const buttons = h("div.buttons", {});

  const press = (action) => async (button) => {
    const scope = scopes.find((each) => each.key === what.value);
    const standing = records.exact({ ...scope.rule, action });
    problem.hidden = true;
    if (standing) {
      const text = say("done.removeRule", { what: name(ruleText(home, standing), "") });
      await deeds.do(button, "remove_rule", { id: standing.id }, text);
      return;
    }
    let times;
    try {
      times = when.fields(home.now);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      problem.textContent = error.message;
      problem.hidden = false;
      return;
    }
    const rule = { ...scope.rule, action, ...times };
    await deeds.do(button, "add_rule", rule, say(`done.${action}`, { what: name(ruleText(home, rule), "") }));
  };
  const block = deedButton(deeds, "do.block", "block", press("block"), { style: ".danger" });
  const allow = deedButton(deeds, "do.allow", "allow", press("allow"));
  buttons.append(block, allow);

  function refresh() {
    const scope = scopes.find((each) => each.key === what.value);
    for (const [button, action] of [[block, "block"], [allow, "allow"]]) {
      const standing = records.exact({ ...scope.rule, action });
      const name = standing ? `un${action}` : action;
      button.dataset.testid = name;
      button.textContent = t(`do.${name}`);
    }
  }
  refresh();

  const element = h(
    "div.decision",
    {},
    h("div.field", { hidden: scopes.length < 2 }, h("label", { for: what.id }, t("decide.what")), what),
    h("div.field", {}, h("label", { for: when.select.id }, t("decide.when")), when.select),
    when.week,
    problem,
    buttons,
  );
  return { element, refresh };
}
