// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Mouse, touch and wheel on the graph: zooming and moving (d3-zoom), dragging nodes, pointing, choosing. Knows
 * where things are from the layout; what is to happen is the graph's.
 */

import { quadtree, select, zoom, zoomIdentity } from "../vendor/d3.js";

/* Pixels that a pointer may move and still have clicked. */
const STEADY = 5;

/* Pixels around a node or an edge that still hit it; fingers need more. */
const NEAR = { mouse: 5, touch: 14 };

export class Pointing {
  #drag = null;
  #tree = { version: -1, scene: null, tree: null, most: 0 };

  /** `graph` has layout, scene, transform, and takes moved(), hovered(), clicked(), opened(), dragged(), dropped(). */
  constructor(element, graph) {
    this.element = element;
    this.graph = graph;
    this.selection = select(element);
    this.zoom = zoom()
      .scaleExtent([0.08, 5])
      .clickDistance(STEADY)
      .filter((event) => this.#mayZoom(event))
      .on("zoom", (event) => graph.moved(event.transform, Boolean(event.sourceEvent)));
    this.selection.call(this.zoom).on("dblclick.zoom", null);
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    element.addEventListener("pointerup", (event) => this.#up(event));
    element.addEventListener("pointercancel", () => this.#cancel());
    element.addEventListener("pointerleave", () => graph.hovered(null, 0, 0));
    element.addEventListener("dblclick", (event) => {
      const hit = this.hit(...this.#point(event), NEAR.mouse);
      graph.opened(hit);
    });
  }

  #mayZoom(event) {
    if (event.type === "wheel") return true;
    if (event.button || event.ctrlKey) return false;
    if (event.touches && event.touches.length > 1) return true;
    const touch = event.touches ? event.touches[0] : event;
    const hit = this.hit(...this.#point(touch), event.touches ? NEAR.touch : NEAR.mouse);
    return !(hit && hit.type === "node");
  }

  #point(event) {
    const box = this.element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #down(event) {
    if (event.button || !event.isPrimary) return this.#cancel();
    const [x, y] = this.#point(event);
    const hit = this.hit(x, y, NEAR[event.pointerType] || NEAR.mouse);
    this.#drag = { id: event.pointerId, x, y, hit, moved: false, dx: 0, dy: 0 };
    if (hit && hit.type === "node") {
      const item = this.graph.layout.items.get(hit.id);
      const { k, x: left, y: top } = this.graph.transform;
      Object.assign(this.#drag, { dx: item.x * k + left - x, dy: item.y * k + top - y });
    }
    return undefined;
  }

  #move(event) {
    const [x, y] = this.#point(event);
    const drag = this.#drag;
    if (!drag) {
      if (event.pointerType === "mouse") this.graph.hovered(this.hit(x, y, NEAR.mouse), x, y);
      return;
    }
    if (drag.id !== event.pointerId) return;
    if (!drag.moved && Math.hypot(x - drag.x, y - drag.y) < STEADY) return;
    if (!drag.moved) {
      drag.moved = true;
      if (drag.hit && drag.hit.type === "node") this.element.setPointerCapture(event.pointerId);
    }
    if (drag.hit && drag.hit.type === "node") {
      const { k, x: left, y: top } = this.graph.transform;
      this.graph.dragged(drag.hit.id, (x + drag.dx - left) / k, (y + drag.dy - top) / k);
    }
  }

  #up(event) {
    const drag = this.#drag;
    this.#drag = null;
    if (!drag || drag.id !== event.pointerId) return;
    if (!drag.moved) this.graph.clicked(drag.hit);
    else if (drag.hit && drag.hit.type === "node") this.graph.dropped(drag.hit.id);
  }

  #cancel() {
    this.#drag = null;
  }

  /** What is at these pixels: {type: "node", id}, {type: "edge", edge} or null. */
  hit(x, y, near) {
    const { layout, scene, transform } = this.graph;
    const [wx, wy] = transform.invert([x, y]);
    const room = near / transform.k;
    let best = null;
    let least = Infinity;
    const found = this.#nodes();
    found.tree.visit((square, x0, y0, x1, y1) => {
      if (!square.length) {
        for (let one = square; one; one = one.next) {
          const item = one.data;
          const distance = Math.hypot(item.x - wx, item.y - wy) - Math.max(item.radius, 2 / transform.k);
          if (distance < room && distance < least && this.graph.isBright(item.id)) [best, least] = [item, distance];
        }
      }
      const far = found.most + room;
      return x0 > wx + far || x1 < wx - far || y0 > wy + far || y1 < wy - far;
    });
    if (best) return { type: "node", id: best.id };
    let edge = null;
    least = room + 2 / transform.k;
    for (const one of scene.edges) {
      if (!this.graph.isBright(one.device) || !this.graph.isBright(one.node)) continue;
      const from = layout.items.get(one.device);
      const to = layout.items.get(one.node);
      if (!from || !to) continue;
      const distance = distanceToLine(wx, wy, from, to) - one.width / 2 / transform.k;
      if (distance < least) [edge, least] = [one, distance];
    }
    return edge && { type: "edge", edge };
  }

  #nodes() {
    const { layout, scene } = this.graph;
    if (this.#tree.version !== layout.version || this.#tree.scene !== scene.edges) {
      const items = [...layout.items.values()];
      this.#tree = {
        version: layout.version,
        scene: scene.edges,
        tree: quadtree(items, (item) => item.x, (item) => item.y),
        most: items.reduce((most, item) => Math.max(most, item.radius), 1),
      };
    }
    return this.#tree;
  }

  /** Show so that this box fills the element; smoothly over so many milliseconds. */
  show(box, milliseconds = 0, most = 1.6) {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    // To the left and right there are labels.
    const room = Math.min(width * 0.1, 130);
    const k = Math.min((width - 2 * room) / (box.x1 - box.x0), (height - 20) / (box.y1 - box.y0), most);
    const at = zoomIdentity
      .translate(width / 2, height / 2)
      .scale(Math.max(k, 0.08))
      .translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2);
    const target = milliseconds ? this.selection.transition().duration(milliseconds) : this.selection.interrupt();
    target.call(this.zoom.transform, at);
  }

  /** Zoom around the middle. */
  scale(factor) {
    this.selection.call(this.zoom.scaleBy, factor);
  }

  /** Move so that this point is in view. */
  reveal(item) {
    const { k, x, y } = this.graph.transform;
    const { clientWidth: width, clientHeight: height } = this.element;
    const px = item.x * k + x;
    const py = item.y * k + y;
    const dx = Math.max(40 - px, 0) || Math.min(width - 40 - px, 0);
    const dy = Math.max(40 - py, 0) || Math.min(height - 40 - py, 0);
    if (dx || dy) this.selection.call(this.zoom.translateBy, dx / k, dy / k);
  }
}

function distanceToLine(x, y, from, to) {
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const long = dx * dx + dy * dy;
  const part = long ? Math.min(Math.max(((x - from.x) * dx + (y - from.y) * dy) / long, 0), 1) : 0;
  return Math.hypot(x - from.x - part * dx, y - from.y - part * dy);
}
