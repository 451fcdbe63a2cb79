// SPDX-License-Identifier: GPL-2.0-or-later
// The lists in tabs: devices, sites, flows, rules, profiles, notifications, audit, captures. What each shows and
// what its rows do; how a table works is in table.js.

import { deedButton } from "./deeds.js";
import { byId, fill, h, name, plain } from "./dom.js";
import { downloadLink, editProfile, makeRule, profileHint, profileTitle } from "./forms.js";
import { ago, bytes, count, duration, moment, momentInFull, rate, service } from "./format.js";
import { flowKey } from "./home.js";
import { running } from "./records.js";
import { auditText, notificationText, ruleText } from "./sentences.js";
import { Table } from "./table.js";
import { has, say, t } from "./words.js";

export const LISTS = ["devices", "sites", "flows", "rules", "profiles", "notifications", "audit", "captures"];

/** Times in CSV: as everybody's programs read them (ISO 8601, UTC). */
const iso = (seconds) => (seconds ? new Date(seconds * 1000).toISOString().replace(".000", "") : "");

const bare = (host) => (host ?? "").replace(/\.$/, "");

export class Tables {
  constructor(app) {
    this.app = app;
    this.current = LISTS[0];
    this.table = null;
    this.sorts = {};
    this.tabs = byId("tabs");
    this.view = byId("list");
    app.home.addEventListener("tick", () => this.refresh());
    app.records.addEventListener("change", (event) => {
      this.#count();
      if (event.detail === this.current || event.detail === "profiles") this.refresh(true);
    });
    this.tabs.addEventListener("keydown", (event) => this.#move(event));
    this.render();
  }

  /** Build tabs and table anew, in the language of the moment. */
  render() {
    fill(
      this.tabs,
      LISTS.map((list) =>
        h(
          "button",
          { type: "button", role: "tab", id: `tab-${list}`, "data-testid": `tab-${list}`, "aria-controls": "list", onclick: () => this.show(list) },
          t(`list.${list}`),
          h("span.badge", { hidden: true }),
        ),
      ),
    );
    this.#count();
    this.show(this.current);
  }

  #count() {
    const badge = byId("tab-notifications")?.lastChild;
    if (!badge) return;
    const number = this.app.records.notifications?.length ?? 0;
    badge.textContent = number ? String(number) : "";
    badge.hidden = !number;
  }

  /** Arrow keys move between the tabs (WAI-ARIA tabs pattern). */
  #move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const edge = { Home: 0, End: LISTS.length - 1 }[event.key];
    if (step === undefined && edge === undefined) return;
    event.preventDefault();
    const at = edge ?? (LISTS.indexOf(this.current) + step + LISTS.length) % LISTS.length;
    this.show(LISTS[at]);
    byId(`tab-${LISTS[at]}`).focus();
  }

  show(list) {
    if (this.table) this.sorts[this.table.name] = this.table.sort;
    this.current = list;
    for (const tab of this.tabs.children) {
      const is = tab.id === `tab-${list}`;
      tab.setAttribute("aria-selected", String(is));
      tab.tabIndex = is ? 0 : -1;
    }
    this.view.setAttribute("aria-labelledby", `tab-${list}`);
    const made = this[list]();
    this.table = new Table(this.view, { name: list, empty: `list.empty.${list}`, ...made, sort: this.sorts[list] ?? made.sort });
    this.refresh(true);
    if (this.app.selection) this.table.reveal();
  }

  refresh(anew = false) {
    if (this.table && this.view.offsetParent !== null) this.table.refresh(anew);
  }

  /** What is chosen changed. */
  reveal() {
    this.refresh();
    this.table.reveal();
  }

  // -- columns that several lists have ---------------------------------------------------

  #label(word = "col.name", of = (row) => row.id) {
    const { home } = this.app;
    return { key: word, word, value: (row) => home.label(of(row)), stamp: (row) => plain(home.label(of(row))), show: (row) => name(home.label(of(row))) };
  }

  #seen(word = "col.last", of = (row) => row.lastseen) {
    const { home } = this.app;
    return {
      key: word, word, number: true, value: of, csv: (row) => iso(of(row)),
      stamp: (row) => ago(of(row), home.shown),
      show: (row) => h("span", { title: of(row) ? momentInFull(of(row)) : null }, ago(of(row), home.shown)),
    };
  }

  #time(word, of) {
    return { key: word, word, number: true, value: of, csv: (row) => iso(of(row)), show: (row) => h("span", { title: of(row) ? momentInFull(of(row)) : null }, moment(of(row))) };
  }

  #size(word, of, show = bytes, wide = false) {
    return { key: word, word, number: true, wide, value: of, stamp: (row) => show(of(row)), show: (row) => show(of(row)) };
  }

  #deeds(show, stamp = () => 0) {
    return { key: "do", word: "col.do", sort: false, value: () => "", stamp: (row) => `${this.app.deeds.may} ${stamp(row)}`, show: (row) => h("div.deeds", {}, show(row)) };
  }

  #state() {
    const of = (node) => (node.is_ignored ? "ignored" : node.is_blocked ? "blocked" : node.is_excepted ? "allowed" : "none");
    return { key: "state", word: "col.state", wide: true, value: (node) => t(`state.${of(node)}`), show: (node) => h(`span.state.${of(node)}`, {}, t(`state.${of(node)}`)) };
  }

  #nodes(test) {
    const ignored = this.app.filter.ignored;
    return [...this.app.home.nodes.values()].filter((node) => test(node) && (ignored || !node.is_ignored));
  }

  #sums() {
    const { home } = this.app;
    if (this.sumsAt === home.revision) return this.sums;
    this.sums = new Map();
    for (const edge of home.edges()) {
      for (const id of [edge.device, edge.node]) {
        const sum = this.sums.get(id) ?? { up: 0, down: 0, parties: 0, blocked: 0 };
        sum.up += edge.up_bytes;
        sum.down += edge.down_bytes;
        sum.parties += 1;
        sum.blocked = Math.max(sum.blocked, edge.blocked);
        this.sums.set(id, sum);
      }
    }
    this.sumsAt = home.revision;
    return this.sums;
  }

  #node(id) {
    return { select: (row) => this.app.select({ type: "node", id: id(row) }), isSelected: (row) => this.app.isChosen({ type: "node", id: id(row) }) };
  }

  // -- the lists -------------------------------------------------------------------------

  devices() {
    const { home, records } = this.app;
    // Of the gateway there is no total but that of the flows to it.
    const total = (node, key) =>
      node.ipv4 ? node.ipv4[key] + node.ipv6[key] : [...home.flows.values()].reduce((sum, flow) => sum + (flow.node === node.id ? flow[key] : 0), 0);
    const profile = (node) => {
      const found = (records.profiles ?? []).find((each) => each.name === node.profile);
      return found ? profileTitle(found) : (node.profile ?? "");
    };
    return {
      rows: () => this.#nodes((node) => node.kind !== "site"),
      key: (node) => node.id,
      sort: { key: "col.down", down: true },
      ...this.#node((node) => node.id),
      columns: [
        this.#label(),
        this.#size("col.up", (node) => home.rate(node.id).up, rate),
        this.#size("col.down", (node) => home.rate(node.id).down, rate),
        this.#size("col.upTotal", (node) => total(node, "up_bytes"), bytes, true),
        this.#size("col.downTotal", (node) => total(node, "down_bytes"), bytes, true),
        this.#seen(),
        { key: "profile", word: "col.profile", wide: true, value: profile, show: (node) => name(profile(node)) },
        { key: "address", word: "col.address", wide: true, value: (node) => node.ips?.[0] ?? "", words: (node) => `${node.ips?.join(" ")} ${node.mac}` },
        { key: "mac", word: "col.mac", wide: true, extra: true, value: (node) => node.mac ?? "" },
        this.#state(),
      ],
    };
  }

  sites() {
    const { home } = this.app;
    const sum = (node, key) => this.#sums().get(node.id)?.[key] ?? 0;
    return {
      rows: () => this.#nodes((node) => node.kind === "site"),
      key: (node) => node.id,
      sort: { key: "col.last", down: true },
      ...this.#node((node) => node.id),
      columns: [
        this.#label(),
        this.#size("col.up", (node) => home.rate(node.id).up, rate, true),
        this.#size("col.down", (node) => home.rate(node.id).down, rate, true),
        this.#size("col.upTotal", (node) => sum(node, "up")),
        this.#size("col.downTotal", (node) => sum(node, "down")),
        { key: "devices", word: "col.devices", number: true, wide: true, value: (node) => sum(node, "parties"), show: (node) => count(sum(node, "parties")) },
        this.#seen(),
        { key: "address", word: "col.address", wide: true, value: (node) => node.ips?.[0] ?? "", words: (node) => [...(node.ips ?? []), ...(node.domains ?? [])].join(" ") },
        this.#state(),
      ],
    };
  }

  flows() {
    const { home } = this.app;
    const edge = (flow) => ({ type: "edge", device: flow.device, node: flow.node });
    const said = (flow) => (has(`evidence.${flow.evidence}`) ? t(`evidence.${flow.evidence}`) : flow.evidence);
    return {
      rows: () => [...home.flows.values()],
      key: flowKey,
      sort: { key: "col.last", down: true },
      select: (flow) => this.app.select(edge(flow)),
      isSelected: (flow) => this.app.isChosen(edge(flow)),
      columns: [
        this.#label("col.device", (flow) => flow.device),
        { ...this.#label("col.party", (flow) => flow.node), wide: true },
        { key: "host", word: "col.host", value: (flow) => bare(flow.name) || home.label(flow.node), show: (flow) => name(bare(flow.name) || home.label(flow.node)) },
        { key: "service", word: "col.service", value: service },
        this.#size("col.upTotal", (flow) => flow.up_bytes, bytes, true),
        this.#size("col.downTotal", (flow) => flow.down_bytes),
        this.#size("col.packets", (flow) => flow.up_packets + flow.down_packets, count, true),
        { key: "blocked", word: "col.blocked", number: true, wide: true, value: (flow) => flow.blocked, show: (flow) => (flow.blocked ? h("span.state.blocked", {}, count(flow.blocked)) : "–") },
        { ...this.#seen("col.first", (flow) => flow.firstseen), wide: true },
        this.#seen(),
        { key: "evidence", word: "col.evidence", wide: true, value: said, show: (flow) => name(said(flow), "") },
      ],
    };
  }

  rules() {
    const { home, records, deeds } = this.app;
    const text = (rule) => ruleText(home, rule);
    return {
      rows: () => records.rules,
      key: (rule) => rule.id,
      sort: { key: "col.created", down: true },
      tools: [deedButton(deeds, "rule.new", "new-rule", () => makeRule(this.app), { style: ".quiet" })],
      columns: [
        { key: "rule", word: "col.rule", value: text, stamp: (rule) => text(rule) + rule.action, show: (rule) => h(`span.said.${rule.action}`, {}, name(text(rule), "")) },
        { key: "active", word: "col.active", value: (rule) => t(rule.active ? "yes" : "no") },
        { key: "author", word: "col.author", wide: true, value: (rule) => author(rule.author) },
        { key: "comment", word: "col.comment", wide: true, value: (rule) => rule.comment ?? "", show: (rule) => name(rule.comment ?? "") },
        { ...this.#time("col.created", (rule) => rule.created), wide: true },
        this.#deeds((rule) =>
          deedButton(deeds, "do.remove", "remove-rule", (button) =>
            deeds.do(button, "remove_rule", { id: rule.id }, say("done.removeRule", { what: name(text(rule), "") })), { style: ".quiet" })),
      ],
    };
  }

  profiles() {
    const { home, records, deeds } = this.app;
    const members = (profile) => (profile.devices ?? []).map((mac) => labelOf(home, mac)).join(", ");
    return {
      rows: () => records.profiles,
      key: (profile) => profile.name,
      sort: { key: "name", down: false },
      tools: [deedButton(deeds, "profile.new", "new-profile", () => editProfile(this.app), { style: ".quiet" })],
      columns: [
        { key: "name", word: "col.name", value: profileTitle, show: (profile) => name(profileTitle(profile)) },
        { key: "members", word: "col.members", value: members, show: (profile) => name(members(profile)) },
        { key: "description", word: "col.description", wide: true, value: profileHint, show: (profile) => name(profileHint(profile)) },
        { key: "default", word: "col.default", wide: true, value: (profile) => t(profile.default === "block" ? "profile.blocked" : "profile.allowed") },
        this.#deeds((profile) => [
          deedButton(deeds, "do.edit", "edit-profile", () => editProfile(this.app, profile), { style: ".quiet" }),
          !profile.builtin &&
            deedButton(deeds, "do.remove", "remove-profile", (button) =>
              deeds.do(button, "remove_profile", { profile: profile.name }, say("done.removeProfile", { profile: name(profileTitle(profile)) })), { style: ".quiet" }),
        ], (profile) => JSON.stringify(profile)),
      ],
    };
  }

  notifications() {
    const { home, records, deeds } = this.app;
    const target = (item) => {
      const both = home.nodes.has(item.device) && home.nodes.has(item.node);
      if (both) return { type: "edge", device: item.device, node: item.node };
      const id = [item.device, item.node].find((each) => home.nodes.has(each));
      return id ? { type: "node", id } : null;
    };
    return {
      rows: () => records.notifications,
      key: (item) => item.id,
      sort: { key: "col.time", down: true },
      select: (item) => this.app.select(target(item)),
      columns: [
        { key: "message", word: "col.message", value: notificationText, show: (item) => name(notificationText(item), "said") },
        this.#time("col.time", (item) => item.time),
        this.#deeds((item) =>
          deedButton(deeds, "do.dismiss", "dismiss", (button) =>
            deeds.do(button, "dismiss_notification", { id: item.id }, [t("done.dismiss")], { undoes: false }), { style: ".quiet" })),
      ],
    };
  }

  audit() {
    const { home, records, deeds } = this.app;
    const text = (entry) => auditText(home, entry) + (entry.undone ? ` (${t("audit.undone")})` : "");
    return {
      rows: () => records.audit,
      key: (entry) => entry.id,
      sort: { key: "col.time", down: true },
      columns: [
        { key: "what", word: "col.what", value: text, show: (entry) => name(text(entry), entry.undone ? "said undone" : "said") },
        { key: "author", word: "col.author", wide: true, value: (entry) => author(entry.author) },
        { key: "through", word: "col.through", wide: true, value: (entry) => entry.interface },
        this.#time("col.time", (entry) => entry.time),
        this.#deeds((entry) => entry.undoable && deedButton(deeds, "do.undo", "undo-entry", (button) => deeds.undo(button, entry.id), { style: ".quiet" }), (entry) => entry.undoable),
      ],
    };
  }

  captures() {
    const { home, records, deeds } = this.app;
    const of = (capture) => capture.label || [capture.device && labelOf(home, capture.device), capture.node && home.label(capture.node)].filter(Boolean).join(", ");
    const state = (capture) => (has(`capture.${capture.state}`) ? t(`capture.${capture.state}`) : capture.state);
    return {
      rows: () => records.captures,
      key: (capture) => capture.id,
      sort: { key: "col.time", down: true },
      columns: [
        { key: "of", word: "col.of", value: of, stamp: of, show: (capture) => name(of(capture)) },
        {
          key: "state", word: "col.state", value: state, stamp: (capture) => `${capture.state} ${capture.bytes}`,
          show: (capture) => [
            h("span", { title: plain(capture.reason ?? "") || null }, plain(state(capture))), " ",
            running(capture) && capture.max_bytes ? h("progress", { max: capture.max_bytes, value: capture.bytes, "aria-label": t("col.progress") }) : null,
          ],
        },
        { ...this.#time("col.time", (capture) => capture.started ?? 0), wide: true },
        this.#size("col.packets", (capture) => capture.packets, count),
        this.#size("col.bytes", (capture) => capture.bytes),
        { key: "left", word: "col.left", number: true, value: (capture) => capture.seconds_left ?? 0, show: (capture) => (running(capture) ? duration(capture.seconds_left ?? 0) : "–") },
        this.#deeds((capture) => [
          running(capture) &&
            deedButton(deeds, "do.stop", "stop-capture", (button) => deeds.do(button, "stop_capture", { id: capture.id }, [t("done.stop")], { undoes: false }), { style: ".quiet" }),
          downloadLink(capture),
        ], (capture) => capture.state),
      ],
    };
  }
}

const author = (who) => (has(`author.${who}`) ? t(`author.${who}`) : who);

function labelOf(home, mac) {
  for (const node of home.nodes.values()) if (node.mac === mac) return home.label(node.id);
  return mac;
}
