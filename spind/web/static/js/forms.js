// SPDX-License-Identifier: GPL-2.0-or-later
// Dialogs that ask for something: name, profile, recording, rule, login.

import { logIn } from "./calls.js";
import { whenFields } from "./decide.js";
import { failure, openDialog } from "./deeds.js";
import { fill, h, name, plain } from "./dom.js";
import { ruleText } from "./sentences.js";
import { has, say, t } from "./words.js";

let serial = 0;

/** A labelled field: the label, the control, and what it means. */
function field(key, control, hint = "") {
  const id = `field-${++serial}`;
  control.id = id;
  const note = hint && h("p.hint", { id: `${id}-hint` }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div.field", {}, h("label", { for: id }, t(key)), control, note);
}

/** A form in a dialog; `submit(button)` says whether it is done. */
function ask(title, key, fields, submit, testid = "submit") {
  const button = h("button.primary", { type: "submit", "data-testid": testid }, t(key));
  const form = h(
    "form",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        if (await submit(button)) dialog.close();
      },
    },
    fields,
    h("div.buttons", {}, button, h("button", { type: "button", onclick: () => dialog.close() }, t("do.cancel"))),
  );
  const dialog = openDialog(title, form);
  form.querySelector("input, select, textarea")?.focus();
  return dialog;
}

/** Give a node another name. */
export function rename({ deeds }, node) {
  const input = h("input", { type: "text", maxlength: 64, value: plain(node.name ?? ""), autocomplete: "off", "data-testid": "rename-name" });
  ask(t("rename.title"), "do.save", [field("rename.label", input, t("rename.hint"))], (button) => {
    const text = input.value.trim();
    const words = text ? say("done.rename", { name: name(text) }) : [t("done.unname")];
    return deeds.do(button, "set_device_name", { node: node.id, name: text }, words);
  }, "rename-save");
  input.select();
}

/** The title of a profile in the language of the page, where it is as shipped. */
export const profileTitle = (profile) =>
  profile.builtin && has(`profile.${profile.name}`) ? t(`profile.${profile.name}`) : profile.title || profile.name;

/** What a profile is for, likewise. */
export const profileHint = (profile) =>
  profile.builtin && has(`profile.${profile.name}Hint`) ? t(`profile.${profile.name}Hint`) : profile.description;

/** The profile with a name. */
export const profileNamed = (records, key) => (records.profiles ?? []).find((profile) => profile.name === key);

/** Choose the profile of a device. */
export function chooseProfile({ deeds, records, home }, node) {
  const choices = [{ name: "", title: t("profile.none"), hint: t("profile.noneHint") }].concat(
    (records.profiles ?? []).map((profile) => ({ name: profile.name, title: profileTitle(profile), hint: profileHint(profile) })),
  );
  const radios = choices.map((choice) => {
    const input = h("input", { type: "radio", name: "profile", value: choice.name, checked: choice.name === (node.profile ?? "") });
    return h("label.choice", {}, input, h("span", {}, h("strong", {}, name(choice.title, "")), h("span.hint", {}, name(choice.hint, ""))));
  });
  const group = h("fieldset", {}, h("legend", {}, t("profile.hint")), radios);
  ask(t("profile.title", { name: home.label(node.id) }), "do.save", [group], (button) => {
    const chosen = radios.map((label) => label.firstChild).find((input) => input.checked)?.value ?? "";
    const title = choices.find((choice) => choice.name === chosen).title;
    const called = name(home.label(node.id));
    const words = chosen ? say("done.profile", { name: called, profile: name(title) }) : say("done.noProfile", { name: called });
    return deeds.do(button, "set_device_profile", { device: node.mac, profile: chosen }, words);
  }, "profile-save");
}

const LISTS = ["allow_domain", "block_domain", "allow_ip", "block_ip"];

/** Make a profile, or change one. */
export function editProfile({ deeds }, profile = null) {
  const key = h("input", { type: "text", required: true, pattern: "[A-Za-z0-9_]{1,64}", maxlength: 64, autocomplete: "off", "data-testid": "profile-key" });
  const title = h("input", { type: "text", maxlength: 64, value: profile?.title ?? "", "data-testid": "profile-name" });
  const description = h("input", { type: "text", maxlength: 200, value: profile?.description ?? "" });
  const otherwise = h(
    "select",
    {},
    h("option", { value: "allow", selected: profile?.default !== "block" }, t("profile.allowed")),
    h("option", { value: "block", selected: profile?.default === "block" }, t("profile.blocked")),
  );
  const lists = LISTS.map((list) => {
    const area = h("textarea", { rows: 3, spellcheck: "false" });
    area.value = (profile?.[list] ?? []).join("\n");
    return area;
  });
  const heading = profile ? t("profile.edit", { profile: profileTitle(profile) }) : t("profile.new");
  ask(heading, "do.save", [
    profile ? null : field("profile.key", key, t("profile.keyHint")),
    field("profile.name", title),
    field("profile.description", description),
    field("profile.default", otherwise),
    LISTS.map((list, index) => field(`profile.${list}`, lists[index], t(list.endsWith("ip") ? "profile.ips" : "profile.domains"))),
  ], (button) => {
    const params = { profile: profile?.name ?? key.value, name: title.value.trim(), description: description.value.trim(), default: otherwise.value };
    LISTS.forEach((list, index) => (params[list] = lists[index].value.split(/[\s,]+/).filter(Boolean)));
    return deeds.do(button, "set_profile", params, say("done.setProfile", { profile: name(params.name || params.profile) }));
  }, "profile-save");
}

/** What recordings are limited to unless people say otherwise: a minute, and what a phone downloads at once. */
const SECONDS = 60;
const MEGABYTES = 10;

/** Record packets of a device, a site or a pair. `target` has the arguments of `start_capture`. */
export function record({ deeds }, called, target) {
  const seconds = h("input", { type: "number", min: 1, max: 86400, value: SECONDS, required: true, inputmode: "numeric", "data-testid": "capture-seconds" });
  const megabytes = h("input", { type: "number", min: 1, max: 1000, value: MEGABYTES, required: true, inputmode: "numeric", "data-testid": "capture-megabytes" });
  ask(t("capture.title", { name: called }), "capture.start", [
    h("p.hint", {}, t("capture.hint")),
    field("capture.seconds", seconds),
    field("capture.megabytes", megabytes),
  ], (button) => {
    const params = { ...target, seconds: Number(seconds.value), max_bytes: Number(megabytes.value) * 1_000_000 };
    return deeds.do(button, "start_capture", params, say("done.capture", { name: name(called) }), { undoes: false, link: (made) => made && downloadLink(made) });
  }, "capture-start");
}

/** A link to what was recorded; only where the address is one of ours. */
export function downloadLink(capture) {
  return h("a.button", { href: `/api/v1/captures/${Number(capture.id)}.pcap`, download: `spin-${Number(capture.id)}.pcap`, "data-testid": "download" }, t("do.download"));
}

/** Make a rule of any kind. */
export function makeRule({ deeds, home }) {
  const devices = [...home.nodes.values()].filter((node) => node.kind === "device" && node.mac);
  const device = h("select", {}, h("option", { value: "" }, t("tool.allDevices")), devices.map((node) => h("option", { value: node.mac }, plain(home.label(node.id)))));
  const party = h("input", { type: "text", maxlength: 253, autocomplete: "off", spellcheck: "false", "data-testid": "rule-party" });
  const port = h("input", { type: "number", min: 1, max: 65535, inputmode: "numeric", placeholder: t("tool.anyPort") });
  const action = h("select", {}, ["block", "allow"].map((each) => h("option", { value: each }, t(`do.${each}`))));
  const comment = h("input", { type: "text", maxlength: 200 });
  const when = whenFields();
  const problem = h("p.problem", { role: "alert", hidden: true });
  ask(t("rule.new"), "do.save", [
    field("rule.action", action),
    field("rule.device", device),
    field("rule.party", party, t("rule.partyHint")),
    field("tool.port", port),
    field("decide.when", when.select),
    when.week,
    field("rule.comment", comment),
    problem,
  ], async (button) => {
    let rule;
    try {
      rule = { action: action.value, ...when.fields(home.now) };
    } catch (error) {
      fill(problem, error.message).hidden = false;
      return false;
    }
    const text = party.value.trim();
    if (device.value) rule.device = device.value;
    if (text) rule[/^[\d.]+(\/\d+)?$|:/.test(text) ? "ip" : "domain"] = text;
    if (port.value) rule.port = Number(port.value);
    if (comment.value.trim()) rule.comment = comment.value.trim();
    return deeds.do(button, "add_rule", rule, say(`done.${rule.action}`, { what: name(ruleText(home, rule), "") }));
  }, "rule-save");
}

/** Who is here: how to log out, or why nobody has to log in. */
export function showUser({ deeds }, who) {
  const lines = who.open
    ? [h("p", {}, t("user.open"))]
    : [h("p", {}, say("user.as", { name: name(who.name) })), h("div.buttons", {}, h("button", { type: "button", "data-testid": "logout", onclick: () => deeds.leave() }, t("tool.logout")))];
  const role = has(`role.${who.role}`) ? t(`role.${who.role}`) : who.role;
  openDialog(t("user.title"), h("p", {}, t("user.role", { role })), lines, h("p.hint", {}, t("user.version", { version: who.version })));
}

/** Fills the view for logging in; `done(who)` when it worked. */
export function loginView(view, done) {
  const user = h("input", { type: "text", autocomplete: "username", autocapitalize: "none", spellcheck: "false", required: true, maxlength: 256, "data-testid": "login-user" });
  const password = h("input", { type: "password", autocomplete: "current-password", maxlength: 256, "data-testid": "login-password" });
  const button = h("button.primary", { type: "submit", "data-testid": "login-submit" }, t("login.submit"));
  const problem = h("p.problem", { role: "alert", hidden: true, "data-testid": "login-problem" });
  let pause = 0;
  const told = (text) => {
    problem.textContent = text;
    problem.hidden = !text;
  };
  const count = (left) => {
    clearTimeout(pause);
    button.disabled = left > 0;
    told(left > 0 ? t("login.wait", { count: left }) : "");
    if (left > 0) pause = setTimeout(() => count(left - 1), 1000);
  };
  const form = h(
    "form",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        if (button.disabled) return;
        button.disabled = true;
        try {
          done(await logIn(user.value, password.value));
        } catch (error) {
          if (error.retryAfter) {
            count(error.retryAfter);
            return;
          }
          told(error.code === "login" || error.code === 403 ? error.message || t("login.wrong") : failure(error).map((part) => part.textContent ?? part).join(""));
          password.select();
        }
        button.disabled = false;
      },
    },
    h("h1", {}, t("login.title")),
    h("p.hint", {}, t("login.hint")),
    field("login.user", user),
    field("login.password", password),
    problem,
    h("div.buttons", {}, button),
  );
  fill(view, form);
  view.hidden = false;
  user.focus();
}

