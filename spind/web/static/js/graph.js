// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The living graph: brings the home's scene, its layout, the painter and the pointer together, and is what the
 * page talks to. Owns the graph's elements, what is chosen, focused and expanded, and when a frame is drawn.
 *
 * Rests when nothing changes: a frame is asked for only when there is something to draw.
 *
 * Events: "select" (detail: {type: "node", id} | {type: "edge", device, node} | null), "open" (the same, by Enter or
 * double click), "focus" (detail: id or null).
 */

import { zoomIdentity } from "../vendor/d3.js";
import { rate } from "./format.js";
import { say } from "./graph_words.js";
import { Layout } from "./layout.js";
import { Life } from "./life.js";
import { cutLabel, palette, STATES } from "./look.js";
import { Painter } from "./paint.js";
import { Pointing } from "./pointing.js";
import { NO_FILTER, Scene, bundleDevice } from "./scene.js";

/* Milliseconds of a frame that the layout may take. */
const LAYOUT_SHARE = 9;

/* Milliseconds between frames of what merely decorates: 30 a second look smooth and cost half. */
const CALM = 30;

/* Milliseconds that the view must be at rest before things move along edges again. */
const PATIENCE = 150;

/* Milliseconds after which labels find new places while the layout moves. */
const RELABEL = 250;

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Graph extends EventTarget {
  #frame = 0;
  #dirty = false; // the picture is out of date
  #stale = true; // the scene is
  #labelled = { scale: 0, time: 0 };
  #lifeTime = 0;
  #moved = 0; // when a person moved the view last
  #filter = { ...NO_FILTER };
  #focus = null;
  #expanded = new Set();
  #cursor = null;
  #hover = null;
  #follow = true; // the view shows everything until somebody moves it

  constructor(element, home) {
    super();
    this.element = element;
    this.home = home;
    this.scene = new Scene();
    this.layout = new Layout(element.clientWidth / Math.max(element.clientHeight, 1) || 1.6);
    this.selection = null;
    this.transform = zoomIdentity;
    this.#build();
    this.painter = new Painter(this.canvas);
    this.life = new Life(this.above);
    this.pointing = new Pointing(element, this);
    this.#listen();
    this.restyle();
    this.#resize();
  }

  #build() {
    const { element } = this;
    if (getComputedStyle(element).position === "static") element.style.position = "relative";
    element.style.overflow = "hidden";
    element.style.touchAction = "none";
    const make = (name, styles) => {
      const one = document.createElement(name);
      Object.assign(one.style, styles);
      element.append(one);
      return one;
    };
    const full = { position: "absolute", inset: "0", width: "100%", height: "100%" };
    this.canvas = make("canvas", full);
    this.above = make("canvas", { ...full, pointerEvents: "none" });
    this.tip = make("div", { position: "absolute", left: "0", top: "0", pointerEvents: "none", visibility: "hidden" });
    this.tip.className = "graph-tip";
    this.tip.setAttribute("aria-hidden", "true");
    Object.assign(this.tip.style, {
      background: "var(--panel)", color: "var(--fg)", border: "1px solid var(--line)", borderRadius: "8px",
      padding: "6px 10px", font: "13px/1.4 system-ui, sans-serif", maxWidth: "18rem", overflowWrap: "anywhere",
      boxShadow: "0 4px 16px rgb(0 0 0 / 0.14)", whiteSpace: "pre-line", unicodeBidi: "plaintext",
    });
    this.spoken = make("div", {
      position: "absolute", width: "1px", height: "1px", overflow: "hidden", clipPath: "inset(50%)", whiteSpace: "nowrap",
    });
    this.spoken.setAttribute("aria-live", "polite");
    for (const canvas of [this.canvas, this.above]) canvas.setAttribute("aria-hidden", "true");
    element.tabIndex = 0;
    element.setAttribute("role", "application");
    this.#name();
  }

  #name() {
    this.element.setAttribute("aria-label", say("graph"));
    this.element.setAttribute("aria-description", say("graph.help"));
  }

  #listen() {
    const { home, element } = this;
    home.addEventListener("tick", () => this.refresh(true));
    home.addEventListener("reset", () => this.refresh());
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("blur", () => this.#setCursor(null));
    new ResizeObserver(() => this.#resize()).observe(element);
    const restyle = () => requestAnimationFrame(() => this.restyle());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
    new MutationObserver(restyle).observe(document.documentElement, { attributes: true });
    document.addEventListener("visibilitychange", () => !document.hidden && this.refresh());
    addEventListener("load", restyle);
  }

  // -- what the page asks -------------------------------------------------------------

  /** Choose a node, an edge or nothing. Does not tell the page, which knows. */
  select(selection) {
    this.selection = selection || null;
    this.refresh();
    this.#speak();
  }

  get filter() {
    return this.#filter;
  }

  set filter(filter) {
    this.#filter = { ...NO_FILTER, ...filter };
    this.refresh();
    this.#follow ||= Boolean(this.#filter.text || this.#filter.device);
  }

  /** Show a node and its neighbours, and the others faintly; null shows all again. */
  focus(id) {
    this.#focus = id ?? null;
    this.refresh();
    if (this.#focus === null || !this.scene.nodes.has(id)) this.fit();
    else this.#showAround(id);
    this.dispatchEvent(new CustomEvent("focus", { detail: this.#focus }));
  }

  get focused() {
    return this.#focus;
  }

  /** Let nothing move any more. */
  lock(on) {
    this.layout.lock(Boolean(on));
    this.#draw();
  }

  get locked() {
    return this.layout.locked;
  }

  /** Show everything. */
  fit() {
    this.#follow = true;
    this.pointing.show(this.layout.bounds(), still.matches ? 0 : 350);
  }

  /** Zoom by this factor, for buttons. */
  zoom(factor) {
    this.pointing.scale(factor);
  }

  /** What is on the screen, for tests: positions in pixels of the page. */
  describe() {
    this.#update();
    const box = this.element.getBoundingClientRect();
    const { k, x, y } = this.transform;
    const at = (item) => [box.left + scrollX + item.x * k + x, box.top + scrollY + item.y * k + y];
    const nodes = [...this.scene.nodes.values()].map((node) => {
      const [px, py] = at(this.layout.items.get(node.id));
      const colour = node.state === "device" ? "grey" : STATES[node.state].colour;
      return { id: node.id, label: node.label, kind: node.kind, state: node.state, colour, x: px, y: py, rule: node.rule };
    });
    const edges = this.scene.edges.map((edge) => {
      const [x1, y1] = at(this.layout.items.get(edge.device));
      const [x2, y2] = at(this.layout.items.get(edge.node));
      const clear = [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8].find((part) => {
        const point = [x1 + (x2 - x1) * part - box.left - scrollX, y1 + (y2 - y1) * part - box.top - scrollY];
        const hit = this.pointing.hit(...point, 5);
        return hit && hit.type === "edge" && hit.edge === edge;
      });
      const part = clear ?? 0.5;
      const { device, node, state, colour, width, direction } = edge;
      return { device, node, state, colour, width, direction, x: x1 + (x2 - x1) * part, y: y1 + (y2 - y1) * part };
    });
    return { nodes, edges, moving: this.layout.moving, bright: this.#bright() ? [...this.#bright()] : null };
  }

  /** Colours of the style sheet changed, or the language. */
  restyle() {
    this.colours = palette(this.element);
    this.painter.restyle(this.colours);
    this.#name();
    this.#draw();
  }

  // -- frames -------------------------------------------------------------------------

  /** The home changed; `tick` when a second passed. */
  refresh(tick = false) {
    this.#stale = true;
    if (document.hidden) return;
    this.#update();
    if (tick) this.life.feed(this.home.edges(), this.scene, performance.now(), this.home.look === null);
    this.#draw();
  }

  #update() {
    if (!this.#stale) return;
    this.#stale = false;
    const first = this.layout.items.size === 0;
    const keep = new Set([this.#cursor, this.#focus]);
    if (this.selection) {
      for (const id of [this.selection.id, this.selection.device, this.selection.node]) keep.add(id);
    }
    const room = Math.min(Math.max(Math.sqrt((this.painter.width * this.painter.height) / 1e6), 0.4), 1.4);
    this.scene.build(this.home, { filter: this.#filter, focus: this.#focus, expanded: this.#expanded, keep, room });
    const fresh = this.layout.update(this.scene);
    if (fresh && (first || still.matches)) this.layout.advance(still.matches ? 400 : 120);
    if (first && this.layout.items.size) this.pointing.show(this.layout.bounds());
    this.#labelled.time = 0;
  }

  #draw() {
    this.#dirty = true;
    this.#ask();
  }

  #ask() {
    if (!this.#frame) this.#frame = requestAnimationFrame((time) => this.#paint(time));
  }

  #paint(time) {
    this.#frame = 0;
    // The layout and what merely decorates wait while somebody moves the view.
    const busy = performance.now() - this.#moved < PATIENCE;
    if (this.layout.moving && !busy) {
      this.layout.advance(LAYOUT_SHARE);
      if (this.#follow && !this.#focus) this.pointing.show(this.layout.bounds());
      this.#dirty = true;
    }
    const view = this.#view();
    if (this.#dirty) {
      this.#dirty = false;
      this.#label(time);
      this.painter.draw(view);
      this.#lifeTime = 0;
    }
    this.above.style.visibility = busy || !this.life.alive ? "hidden" : "visible";
    if (this.life.alive && !busy && time - this.#lifeTime > CALM) {
      this.#lifeTime = time;
      this.life.draw(view, performance.now(), this.colours);
    }
    if (this.layout.moving || this.life.alive || this.#dirty) this.#ask();
  }

  #label(time) {
    const { k } = this.transform;
    const moving = this.layout.moving;
    if (k === this.#labelled.scale && this.#labelled.time && !moving) return;
    if (this.#labelled.time && time - this.#labelled.time < RELABEL && moving) return;
    this.#labelled = { scale: k, time };
    const first = new Set([this.#cursor, this.#hover, ...this.#chosen()]);
    if (this.#focus !== null) {
      const around = this.scene.nodes.get(this.#focus);
      if (around && around.neighbours.size <= 40) for (const id of around.neighbours) first.add(id);
    }
    this.painter.labels.place(this.#visibleItems(), k, first);
  }

  /* Only those in focus have labels. */
  #visibleItems() {
    const bright = this.#bright();
    if (!bright) return this.layout.items;
    return new Map([...this.layout.items].filter(([id]) => bright.has(id)));
  }

  #view() {
    return {
      scene: this.scene, layout: this.layout, transform: this.transform, bright: this.#bright(),
      selected: this.#chosen(), hover: this.#hover, cursor: this.#cursor, marked: this.#marked(),
    };
  }

  /* The nodes whose edges stand out: the one pointed at, else the one chosen. */
  #marked() {
    const { nodes } = this.scene;
    const candidates = [this.#hover, this.#cursor, this.selection?.type === "node" ? this.selection.id : null];
    return new Set(candidates.filter((id) => nodes.has(id)).slice(0, 1));
  }

  #bright() {
    const node = this.#focus === null ? null : this.scene.nodes.get(this.#focus);
    return node ? new Set([node.id, ...node.neighbours]) : null;
  }

  /** Is a node in focus, or nothing? */
  isBright(id) {
    if (this.#focus === null || id === this.#focus) return true;
    const node = this.scene.nodes.get(this.#focus);
    return !node || node.neighbours.has(id);
  }

  /* Ids and keys of what is selected, as the scene has them. */
  #chosen() {
    const { selection } = this;
    if (!selection) return new Set();
    if (selection.type === "node") return new Set([selection.id]);
    const { device, node } = selection;
    return new Set([`${device}:${node}`, `${node}:${device}`]);
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    if (width === this.painter.width && height === this.painter.height && ratio === this.painter.ratio) return;
    this.painter.resize(width, height, ratio);
    this.life.resize(width, height, ratio);
    if (this.#follow && this.layout.items.size) this.pointing.show(this.layout.bounds());
    this.#draw();
  }

  // -- what the pointer does ----------------------------------------------------------

  /** The view moved; `byHand`: by a person. */
  moved(transform, byHand) {
    this.transform = transform;
    if (byHand) {
      this.#follow = false;
      this.#moved = performance.now();
    }
    this.tip.style.visibility = "hidden";
    this.#draw();
  }

  hovered(hit, x, y) {
    const next = hit ? (hit.type === "node" ? hit.id : hit.edge.key) : null;
    this.element.style.cursor = hit ? "pointer" : "";
    if (next !== this.#hover) {
      this.#hover = next;
      this.#labelled.time = 0;
      this.#draw();
    }
    this.#tip(hit, x, y);
  }

  clicked(hit) {
    const device = hit ? bundleDevice(hit.type === "node" ? hit.id : hit.edge.node) : 0;
    if (device) return this.#expand(device);
    return this.#choose(asSelection(hit));
  }

  /** A double click: on a device or site its focus, elsewhere everything. */
  opened(hit) {
    if (hit && hit.type === "edge") return;
    if (!hit) {
      this.focus(null);
      return;
    }
    if (bundleDevice(hit.id)) return;
    this.focus(this.#focus === hit.id ? null : hit.id);
    this.dispatchEvent(new CustomEvent("open", { detail: asSelection(hit) }));
  }

  dragged(id, x, y) {
    this.#follow = false;
    this.layout.drag(id, x, y);
    this.#draw();
  }

  dropped() {
    this.#labelled.time = 0;
    this.#draw();
  }

  #choose(selection) {
    this.selection = selection;
    this.refresh();
    this.dispatchEvent(new CustomEvent("select", { detail: selection }));
    this.#speak();
  }

  #expand(device) {
    if (this.#expanded.has(device)) this.#expanded.delete(device);
    else this.#expanded.add(device);
    this.refresh();
    this.#speak();
  }

  #showAround(id) {
    const around = new Set([id, ...this.scene.nodes.get(id).neighbours]);
    const finish = () => this.pointing.show(this.layout.bounds(around), still.matches ? 0 : 350);
    this.#follow = false;
    finish();
    // New nodes were set free around it: once more when they rest.
    if (this.layout.moving) setTimeout(() => this.#focus === id && finish(), 900);
  }

  // -- what is said -------------------------------------------------------------------

  #describe(hit) {
    if (!hit) return [say("nothing")];
    if (hit.type === "edge") {
      const { device, node } = hit.edge;
      const bundle = hit.edge.bundle;
      const name = bundle ? say("more", bundle.members.length) : this.#label28(node);
      const { up, down } = bundle ? { up: 0, down: 0 } : this.home.rate(device, node);
      return [say("edge", this.#label28(device), name), say(`state.${hit.edge.state}`), this.#rates(up, down)];
    }
    const node = this.scene.nodes.get(hit.id);
    if (!node) return [say("nothing")];
    if (node.kind === "more") {
      return [say("more.of", node.members.length, this.#label28(bundleDevice(node.id))), say("opened")];
    }
    const { up, down } = this.home.rate(node.id);
    const count = node.neighbours.size;
    const links = count === 1 ? say("connection") : say("connections", count);
    return [this.#label28(node.id), say(`kind.${node.kind}`), say(`state.${node.rule || node.state}`) || "", links, this.#rates(up, down)];
  }

  #label28(id) {
    return cutLabel(this.home.label(id), 40);
  }

  #rates(up, down) {
    return up + down < 1 ? "" : `↑ ${rate(up)}  ↓ ${rate(down)}`;
  }

  #tip(hit, x, y) {
    const { tip } = this;
    if (!hit) {
      tip.style.visibility = "hidden";
      return;
    }
    const [title, ...rest] = this.#describe(hit).filter(Boolean);
    const rates = rest.filter((one) => one.startsWith("↑"));
    const words = rest.filter((one) => !one.startsWith("↑")).join(" · ");
    tip.textContent = [title, words, ...rates].filter(Boolean).join("\n");
    tip.style.visibility = "visible";
    const { clientWidth: width, clientHeight: height } = this.element;
    const left = x + 16 + tip.offsetWidth > width ? x - tip.offsetWidth - 12 : x + 16;
    const top = Math.min(y + 14, height - tip.offsetHeight - 8);
    tip.style.transform = `translate(${Math.max(Math.round(left), 4)}px, ${Math.max(Math.round(top), 4)}px)`;
  }

  #speak() {
    let hit = this.#cursor === null ? null : { type: "node", id: this.#cursor };
    if (!hit && this.selection) {
      const { type, id, device, node } = this.selection;
      const edge = this.scene.edges.find((one) => one.device === device && one.node === node);
      if (type === "node") hit = { type, id };
      else if (edge) hit = { type, edge };
    }
    const text = this.#describe(hit).filter(Boolean).join(", ");
    if (this.spoken.textContent !== text) this.spoken.textContent = text;
  }

  // -- keys ---------------------------------------------------------------------------

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (ways[event.key]) this.#walk(...ways[event.key]);
    else if (event.key === "+" || event.key === "=") this.pointing.scale(1.25);
    else if (event.key === "-") this.pointing.scale(0.8);
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter" || event.key === " ") this.#enter();
    else if (event.key === "Escape") this.#leave();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #enter() {
    if (this.#cursor === null) return this.#walk(0, 0);
    const hit = { type: "node", id: this.#cursor };
    this.clicked(hit);
    if (!bundleDevice(hit.id)) this.dispatchEvent(new CustomEvent("open", { detail: asSelection(hit) }));
    return undefined;
  }

  #leave() {
    if (this.#focus !== null) this.focus(null);
    else if (this.selection) this.#choose(null);
    else this.#setCursor(null);
  }

  /* To the nearest node in this direction; neighbours are preferred. */
  #walk(dx, dy) {
    const { items } = this.layout;
    const from = items.get(this.#cursor) || items.get(this.selection?.id);
    if (!from) {
      const [first] = [...items.values()].filter((item) => item.anchor).sort((a, b) => b.node.bytes - a.node.bytes);
      if (first) this.#setCursor(first.id);
      return;
    }
    let best = null;
    let least = Infinity;
    for (const item of items.values()) {
      if (item === from || !this.isBright(item.id)) continue;
      const x = item.x - from.x;
      const y = item.y - from.y;
      const along = x * dx + y * dy;
      const beside = Math.abs(x * dy) + Math.abs(y * dx);
      if (along <= 0 || beside > 2 * along) continue;
      const cost = (along + 2 * beside) * (from.node.neighbours.has(item.id) ? 1 : 2.5);
      if (cost < least) [best, least] = [item, cost];
    }
    if (best) this.#setCursor(best.id);
  }

  #setCursor(id) {
    if (id === this.#cursor) return;
    this.#cursor = id;
    this.#labelled.time = 0;
    if (id !== null) {
      this.pointing.reveal(this.layout.items.get(id));
      this.#speak();
    }
    this.#draw();
  }
}

function asSelection(hit) {
  if (!hit) return null;
  if (hit.type === "node") return { type: "node", id: hit.id };
  return { type: "edge", device: hit.edge.device, node: hit.edge.node };
}
