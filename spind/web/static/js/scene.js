// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the graph shows of the home: which nodes and edges, in which state, and what is bundled. Pure: no
 * elements, no drawing, no positions.
 *
 * Bundling: many sites are used by one device only. When there are more sites than one can look at, each
 * device shows the most important of them, and one bubble stands for the others.
 */

import { edgeState, edgeWidth, mainDirection, nodeRadius, strongest, STATES } from "./look.js";

/** With more sites than this, those of one device only are bundled. */
export const MANY = 140;

/* So many of them are shown next to all devices together, but at least LEAST of each device. A bundle has at
 * least SMALLEST sites: fewer are shown as they are. */
const ROOM = 110;
const LEAST = 2;
const SMALLEST = 4;

/* A site that is shown stays until others have so many times its bytes: what is shown should not flicker. Recent
 * ones count a little less than that, so that traffic which ends changes nothing. */
const INERTIA = 4;

export const NO_FILTER = { text: "", device: "", port: 0, blocked: false, direction: "", ignored: false };

/** The id of a device's bundle. */
export const bundleId = (device) => `more:${device}`;

/** The device of a bundle's id, or 0. */
export const bundleDevice = (id) => (typeof id === "string" && id.startsWith("more:") ? Number(id.slice(5)) : 0);

export class Scene {
  #shown = new Set(); // sites of one device that were shown beside a bundle

  constructor() {
    this.nodes = new Map(); // id -> {id, kind, label, state, bytes, radius, rule, ...}
    this.edges = [];
    this.byKey = new Map();
    this.hiddenSites = new Map(); // site -> id of the bundle that it is in
  }

  /**
   * Look at the home anew. `wish`: {filter, focus: id or null, expanded: Set of devices, keep: Set of ids that must
   * be shown by themselves, room: 1 for a window of usual size, less for a smaller one}.
   */
  build(home, wish) {
    const time = home.shown;
    const filter = { ...NO_FILTER, ...wish.filter };
    const test = matcher(home, filter);
    const degree = new Map();
    let found = [];
    for (const edge of home.edges()) {
      const state = edgeState(edge, time);
      if (!test(edge, state)) continue;
      found.push({ edge, state });
      for (const id of [edge.device, edge.node]) degree.set(id, (degree.get(id) || 0) + 1);
    }
    this.nodes = new Map();
    this.hiddenSites = new Map();
    const bundles = this.#bundle(home, found, degree, wish, filter);
    this.edges = [];
    for (const { edge, state } of found) {
      const bundle = bundles.get(edge.node);
      if (bundle) this.#addToBundle(home, bundle, edge, state);
      else this.#addEdge(home, edge, state);
    }
    this.#finish(home, time, filter);
    return this;
  }

  #bundle(home, found, degree, wish, filter) {
    const bundles = new Map(); // site -> id of its bundle
    const own = new Map(); // device -> its own sites
    let sites = 0;
    const seen = new Set();
    for (const item of found) {
      const { device, node } = item.edge;
      if (!isSite(home, node) || seen.has(node)) continue;
      seen.add(node);
      sites++;
      if (degree.get(node) !== 1 || wish.keep.has(node)) continue;
      if (!own.has(device)) own.set(device, []);
      own.get(device).push(item);
    }
    if (sites <= MANY || (filter.text && sites <= 2 * MANY)) return bundles;
    const each = Math.max(LEAST, Math.floor((ROOM * (wish.room ?? 1)) / Math.max(own.size, 1)));
    const shown = new Set();
    for (const [device, items] of own) {
      if (wish.expanded.has(device) || wish.focus === device) continue;
      const score = ({ edge, state }) => {
        const bytes = edge.up_bytes + edge.down_bytes + 1;
        const urgent = state === "blocked" ? 1e6 : state === "recent" ? INERTIA * 0.75 : 1;
        return bytes * urgent * (this.#shown.has(edge.node) ? INERTIA : 1);
      };
      const ranked = items.map((item) => [score(item), item.edge.node]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
      const few = ranked.length - each < SMALLEST;
      ranked.forEach(([, node], place) => {
        if (few || place < each) shown.add(node);
        else bundles.set(node, bundleId(device));
      });
    }
    this.#shown = shown;
    return bundles;
  }

  #addEdge(home, edge, state) {
    const device = this.#node(home, edge.device);
    const node = this.#node(home, edge.node);
    const bytes = edge.up_bytes + edge.down_bytes;
    for (const [one, other] of [[device, node], [node, device]]) {
      one.bytes += bytes;
      one.states.push(state);
      one.neighbours.add(other.id);
    }
    this.edges.push({ key: edge.key, device: edge.device, node: edge.node, state, edge, bytes });
  }

  #addToBundle(home, id, edge, state) {
    const device = this.#node(home, edge.device);
    let bundle = this.nodes.get(id);
    if (!bundle) {
      bundle = { id, kind: "more", label: "", bytes: 0, states: [], neighbours: new Set([device.id]), members: [] };
      bundle.rule = "";
      bundle.total = { device: edge.device, node: id, up_bytes: 0, down_bytes: 0, lastseen: 0 };
      this.nodes.set(id, bundle);
      device.neighbours.add(id);
      this.edges.push({ key: id, device: edge.device, node: id, state, edge: bundle.total, bytes: 0, bundle });
    }
    const bytes = edge.up_bytes + edge.down_bytes;
    bundle.members.push(edge.node);
    bundle.bytes += bytes;
    bundle.states.push(state);
    bundle.total.up_bytes += edge.up_bytes;
    bundle.total.down_bytes += edge.down_bytes;
    bundle.total.lastseen = Math.max(bundle.total.lastseen, edge.lastseen);
    device.bytes += bytes;
    device.states.push(state);
    this.hiddenSites.set(edge.node, id);
  }

  #node(home, id) {
    let item = this.nodes.get(id);
    if (item) return item;
    const node = home.nodes.get(id);
    item = {
      id,
      kind: node.kind === "device" || node.kind === "gateway" ? node.kind : "site",
      label: home.label(id),
      bytes: 0,
      states: [],
      neighbours: new Set(),
      rule: node.is_blocked ? "blocked" : node.is_excepted ? "excepted" : "",
      ignored: Boolean(node.is_ignored),
    };
    this.nodes.set(id, item);
    return item;
  }

  /** The edge that shows a pair, which may be that of a bundle; undefined if none does. */
  edgeOf(pair) {
    return this.byKey.get(pair.key) || this.byKey.get(this.hiddenSites.get(pair.node));
  }

  #finish(home, time, filter) {
    this.byKey = new Map();
    const narrow = filter.device || filter.port || filter.blocked || filter.direction;
    const wanted = textTest(filter.text);
    for (const node of home.nodes.values()) {
      if (this.nodes.has(node.id)) continue;
      const quiet = node.kind === "device" && !node.is_ignored && time - node.lastseen < home.window.seconds;
      const ignored = node.is_ignored && filter.ignored;
      if ((ignored || (quiet && !narrow)) && wanted(node, home)) this.#node(home, node.id);
    }
    for (const node of this.nodes.values()) {
      node.state = node.kind === "device" || node.kind === "gateway" ? "device" : strongest(statesOf(node));
      node.radius = node.kind === "more" ? 10 + 1.6 * Math.log2(node.members.length) : nodeRadius(node.kind, node.bytes);
    }
    for (const edge of this.edges) {
      if (edge.bundle) {
        edge.state = edge.bundle.state;
        edge.bytes = edge.bundle.bytes;
      }
      edge.width = edgeWidth(edge.bytes);
      edge.direction = mainDirection(edge.edge);
      edge.age = Math.max(time - Math.max(edge.edge.lastseen, edge.edge.blocked || 0, edge.edge.queried || 0), 0);
      edge.shared = this.nodes.get(edge.node).neighbours.size > 1;
      edge.colour = STATES[edge.state].colour;
      this.byKey.set(edge.key, edge);
    }
  }
}

/* A bundle is not red for one blocked site among many. */
function statesOf(node) {
  if (node.kind !== "more") return node.states;
  const others = node.states.filter((state) => state !== "blocked");
  return others.length * 2 > node.states.length ? others : node.states;
}

function isSite(home, id) {
  const node = home.nodes.get(id);
  return Boolean(node) && node.kind !== "device" && node.kind !== "gateway";
}

/* Does a node match a search? Its label, names, addresses, host names. */
function textTest(text) {
  const wanted = String(text || "").trim().toLowerCase();
  if (!wanted) return () => true;
  return (node, home) => {
    const texts = [home.label(node.id), node.label, node.hostname, node.domain, node.mac];
    return texts.concat(node.ips || [], node.domains || []).some((one) => one && one.toLowerCase().includes(wanted));
  };
}

/* (edge, state) -> is it shown? */
function matcher(home, filter) {
  const wanted = textTest(filter.text);
  const matches = new Map();
  const byText = (id) => {
    if (!matches.has(id)) matches.set(id, wanted(home.nodes.get(id), home));
    return matches.get(id);
  };
  const device = filter.device ? String(filter.device).toLowerCase() : "";
  const isDevice = (id) => String(id) === device || (home.nodes.get(id).mac || "").toLowerCase() === device;
  const port = Number(filter.port) || 0;
  const inbound = { in: true, inbound: true, out: false, outbound: false }[filter.direction];
  return (edge, state) => {
    if (filter.blocked && state !== "blocked") return false;
    if (device && !isDevice(edge.device) && !isDevice(edge.node)) return false;
    if (filter.text && !byText(edge.device) && !byText(edge.node)) return false;
    if (!port && inbound === undefined) return true;
    return home
      .flowsOf(edge.device, edge.node)
      .some((flow) => (!port || flow.port === port) && (inbound === undefined || flow.inbound === inbound));
  };
}
