// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Where nodes are. Owns positions and the simulation of forces (d3-force) that finds them. Must not draw.
 *
 * People remember places, so nothing moves without a reason: a node keeps its place for as long as it is
 * shown, and when it comes back. New nodes begin beside their neighbour, and only what is around them makes
 * room. Without new nodes nothing moves, and nothing is computed.
 */

import { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY } from "../vendor/d3.js";

/* Places of nodes that are not shown any more are remembered, so many of them. */
const REMEMBERED = 3000;

/* Below this the simulation rests. From 1, with its decay, that is some 140 rounds. */
const REST = 0.015;

export class Layout {
  /** `aspect`: width to height of where it is shown. */
  constructor(aspect = 1.6) {
    this.aspect = Math.min(Math.max(aspect, 0.5), 2.4);
    this.items = new Map(); // id -> {id, x, y, vx, vy, fx, fy, radius, pinned, node}
    this.old = new Map(); // id -> {x, y, pinned}
    this.locked = false;
    this.anchors = 0;
    this.version = 0; // grows when positions change
    this.links = forceLink([])
      .id((item) => item.id)
      .distance((link) => link.source.radius + link.target.radius + (link.own ? 26 + 3 * Math.sqrt(link.crowd) : 130))
      .strength((link) => (link.own ? 0.6 : 0.35 / Math.min(link.crowd, 12)));
    this.simulation = forceSimulation([])
      .force("links", this.links)
      .force("charge", forceManyBody().strength((item) => item.charge).theta(1).distanceMax(900))
      .force("collide", forceCollide((item) => item.radius + item.margin).iterations(1).strength(0.8))
      .force("x", forceX(0).strength((item) => this.#pull(item) / this.aspect ** 1.4))
      .force("y", forceY(0).strength((item) => this.#pull(item) * this.aspect ** 1.2))
      .alphaDecay(0.03)
      .alphaMin(REST)
      .velocityDecay(0.45)
      .stop();
    this.simulation.alpha(0);
  }

  /* Towards the middle: a small home stays together. */
  #pull(item) {
    return (item.anchor ? 0.055 : 0.004) * (1 + 6 / Math.max(this.anchors, 2));
  }

  /** Take a scene's nodes and edges. Returns whether there is something to compute. */
  update(scene) {
    const first = this.items.size === 0;
    const fresh = [];
    for (const [id, item] of this.items) {
      if (scene.nodes.has(id)) continue;
      this.old.set(id, { x: item.x, y: item.y, pinned: item.pinned });
      this.items.delete(id);
    }
    while (this.old.size > REMEMBERED) this.old.delete(this.old.keys().next().value);
    let anchors = 0;
    // Anchors first, since the others begin beside them; those with most traffic in the middle.
    const nodes = [...scene.nodes.values()].sort((a, b) => rank(a) - rank(b) || b.bytes - a.bytes);
    for (const node of nodes) {
      const anchor = rank(node) === 0;
      if (anchor) anchors++;
      let item = this.items.get(node.id);
      if (!item) {
        item = { id: node.id, vx: 0, vy: 0, pinned: false, anchor };
        this.#place(item, node, anchors);
        this.items.set(node.id, item);
        fresh.push(item);
      }
      item.node = node;
      item.radius = node.radius;
      item.margin = anchor ? 36 : node.kind === "more" ? 7 : 9;
      item.charge = anchor ? -700 - 16 * Math.min(node.neighbours.size, 60) : node.kind === "more" ? -90 : -60;
    }
    this.anchors = anchors;
    this.#link(scene);
    if (fresh.length) this.#stir(fresh, first);
    return fresh.length > 0;
  }

  #place(item, node, index) {
    const before = this.old.get(item.id);
    if (before) {
      this.old.delete(item.id);
      Object.assign(item, { x: before.x, y: before.y, pinned: before.pinned });
      return;
    }
    const around = [...node.neighbours].map((id) => this.items.get(id)).filter(Boolean);
    const turn = hash(item.id);
    if (item.anchor || !around.length) {
      // A sunflower's spiral: even, and the same each time.
      const distance = 170 * Math.sqrt(index - 0.5);
      const angle = index * 2.399963;
      Object.assign(item, { x: Math.sqrt(this.aspect) * distance * Math.cos(angle), y: (distance * Math.sin(angle)) / Math.sqrt(this.aspect) });
      return;
    }
    const distance = around.length === 1 ? around[0].radius + 40 + 30 * hash(`${item.id}r`) : 20;
    item.x = around.reduce((sum, one) => sum + one.x, 0) / around.length + distance * Math.cos(turn * 6.2832);
    item.y = around.reduce((sum, one) => sum + one.y, 0) / around.length + distance * Math.sin(turn * 6.2832);
  }

  #link(scene) {
    const links = [];
    for (const edge of scene.edges) {
      const node = scene.nodes.get(edge.node);
      const device = scene.nodes.get(edge.device);
      const own = node.neighbours.size === 1 && rank(node) > 0;
      links.push({ source: edge.device, target: edge.node, own, crowd: own ? device.neighbours.size : node.neighbours.size });
    }
    this.simulation.nodes([...this.items.values()]);
    this.links.links(links);
  }

  /* Compute anew. Unless it is the first time, only what is near the new ones may move. */
  #stir(fresh, first) {
    const free = new Set(fresh.map((item) => item.id));
    const many = fresh.length > 40 || fresh.filter((item) => item.anchor).length > 2;
    for (const item of fresh) {
      for (const id of item.node.neighbours) {
        const near = this.items.get(id);
        if (!near) continue;
        // Brothers and sisters make room. A device moves for another device only.
        for (const other of near.node.neighbours) {
          const one = this.items.get(other);
          if (one && !one.anchor && one.node.neighbours.size === 1) free.add(other);
        }
      }
    }
    for (const item of this.items.values()) {
      const held = item.pinned || !(first || (many && !item.anchor) || free.has(item.id));
      item.fx = held ? item.x : null;
      item.fy = held ? item.y : null;
    }
    this.simulation.alpha(first ? 1 : Math.max(this.simulation.alpha(), 0.25));
  }

  /** Is there something to compute? */
  get moving() {
    return !this.locked && this.simulation.alpha() >= REST;
  }

  /** Compute for so many milliseconds at most, one round at least. */
  advance(milliseconds) {
    if (!this.moving) return;
    const end = performance.now() + milliseconds;
    do this.simulation.tick();
    while (this.moving && performance.now() < end);
    this.version++;
    if (!this.moving) this.#settle();
  }

  #settle() {
    for (const item of this.items.values()) {
      item.vx = item.vy = 0;
      item.fx = item.pinned ? item.x : null;
      item.fy = item.pinned ? item.y : null;
    }
  }

  /** Nothing moves any more, but what people drag. */
  lock(on) {
    this.locked = on;
    if (on) {
      this.simulation.alpha(0);
      this.#settle();
    }
  }

  /** Put a node elsewhere, for good; what belongs to a device only goes along. */
  drag(id, x, y) {
    const item = this.items.get(id);
    if (!item) return;
    const dx = x - item.x;
    const dy = y - item.y;
    const along = [item];
    if (item.anchor) {
      for (const other of item.node.neighbours) {
        const one = this.items.get(other);
        if (one && !one.anchor && !one.pinned && one.node.neighbours.size === 1) along.push(one);
      }
    }
    for (const one of along) {
      one.x += dx;
      one.y += dy;
      if (one.fx !== null && one.fx !== undefined) [one.fx, one.fy] = [one.x, one.y];
    }
    item.pinned = true;
    [item.fx, item.fy] = [item.x, item.y];
    this.version++;
  }

  /** Let go of a node that was dragged. */
  unpin(id) {
    const item = this.items.get(id);
    if (!item) return;
    item.pinned = false;
    item.fx = item.fy = null;
  }

  /** {x0, y0, x1, y1} around these ids, or around all. */
  bounds(ids = null) {
    const box = { x0: Infinity, y0: Infinity, x1: -Infinity, y1: -Infinity };
    for (const item of this.items.values()) {
      if (ids && !ids.has(item.id)) continue;
      const room = item.radius + (item.anchor ? 26 : 12);
      box.x0 = Math.min(box.x0, item.x - room);
      box.x1 = Math.max(box.x1, item.x + room);
      box.y0 = Math.min(box.y0, item.y - room);
      box.y1 = Math.max(box.y1, item.y + room);
    }
    return box.x0 < box.x1 ? box : { x0: -200, y0: -150, x1: 200, y1: 150 };
  }
}

const rank = (node) => (node.kind === "device" || node.kind === "gateway" ? 0 : 1);

/* A number from 0 to 1 that looks random and is the same each time (FNV-1a). */
function hash(value) {
  let state = 2166136261;
  for (const letter of String(value)) state = Math.imul(state ^ letter.codePointAt(0), 16777619);
  return ((state ^ (state >>> 13)) >>> 0) / 4294967296;
}
