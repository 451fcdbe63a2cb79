// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The home as the page knows it: nodes, flows, and the last ten minutes, kept from what the feed brings. Owns
 * all data of the page, its time, and the moment that the page shows. Must not know of elements or drawing.
 *
 * Everything the feed says is absolute, so taking it twice does no harm. Memory: the server bounds its tables
 * and says what is gone; the page forgets that, and everything older than the window.
 *
 * Events: "status", "nodes", "flows", "tick" (once a second, and when the shown moment changes),
 * "changed" (detail: Set of names), "notification" (detail: one), "reset" (all anew).
 */

import { Window, pairIds, pairKey } from "./window.js";

/* Queries and blocked packets that are remembered for looking back; the server sends 200 of each a second at
 * most, and a home has few. */
const REMEMBERED = 5000;

/* While paused the window is not cut, but no further back than this, in seconds. */
const PAUSED_SECONDS = 1200;

/** The key of a flow, as of what `gone_flows` lists. */
export function flowKey(flow) {
  const port = flow.icmp_type ?? flow.port;
  return `${flow.device}:${flow.node}:${flow.protocol}:${port}:${flow.family}:${flow.inbound ? 1 : 0}`;
}

export class Home extends EventTarget {
  #look = null;
  #edges = { at: "", list: [], map: new Map() };
  #rates = { at: "", map: new Map() };
  #clock;
  #sources = new Map(); // pair -> Set of keys of its flows
  #told = new Set();
  #timer = 0;

  /** `clock` gives seconds of a clock that does not jump. */
  constructor(clock = () => performance.now() / 1000) {
    super();
    this.#clock = clock;
    this.nodes = new Map();
    this.flows = new Map();
    this.window = new Window();
    this.queries = []; // {time, key, name}, oldest first
    this.blocks = []; // {time, key}
    this.status = "connecting";
    this.paused = false;
    this.ready = false; // the first snapshot is complete
    this.version = "";
    this.synced = { server: Date.now() / 1000, local: clock() };
    this.pace = 1; // seconds of the home a second: a capture file may be played faster, or stand still
    this.capture = ""; // its name, where the home is one out of a capture file
    this.revision = 0; // grows with each change of data: for caches
  }

  /** Take what a feed says, and tick each second. */
  attach(feed) {
    feed.addEventListener("message", (event) => this.receive(event.detail.kind, event.detail.data));
    feed.addEventListener("status", (event) => {
      this.status = event.detail;
      this.#tell("status");
    });
    setInterval(() => this.tick(), 1000);
    return this;
  }

  /** Server time, Unix seconds. */
  get now() {
    return this.synced.server + (this.#clock() - this.synced.local) * this.pace;
  }

  /** The moment that is shown: now, or one looked back at. */
  get shown() {
    return this.#look ?? this.now;
  }

  /** null while live, else the time looked back at. */
  get look() {
    return this.#look;
  }

  set look(time) {
    const next = time === null || time === undefined ? null : Math.min(Math.max(time, this.oldest), this.now);
    if (next === this.#look) return;
    this.#look = next;
    this.paused = next !== null;
    this.revision++;
    this.#emit("status");
    this.#emit("tick");
  }

  /** The earliest time that can be looked back at. */
  get oldest() {
    return this.now - this.window.seconds;
  }

  /** What is shown stays as it is now; data still comes in. */
  pause() {
    this.look = this.#look ?? this.now;
  }

  /** Back to live. */
  resume() {
    this.look = null;
  }

  // -- what the feed says -------------------------------------------------------------

  receive(kind, data) {
    if (data.time && kind !== "window") this.synced = { server: data.time, local: this.#clock() };
    if (kind === "hello") {
      this.pace = data.pace ?? 1;
      this.capture = data.capture ?? "";
      this.#reset(data);
    } else if (kind === "nodes") data.items.forEach((node) => this.#putNode(node));
    else if (kind === "flows") data.items.forEach((flow) => this.#putFlow(flow, true));
    else if (kind === "window") this.window.put(data.time, data.cells);
    else if (kind === "ready") {
      this.ready = true;
      this.status = "live";
      for (const name of ["reset", "status", "nodes", "flows"]) this.#emit(name);
    } else if (kind === "delta") this.#delta(data);
    this.revision++;
    if (kind === "ready") this.tick();
  }

  #reset(data) {
    this.nodes.clear();
    this.flows.clear();
    this.#sources.clear();
    this.window = new Window(data.window_seconds, data.step);
    this.queries = [];
    this.blocks = [];
    this.version = data.version;
    this.ready = false;
    this.#look = null;
    this.paused = false;
  }

  #delta(data) {
    for (const [id, into] of data.merged || []) this.#merge(id, into);
    for (const node of data.nodes || []) this.#putNode(node);
    for (const [id, lastseen] of data.seen || []) {
      const node = this.nodes.get(id);
      if (node) node.lastseen = lastseen;
    }
    for (const flow of data.flows || []) this.#putFlow(flow, false);
    for (const step of data.cells || []) this.window.put(step.time, step.cells);
    for (const query of data.queries || []) {
      this.queries.push({ time: query.time, key: pairKey(query.device, query.node), name: query.name });
    }
    for (const block of data.blocked || []) {
      this.blocks.push({ time: block.time, key: pairKey(block.device, block.node) });
    }
    for (const parts of data.gone_flows || []) {
      const [device, node, protocol, port, family, inbound] = parts;
      this.#dropFlow(flowKey({ device, node, protocol, port, family, inbound }));
    }
    for (const id of data.gone_nodes || []) {
      this.nodes.delete(id);
      this.window.forget(id);
    }
    for (const list of [this.queries, this.blocks]) {
      if (list.length > REMEMBERED) list.splice(0, list.length - REMEMBERED);
    }
    if (data.nodes || data.gone_nodes || data.merged || data.seen) this.#tell("nodes");
    if (data.flows || data.gone_flows) this.#tell("flows");
    if (data.changed) this.#emit("changed", new Set(data.changed));
    for (const notification of data.notifications || []) this.#emit("notification", notification);
    this.#tell("tick");
  }

  #putNode(node) {
    this.nodes.set(node.id, node);
  }

  #putFlow(flow, old) {
    const key = flowKey(flow);
    const before = this.flows.get(key);
    const pair = pairKey(flow.device, flow.node);
    if (old && flow.blocked) {
      // The snapshot has no times of blocked packets; a flow's last packet is the best guess.
      this.blocks.push({ time: flow.lastseen, key: pair });
    }
    if (!before) {
      if (!this.#sources.has(pair)) this.#sources.set(pair, new Set());
      this.#sources.get(pair).add(key);
    }
    this.flows.set(key, flow);
  }

  #dropFlow(key) {
    const flow = this.flows.get(key);
    if (!flow) return;
    this.flows.delete(key);
    const pair = pairKey(flow.device, flow.node);
    const keys = this.#sources.get(pair);
    if (keys && keys.delete(key) && keys.size === 0) this.#sources.delete(pair);
  }

  /* Flows of the merged node come with the delta under their new key, and the old ones are listed as gone. */
  #merge(id, into) {
    this.window.merge(id, into);
    for (const list of [this.queries, this.blocks]) {
      for (const item of list) {
        const ids = pairIds(item.key);
        if (ids.includes(id)) item.key = pairKey(...ids.map((one) => (one === id ? into : one)));
      }
    }
    this.nodes.delete(id);
    this.#emit("merged", { id, into });
  }

  /** A second has passed: forget what is too old and tell those who show something. */
  tick() {
    if (!this.ready) return;
    const now = this.now;
    let before = now - this.window.seconds;
    if (this.#look !== null) {
      before = Math.max(Math.min(before, this.#look - this.window.seconds), now - PAUSED_SECONDS);
      if (this.#look < now - this.window.seconds) this.#look = now - this.window.seconds;
    }
    this.window.prune(before - this.window.step);
    for (const list of [this.queries, this.blocks]) {
      let old = 0;
      while (old < list.length && list[old].time < before) old++;
      if (old) list.splice(0, old);
    }
    this.revision++;
    this.#emit("tick");
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /* A delta may come in several messages at once: listeners hear of them together. */
  #tell(name) {
    this.#told.add(name);
    if (this.#timer) return;
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      const names = [...this.#told];
      this.#told.clear();
      for (const one of names) this.#emit(one);
    }, 40);
  }

  // -- what others ask ----------------------------------------------------------------

  /** What a node is called; plain text of any length that may hold anything. */
  label(id) {
    const node = this.nodes.get(id);
    if (!node) return id ? String(id) : "";
    return node.name || node.label || node.hostname || node.domain || node.mac || (node.ips || [])[0] || String(id);
  }

  /** Pairs with traffic, blocked packets or queries within the window of the shown moment:
   * {key, device, node, up_bytes, down_bytes, up_packets, down_packets, lastseen, blocked, queried}.
   * `lastseen`, `blocked` and `queried` are Unix times or 0. */
  edges() {
    const at = `${this.revision}`;
    if (this.#edges.at !== at) this.#edges = this.#makeEdges(at);
    return this.#edges.list;
  }

  /** The edge of a pair, in either direction, or undefined. */
  edge(device, node) {
    this.edges();
    return this.#edges.map.get(pairKey(device, node)) || this.#edges.map.get(pairKey(node, device));
  }

  #makeEdges(at) {
    const shown = this.shown;
    const live = this.#look === null;
    const since = shown - this.window.seconds;
    const sums = live ? this.window.pairs : this.window.pairsAt(shown);
    const map = new Map();
    const get = (key) => {
      let edge = map.get(key);
      if (edge) return edge;
      const [device, node] = pairIds(key);
      if (!node || !this.#visible(device) || !this.#visible(node)) return null;
      edge = { key, device, node, up_bytes: 0, down_bytes: 0, up_packets: 0, down_packets: 0 };
      Object.assign(edge, { lastseen: 0, blocked: 0, queried: 0 });
      map.set(key, edge);
      return edge;
    };
    for (const [key, sum] of sums) {
      if (!sum[0] && !sum[1] && !sum[2] && !sum[3]) continue;
      const edge = get(key);
      if (!edge) continue;
      [edge.up_bytes, edge.down_bytes, edge.up_packets, edge.down_packets] = sum;
      // A step's traffic was within its five seconds; flows know better, but only the last one.
      edge.lastseen = Math.min(sum[4] + this.window.step - 1, shown);
      if (live) edge.lastseen = this.#lastseen(key) || edge.lastseen;
    }
    for (const [name, list] of [["blocked", this.blocks], ["queried", this.queries]]) {
      for (const item of list) {
        if (item.time > shown || item.time < since) continue;
        const edge = get(item.key);
        if (edge && item.time > edge[name]) edge[name] = item.time;
      }
    }
    return { at, list: [...map.values()], map };
  }

  #visible(id) {
    const node = this.nodes.get(id);
    return Boolean(node) && !node.is_ignored;
  }

  #lastseen(pair) {
    let last = 0;
    for (const key of this.#sources.get(pair) || []) {
      const flow = this.flows.get(key);
      if (flow.lastseen > last && flow.up_packets + flow.down_packets > 0) last = flow.lastseen;
    }
    return last;
  }

  /** The flows of a pair, in the direction it is known by. */
  flowsOf(device, node) {
    const keys = this.#sources.get(pairKey(device, node)) || [];
    return [...keys].map((key) => this.flows.get(key));
  }

  /** {up, down} in bytes per second over the last five to ten seconds: of all, of a node, or of a pair. */
  rate(device, node) {
    const at = `${this.revision}`;
    if (this.#rates.at !== at) this.#rates = { at, map: this.window.ratesAt(this.shown) };
    const { map } = this.#rates;
    const key = !device && !node ? "" : device && node ? pairKey(device, node) : device || node;
    const [up, down] = map.get(key) || [0, 0];
    return { up, down };
  }

  /** Per five seconds of the last ten minutes: {times, up_bytes, down_bytes, up_packets, down_packets}. */
  series(selection = null) {
    return this.window.series(selection, this.now);
  }
}
