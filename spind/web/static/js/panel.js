// SPDX-License-Identifier: GPL-2.0-or-later
// Beside the graph: what is chosen, node or edge, with what can be done about it; the home where nothing is.
// Built once for a selection; figures are filled in each second, so that no button moves under a finger.

import { decision } from "./decide.js";
import { deedButton } from "./deeds.js";
import { byId, fill, h, name, plain, sign } from "./dom.js";
import { chooseProfile, profileNamed, profileTitle, record, rename } from "./forms.js";
import { ago, bytes, momentInFull, rate, service } from "./format.js";
import { notificationText, ruleText } from "./sentences.js";
import { has, say, t } from "./words.js";

/** Items of a list in the panel; the lists have them all. */
const SHOWN = 8;

const bare = (host) => (host ?? "").replace(/\.$/, "");
const NONE = { up_bytes: 0, down_bytes: 0, up_packets: 0, down_packets: 0 };

export class Panel {
  constructor(app) {
    this.app = app;
    this.element = byId("panel");
    this.live = [];
    this.decision = null;
    app.home.addEventListener("tick", () => this.tick());
    app.records.addEventListener("change", () => this.tick(true));
  }

  /** Show what is chosen. */
  render() {
    const { selection, home } = this.app;
    this.live = [];
    this.decision = null;
    this.gone = false;
    this.element.classList.toggle("chosen", Boolean(selection));
    const parts = !selection ? this.#home() : selection.type === "edge" ? this.#edge(selection) : this.#node(selection);
    fill(this.element, parts);
    this.element.scrollTop = 0;
    if (home.ready) this.tick(true);
  }

  /** Fill in the figures. */
  tick(records = false) {
    const { home, selection } = this.app;
    const ids = !selection ? [] : selection.type === "edge" ? [selection.device, selection.node] : [selection.id];
    const gone = ids.some((id) => !home.nodes.has(id));
    if (gone !== this.gone) {
      if (!gone) {
        this.render();
        return;
      }
      this.gone = true;
      fill(this.element, this.#head(t("region.panel"), ""), h("p", {}, t("node.gone")));
      this.live = [];
      this.decision = null;
    }
    for (const update of this.live) update();
    if (records) this.decision?.refresh();
  }

  /** An element whose content is made again when what `stamp` says changes. */
  #live(element, stamp, make) {
    let before;
    this.live.push(() => {
      const now = stamp();
      if (now === before) return;
      before = now;
      fill(element, make(now));
    });
    return element;
  }

  /** An element with text that changes. */
  #text(element, text) {
    return this.#live(element, text, (now) => now);
  }

  #head(title, kind, back = null) {
    const { app } = this;
    const close = h("button.icon", { type: "button", "aria-label": t("tool.close"), "data-testid": "panel-close", onclick: () => app.select(null) }, sign("close"));
    return h("header", {}, h("div", {}, back, h("p.kind", {}, kind), h("h2", { tabindex: -1 }, title)), close);
  }

  #part(key, ...content) {
    return h("section", {}, h("h3", {}, t(key)), content);
  }

  #row(key, content) {
    return content ? [h("dt", {}, t(key)), h("dd", {}, content)] : null;
  }

  #chooser(selection, text) {
    return h("button.link", { type: "button", onclick: () => this.app.select(selection) }, name(text));
  }

  /** A table of figures: rows of [word, () => {up, down}, show]. */
  #figures(rows, packets = null) {
    const cell = (of) => this.#text(h("td.number", {}), of);
    return h(
      "table.figures",
      {},
      h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, t("traffic.up")), h("th", { scope: "col" }, t("traffic.down")))),
      h("tbody", {}, rows.map(([key, of, show]) => h("tr", {}, h("th", { scope: "row" }, t(key)), cell(() => show(of().up)), cell(() => show(of().down))))),
      packets && h("tbody", {}, h("tr.muted", {}, h("td", {}), cell(() => t("traffic.packets", { count: packets().up })), cell(() => t("traffic.packets", { count: packets().down })))),
    );
  }

  // -- the home --------------------------------------------------------------------------

  #home() {
    const { home, records } = this.app;
    const title = () => (home.capture ? t("home.capture", { name: home.capture }) : t("home.title"));
    const nodes = (kind) => [...home.nodes.values()].filter((node) => node.kind === kind && !node.is_ignored);
    const summary = () => `${t("home.devices", { count: nodes("device").length })}, ${t("home.sites", { count: nodes("site").length })}`;
    const busy = () =>
      nodes("device")
        .map((node) => ({ id: node.id, rate: home.rate(node.id) }))
        .filter((each) => each.rate.up + each.rate.down >= 1)
        .sort((one, two) => two.rate.up + two.rate.down - one.rate.up - one.rate.down)
        .slice(0, 5);
    const blocked = () => home.edges().filter((edge) => edge.blocked).sort((one, two) => two.blocked - one.blocked).slice(0, 5);
    const news = () => [...(records.notifications ?? [])].sort((one, two) => two.time - one.time).slice(0, 5);
    return [
      h("header", {}, h("div", {}, this.#text(h("p.kind", {}), summary), this.#text(h("h2", { tabindex: -1 }), title))),
      h("p.hint", {}, t("home.hint")),
      this.#part("traffic.title", this.#figures([["traffic.now", () => home.rate(), rate]])),
      this.#part("home.busy", this.#live(h("ul.plain", {}), () => JSON.stringify(busy()), () => {
        const found = busy();
        if (!found.length) return h("li.muted", {}, t("home.quiet"));
        return found.map((each) => h("li", {}, this.#chooser({ type: "node", id: each.id }, home.label(each.id)), h("span.amount", {}, `↑ ${rate(each.rate.up)}  ↓ ${rate(each.rate.down)}`)));
      })),
      this.#live(h("div", {}), () => JSON.stringify(blocked().map((edge) => [edge.key, ago(edge.blocked, home.shown)])), () => {
        const found = blocked();
        return found.length > 0 && this.#part("home.recentlyBlocked", h("ul.plain", {}, found.map((edge) =>
          h("li", {}, this.#chooser(edgeOf(edge), `${home.label(edge.device)} – ${home.label(edge.node)}`), h("span.amount", {}, ago(edge.blocked, home.shown))))));
      }),
      this.#part("home.news", this.#live(h("ul.plain", {}), () => JSON.stringify(news().map((each) => [each.id, ago(each.time, home.now)])), () => {
        const found = news();
        if (!found.length) return h("li.muted", {}, t("home.noNews"));
        return found.map((each) => h("li", {}, h("span.said", {}, name(notificationText(each), "")), h("span.amount", {}, ago(each.time, home.now))));
      })),
    ];
  }

  // -- a node ----------------------------------------------------------------------------

  #node({ id }) {
    const { home, deeds, records } = this.app;
    const node = () => home.nodes.get(id) ?? {};
    const first = node();
    if (!first.id) return [];
    const device = first.kind === "device";
    const nameless = first.kind === "site" && !first.domain;
    const decidable = Boolean(first.mac || (first.kind === "site" && (first.domain || first.ips?.length)));
    const title = this.#live(h("span", {}), () => home.label(id), (label) => name(label, "name whole"));
    const ignored = () => Boolean(node().is_ignored);

    const ignore = deedButton(deeds, "do.ignore", "ignore", (button) => {
      const to = !ignored();
      deeds.do(button, "set_ignore", { node: id, ignore: to }, say(to ? "done.ignore" : "done.unignore", { name: name(home.label(id)) }));
    }, { reason: decidable ? "" : t("do.nothing") });
    this.live.push(() => {
      const which = ignored() ? "unignore" : "ignore";
      ignore.dataset.testid = which;
      ignore.textContent = t(`do.${which}`);
    });
    const focus = h("button", { type: "button", "data-testid": "focus", "aria-pressed": String(this.app.focused === id), onclick: () => {
      this.app.focus(this.app.focused === id ? null : id);
      focus.setAttribute("aria-pressed", String(this.app.focused === id));
      focus.textContent = t(this.app.focused === id ? "do.unfocus" : "do.focus");
    } }, t(this.app.focused === id ? "do.unfocus" : "do.focus"));
    const target = first.mac ? { device: first.mac } : { node: id };

    if (decidable) {
      const rule = device ? { device: first.mac } : { node: id };
      const scopes = [{ key: "all", rule, text: t(device ? "decide.device" : "decide.site", { device: home.label(id), node: home.label(id) }) }];
      this.decision = decision(this.app, scopes);
    }
    return [
      this.#head(title, t(nameless ? "kind.nameless" : `kind.${first.kind}`)),
      this.#live(h("p.state", {}), () => `${node().is_ignored} ${node().is_blocked} ${node().is_excepted}`, () => [
        node().is_blocked && h("span.badge.blocked", {}, t("node.blocked")),
        node().is_excepted && h("span.badge.allowed", {}, t("node.excepted")),
        node().is_ignored && h("span.hint", {}, t("node.ignored")),
      ]),
      this.#viewer(),
      h(
        "div.buttons",
        {},
        focus,
        deedButton(deeds, "do.rename", "rename", () => rename(this.app, node()), { reason: decidable ? "" : t("do.nothing") }),
        ignore,
        device && first.mac ? deedButton(deeds, "do.profile", "profile", () => chooseProfile(this.app, node())) : null,
        deedButton(deeds, "do.capture", "capture", () => record(this.app, home.label(id), target)),
      ),
      decidable ? this.#part("decide.title", this.decision.element) : h("p.hint", {}, t("do.nothing")),
      this.#part("traffic.title", this.#nodeFigures(node, device)),
      this.#part(device ? "node.parties" : "node.devices", this.#parties(id)),
      h("section", {}, this.#live(h("dl", {}), () => JSON.stringify([node(), ago(node().lastseen, home.now), ago(node().firstseen, home.now)]), () => this.#facts(node()))),
      this.#part("node.evidence", this.#evidence(() => home.flows.values(), (flow) => flow.device === id || flow.node === id)),
      this.#part("node.rules", this.#rules(() => records.rulesAbout(node()))),
    ];
  }

  #facts(node) {
    const { home, records } = this.app;
    const addresses = node.ips ?? [];
    const hosts = (node.domains ?? []).map(bare);
    const list = (texts) => h("ul.plain", {}, texts.slice(0, SHOWN).map((text) => h("li", {}, name(text, "name mono"))), texts.length > SHOWN && h("li.muted", {}, t("node.more", { count: texts.length - SHOWN })));
    const profile = profileNamed(records, node.profile);
    const when = (seconds) => seconds && h("span", { title: momentInFull(seconds) }, ago(seconds, home.now));
    return [
      this.#row("node.called", node.hostname && node.hostname !== home.label(node.id) && name(node.hostname)),
      addresses.length ? [h("dt", {}, t("node.address", { count: addresses.length })), h("dd", {}, list(addresses))] : null,
      this.#row("node.hosts", hosts.length > 0 && list([...hosts].reverse())),
      this.#row("node.mac", node.mac && [name(node.mac, "name mono"), node.mac_is_random && h("span.hint", {}, ` ${t("node.random")}`)]),
      node.kind === "device" ? this.#row("node.profile", node.profile ? name(profile ? profileTitle(profile) : node.profile) : t("node.noProfile")) : null,
      this.#row("node.first", when(node.firstseen)),
      this.#row("node.last", when(node.lastseen)),
    ];
  }

  #nodeFigures(node, device) {
    const { home } = this.app;
    const id = node().id;
    const of = (family) => () => ({ up: node()[family]?.up_bytes ?? 0, down: node()[family]?.down_bytes ?? 0 });
    if (device) {
      const four = new Speed(home, () => of("ipv4")());
      const six = new Speed(home, () => of("ipv6")());
      this.live.push(() => four.look(), () => six.look());
      const packets = () => ({ up: (node().ipv4?.up_packets ?? 0) + (node().ipv6?.up_packets ?? 0), down: (node().ipv4?.down_packets ?? 0) + (node().ipv6?.down_packets ?? 0) });
      const both = (key) => [`traffic.${key}`, of(key), bytes];
      return this.#figures([["traffic.now", () => home.rate(id), rate], ["traffic.now4", () => four.rate, rate], ["traffic.now6", () => six.rate, rate], both("ipv4"), both("ipv6")], packets);
    }
    const sum = () => total([...home.flows.values()].filter((flow) => flow.node === id || flow.device === id));
    return this.#figures([["traffic.now", () => home.rate(id), rate], ["traffic.total", () => ways(sum()), bytes]], () => packetsOf(sum()));
  }

  #parties(id) {
    const { home } = this.app;
    const edges = () => home.edges().filter((edge) => edge.device === id || edge.node === id).sort((one, two) => volume(two) - volume(one));
    return this.#live(h("ul.plain", {}), () => JSON.stringify(edges().slice(0, SHOWN).map((edge) => [edge.key, bytes(volume(edge)), Boolean(edge.blocked)])) + edges().length, () => {
      const found = edges();
      if (!found.length) return h("li.muted", {}, t("node.noParties"));
      return [
        found.slice(0, SHOWN).map((edge) =>
          h("li", {}, this.#chooser(edgeOf(edge), home.label(edge.device === id ? edge.node : edge.device)), edge.blocked ? h("span.badge.blocked", {}, t("state.blocked")) : null, h("span.amount", {}, bytes(volume(edge))))),
        found.length > SHOWN && h("li.muted", {}, t("node.more", { count: found.length - SHOWN })),
      ];
    });
  }

  /** How the names of flows are known, each once, and what people should know of them. */
  #evidence(flows, test) {
    const words = () => {
      const kinds = new Set();
      const notes = new Set();
      for (const flow of flows()) {
        if (!test(flow)) continue;
        kinds.add(flow.evidence);
        if (flow.note) notes.add(flow.note);
      }
      return [...kinds].sort().map(evidenceText).concat([...notes].sort().map(noteText));
    };
    return this.#live(h("ul.plain", {}), () => words().join("\n"), (text) => (text ? text.split("\n").map((line) => h("li", {}, name(line, ""))) : h("li.muted", {}, t("say.none"))));
  }

  #rules(rules) {
    const { home, deeds } = this.app;
    const stamp = () => JSON.stringify(rules().map((rule) => [rule.id, rule.active, ruleText(home, rule)]));
    return this.#live(h("ul.plain.rules", {}), stamp, () => {
      const found = rules();
      if (!found.length) return h("li.muted", {}, t("node.noRules"));
      return found.map((rule) => {
        const text = ruleText(home, rule);
        return h("li", {}, h(`span.said.${rule.action}`, {}, name(text, "")), deedButton(deeds, "do.remove", "remove-rule", (button) =>
          deeds.do(button, "remove_rule", { id: rule.id }, say("done.removeRule", { what: name(text, "") })), { style: ".quiet" }));
      });
    });
  }

  #viewer() {
    return this.app.deeds.may ? null : h("p.hint", { "data-testid": "viewer-hint" }, t("do.viewer"));
  }

  // -- an edge ---------------------------------------------------------------------------

  #edge({ device, node }) {
    const { home, records, deeds } = this.app;
    const [one, two] = [home.nodes.get(device), home.nodes.get(node)];
    if (!one || !two) return [];
    const flows = () => [...home.flows.values()]
      .filter((flow) => (flow.device === device && flow.node === node) || (flow.device === node && flow.node === device))
      .sort((a, b) => b.lastseen - a.lastseen);
    const names = { device: home.label(device), node: home.label(node) };
    const decidable = Boolean(one.mac && (two.mac || two.domain || (two.kind === "site" && two.ips?.length)));
    if (decidable) this.decision = decision(this.app, this.#scopes(one, two, names, flows()));
    const edge = () => home.edge(device, node) ?? NONE;
    const title = [this.#chooser({ type: "node", id: device }, names.device), h("span.between", { "aria-hidden": "true" }, "↔"), this.#chooser({ type: "node", id: node }, names.node)];
    return [
      this.#head(title, t("edge.title")),
      this.#viewer(),
      decidable ? this.#part("decide.title", this.decision.element) : h("p.hint", {}, t("do.nothing")),
      h("div.buttons", {}, one.mac || two.mac ? deedButton(deeds, "do.capture", "capture", () =>
        record(this.app, `${names.device}, ${names.node}`, one.mac ? { device: one.mac, node } : { device: two.mac, node: device })) : null),
      this.#part("traffic.title", this.#figures([["traffic.now", () => home.rate(device, node), rate], ["traffic.window", () => ways(edge()), bytes], ["traffic.total", () => ways(total(flows(), device)), bytes]], () => packetsOf(total(flows(), device)))),
      this.#part("edge.flows", this.#flows(flows)),
      this.#part("node.rules", this.#rules(() => records.rulesAboutPair(one, two))),
    ];
  }

  /** What can be decided about a pair. */
  #scopes(one, two, names, flows) {
    const pair = { device: one.mac, node: two.id };
    const scopes = [{ key: "pair", rule: pair, text: t("decide.pair", names) }];
    if (two.kind === "site") scopes.push({ key: "site", rule: { node: two.id }, text: t("decide.site", names) });
    const hosts = [...new Set(flows.map((flow) => bare(flow.name)).filter((host) => host.includes(".")))].slice(0, 20);
    for (const host of hosts) {
      scopes.push({ key: `host ${host}`, rule: { device: one.mac, domain: host }, text: t("decide.host", { host, device: names.device }) });
      scopes.push({ key: `all ${host}`, rule: { domain: host }, text: t("decide.hostAll", { host }) });
    }
    const ports = new Map(flows.filter((flow) => flow.port && !flow.inbound && [6, 17].includes(flow.protocol)).map((flow) => [`${flow.protocol} ${flow.port}`, flow]));
    for (const [key, flow] of [...ports].slice(0, 10)) {
      const rule = { ...pair, port: flow.port, protocol: flow.protocol === 6 ? "tcp" : "udp" };
      scopes.push({ key: `port ${key}`, rule, text: t("decide.pairPort", { ...names, service: service(flow) }) });
    }
    return scopes;
  }

  #flows(flows) {
    const { home } = this.app;
    const stamp = () => JSON.stringify(flows().slice(0, SHOWN).map((flow) => [flow.name, flow.port, flow.up_bytes, flow.down_bytes, flow.blocked, ago(flow.lastseen, home.now)])) + flows().length;
    return this.#live(h("ul.plain.flows", {}), stamp, () => {
      const found = flows();
      if (!found.length) return h("li.muted", {}, t("edge.noFlows"));
      return [
        found.slice(0, SHOWN).map((flow) =>
          h(
            "li",
            {},
            h("div", {}, h("strong", {}, service(flow)), ` IPv${flow.family} `, flow.inbound && h("span.muted", {}, t("edge.inbound")), flow.blocked ? h("span.badge.blocked", {}, t("edge.blocked", { count: flow.blocked })) : null),
            flow.name && h("div", {}, name(bare(flow.name))),
            h("div.muted", {}, `↑ ${bytes(flow.up_bytes)}  ↓ ${bytes(flow.down_bytes)}, ${t("traffic.packets", { count: flow.up_packets + flow.down_packets })}`),
            h("div.muted", {}, `${t("node.first")}: ${ago(flow.firstseen, home.now)}. ${t("node.last")}: ${ago(flow.lastseen, home.now)}.`),
            h("div.muted", {}, name(evidenceText(flow.evidence), "")),
            flow.note && h("div.muted", {}, name(noteText(flow.note), "")),
          )),
        found.length > SHOWN && h("li.muted", {}, t("node.more", { count: found.length - SHOWN })),
      ];
    });
  }
}

/** Bytes per second of a total that grows, over the last ten seconds. */
class Speed {
  constructor(home, total) {
    Object.assign(this, { home, total, seen: [], rate: { up: 0, down: 0 } });
  }

  look() {
    const now = this.home.now;
    if (this.seen.length && now - this.seen.at(-1).time < 0.9) return;
    this.seen.push({ time: now, ...this.total() });
    while (this.seen.length > 2 && now - this.seen[0].time > 10) this.seen.shift();
    const [first, last] = [this.seen[0], this.seen.at(-1)];
    const passed = last.time - first.time;
    if (passed > 0) this.rate = { up: Math.max(0, last.up - first.up) / passed, down: Math.max(0, last.down - first.down) / passed };
  }
}

const edgeOf = ({ device, node }) => ({ type: "edge", device, node });
const volume = (edge) => edge.up_bytes + edge.down_bytes;
const ways = (sum) => ({ up: sum.up_bytes, down: sum.down_bytes });
const packetsOf = (sum) => ({ up: sum.up_packets, down: sum.down_packets });

/** Sums of flows, as seen from `device` where it is given: a flow between devices may be the other one's. */
function total(flows, device = 0) {
  const sum = { ...NONE };
  for (const flow of flows) {
    const [up, down] = device && flow.device !== device ? ["down", "up"] : ["up", "down"];
    for (const unit of ["bytes", "packets"]) {
      sum[`up_${unit}`] += flow[`${up}_${unit}`];
      sum[`down_${unit}`] += flow[`${down}_${unit}`];
    }
  }
  return sum;
}

const evidenceText = (kind) => (has(`evidence.${kind}`) ? t(`evidence.${kind}`) : plain(kind));
const noteText = (note) => (has(`note.${note}`) ? t(`note.${note}`) : t("note.any", { note }));
