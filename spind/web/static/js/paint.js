// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Draws the graph on a canvas: edges, then nodes, then labels. Owns the canvas and the pictures of nodes. Decides
 * nothing: what there is comes from the scene, where it is from the layout.
 */

import { icon, iconName, initial } from "./icons.js";
import { Labels } from "./labels.js";
import { STATES } from "./look.js";

/* Edges in this order, so that what matters lies on top. */
const ORDER = ["older", "query", "recent", "blocked"];

const PICTURES = 600;

/* Radius in pixels that a node has at least, however far away. */
const LEAST = { device: 8, gateway: 8, site: 1.8, more: 8 };

export class Painter {
  #pictures = new Map();

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.labels = new Labels();
    this.colours = {};
    this.width = this.height = 1;
    this.ratio = 1;
  }

  /** Colours as of `palette`. */
  restyle(colours) {
    this.colours = colours;
    this.#pictures.clear();
    this.labels.restyle();
  }

  resize(width, height, ratio) {
    if (ratio !== this.ratio) {
      this.#pictures.clear();
      this.labels.restyle();
    }
    Object.assign(this, { width, height, ratio });
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
  }

  /**
   * view: {scene, layout, transform: {k, x, y}, bright: null or Set of ids, selected: Set of ids and edge keys,
   * hover: id or edge key, cursor: id, marked: Set of ids whose edges stand out}.
   */
  draw(view) {
    const { context, ratio, width, height } = this;
    const { k, x, y } = view.transform;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const at = (item) => [item.x * k + x, item.y * k + y];
    const alpha = (id) => (!view.bright || view.bright.has(id) ? 1 : 0.12);
    this.#edges(view, at);
    for (const kind of ["site", "more", "gateway", "device"]) {
      for (const item of view.layout.items.values()) {
        if (item.node.kind === kind) this.#node(view, item, at, alpha(item.id));
      }
    }
    context.globalAlpha = 1;
    this.labels.draw(context, { at, scale: k, alpha, width, height, ratio, colours: this.colours });
  }

  #edges(view, at) {
    const { context, width, height } = this;
    const { k } = view.transform;
    const thin = Math.min(Math.max(k, 0.55), 1.5);
    const groups = new Map();
    const marked = [];
    for (const edge of view.scene.edges) {
      const source = view.layout.items.get(edge.device);
      const target = view.layout.items.get(edge.node);
      if (!source || !target) continue;
      const [x1, y1] = at(source);
      const [x2, y2] = at(target);
      if (Math.max(x1, x2) < 0 || Math.min(x1, x2) > width || Math.max(y1, y2) < 0 || Math.min(y1, y2) > height) continue;
      const bright = !view.bright || (view.bright.has(edge.device) && view.bright.has(edge.node));
      const line = { edge, x1, y1, x2, y2, r1: source.radius * k, r2: target.radius * k };
      if (view.selected.has(edge.key) || view.hover === edge.key) marked.push(line);
      const strength = bright ? visibility(edge, view) : 0.05;
      const key = `${edge.state}|${Math.round(edge.width * thin * 2) / 2}|${strength}`;
      if (!groups.has(key)) groups.set(key, { edge, strength, width: edge.width * thin, lines: [] });
      groups.get(key).lines.push(line);
    }
    context.lineCap = "round";
    for (const line of marked) this.#halo(line, thin, view);
    const sorted = [...groups.values()].sort((a, b) => ORDER.indexOf(a.edge.state) - ORDER.indexOf(b.edge.state));
    for (const group of sorted) {
      const state = STATES[group.edge.state];
      context.globalAlpha = group.strength;
      context.strokeStyle = context.fillStyle = this.colours[group.edge.state];
      context.lineWidth = Math.max(group.width, group.edge.state === "query" ? 2 : 0.6);
      context.setLineDash(state.dash);
      context.beginPath();
      for (const { x1, y1, x2, y2 } of group.lines) {
        context.moveTo(x1, y1);
        context.lineTo(x2, y2);
      }
      context.stroke();
      if (k > 0.42 && group.edge.state !== "query" && group.strength > 0.1) this.#arrows(group, thin);
    }
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  #halo(line, thin, view) {
    const { context } = this;
    context.globalAlpha = view.selected.has(line.edge.key) ? 0.35 : 0.2;
    context.strokeStyle = this.colours.accent;
    context.setLineDash([]);
    context.lineWidth = line.edge.width * thin + 8;
    context.beginPath();
    context.moveTo(line.x1, line.y1);
    context.lineTo(line.x2, line.y2);
    context.stroke();
  }

  /* Heads of arrows where most bytes arrive: at the site, at the device, or at both. */
  #arrows(group, thin) {
    const { context } = this;
    context.globalAlpha = Math.min(group.strength * 1.5, 1);
    context.beginPath();
    for (const { edge, x1, y1, x2, y2, r1, r2 } of group.lines) {
      const length = Math.hypot(x2 - x1, y2 - y1);
      const size = (3.5 + 1.1 * edge.width) * thin;
      if (length - r1 - r2 < 2.5 * size) continue;
      const ux = (x2 - x1) / length;
      const uy = (y2 - y1) / length;
      if (edge.direction !== "down") head(context, x2 - ux * (r2 + 1.5), y2 - uy * (r2 + 1.5), ux, uy, size);
      if (edge.direction !== "up") head(context, x1 + ux * (r1 + 1.5), y1 + uy * (r1 + 1.5), -ux, -uy, size);
    }
    context.fill();
  }

  #node(view, item, at, alpha) {
    const { context, width, height, colours } = this;
    const [x, y] = at(item);
    const radius = Math.max(item.radius * view.transform.k, LEAST[item.node.kind]);
    const room = radius + 8;
    if (x < -room || y < -room || x > width + room || y > height + room) return;
    const picture = this.#picture(item.node, Math.round(radius * 2) / 2);
    context.globalAlpha = item.node.ignored ? alpha * 0.45 : alpha;
    const side = picture.width / this.ratio;
    context.drawImage(picture, x - side / 2, y - side / 2, side, side);
    if (item.pinned && radius > 4) {
      context.fillStyle = colours.muted;
      context.beginPath();
      context.arc(x + radius * 0.8, y - radius * 0.8, 2.2, 0, 7);
      context.fill();
    }
    const chosen = view.selected.has(item.id);
    if (!chosen && view.hover !== item.id && view.cursor !== item.id) return;
    context.globalAlpha = chosen || view.cursor === item.id ? 1 : 0.5;
    context.strokeStyle = view.cursor === item.id && !chosen ? colours.fg : colours.accent;
    context.lineWidth = chosen ? 3 : 2;
    context.setLineDash(view.cursor === item.id && !chosen ? [3, 3] : []);
    context.beginPath();
    context.arc(x, y, radius + 4, 0, 7);
    context.stroke();
    context.setLineDash([]);
  }

  #picture(node, radius) {
    const anchor = node.kind === "device" || node.kind === "gateway";
    const sign = node.kind === "more" ? node.members.length : anchor ? iconName(node.label, node.kind) || initial(node.label) : "";
    const key = `${node.kind}|${node.state}|${node.rule}|${radius}|${sign}`;
    let picture = this.#pictures.get(key);
    if (picture) return picture;
    if (this.#pictures.size >= PICTURES) this.#pictures.delete(this.#pictures.keys().next().value);
    picture = document.createElement("canvas");
    const side = Math.ceil((radius + 5) * 2);
    picture.width = picture.height = Math.ceil(side * this.ratio);
    const context = picture.getContext("2d");
    context.scale(this.ratio, this.ratio);
    context.translate(picture.width / this.ratio / 2, picture.height / this.ratio / 2);
    if (anchor) this.#device(context, node, radius, sign);
    else if (node.kind === "more") this.#bundle(context, node, radius, sign);
    else this.#site(context, node, radius);
    this.#pictures.set(key, picture);
    return picture;
  }

  #device(context, node, radius, sign) {
    const { colours } = this;
    disc(context, radius + 1.5, colours.bg);
    disc(context, radius, node.rule === "blocked" ? colours.blocked : colours.device);
    if (radius > 7) {
      context.strokeStyle = context.fillStyle = colours.bg;
      const path = icon(sign);
      if (path) {
        const scale = (radius * 1.16) / 24;
        context.save();
        context.scale(scale, scale);
        context.translate(-12, -12);
        context.lineWidth = 1.9;
        context.lineCap = context.lineJoin = "round";
        context.stroke(path);
        context.restore();
      } else {
        context.font = `600 ${Math.round(radius)}px system-ui, sans-serif`;
        context.textAlign = "center";
        context.textBaseline = "middle";
        context.fillText(sign, 0, radius * 0.06);
      }
    }
    if (node.rule) this.#badge(context, node, radius);
  }

  #badge(context, node, radius) {
    const { colours } = this;
    const size = Math.max(radius * 0.34, 3);
    context.translate(radius * 0.72, radius * 0.72);
    disc(context, size + 1.5, colours.bg);
    disc(context, size, node.rule === "blocked" ? colours.blocked : colours.recent);
    context.strokeStyle = colours.bg;
    context.lineWidth = Math.max(size * 0.35, 1);
    context.beginPath();
    if (node.rule === "blocked") {
      context.moveTo(-size * 0.55, 0);
      context.lineTo(size * 0.55, 0);
    } else {
      context.moveTo(-size * 0.5, 0);
      context.lineTo(-size * 0.1, size * 0.4);
      context.lineTo(size * 0.5, -size * 0.4);
    }
    context.stroke();
  }

  #bundle(context, node, radius, sign) {
    const { colours } = this;
    disc(context, radius, colours.panel);
    ring(context, radius - 0.75, colours[node.state], 1.5, [3, 3]);
    if (radius < 6) return;
    context.fillStyle = colours.fg;
    context.font = `600 ${Math.max(Math.round(radius * 0.78), 8)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(`+${sign}`, 0, 0.5);
  }

  #site(context, node, radius) {
    const { colours } = this;
    const colour = colours[node.state];
    const mark = STATES[node.state].mark;
    disc(context, radius + 1, colours.bg);
    if (mark === "disc") disc(context, radius, colour);
    else if (mark === "hollow") {
      disc(context, radius, colour, 0.22);
      ring(context, radius - 0.7, colour, Math.min(1.5, radius / 2));
    } else if (mark === "ring") ring(context, radius - 0.8, colour, 1.8, [2, 2]);
    else this.#cross(context, radius + 1, colour);
    if (node.rule && radius > 3.5) this.#badge(context, node, radius);
  }

  #cross(context, radius, colour) {
    disc(context, radius, colour);
    const arm = radius * 0.45;
    context.strokeStyle = this.colours.bg;
    context.lineWidth = Math.max(radius * 0.3, 1);
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(-arm, -arm);
    context.lineTo(arm, arm);
    context.moveTo(arm, -arm);
    context.lineTo(-arm, arm);
    context.stroke();
  }
}

/* How visible an edge is. Older ones fade in three steps, so that few different strokes are needed. While a node is
 * pointed at or chosen, its edges stand out. */
function visibility(edge, view) {
  const { marked } = view;
  if (marked.has(edge.device) || marked.has(edge.node)) return edge.state === "older" ? 0.75 : 1;
  const others = marked.size ? 0.5 : 1;
  if (edge.state === "recent") return (edge.shared ? 0.5 : 0.75) * others;
  if (edge.state !== "older") return 0.8 * others;
  return (edge.age < 120 ? 0.5 : edge.age < 330 ? 0.36 : 0.25) * others;
}

function disc(context, radius, colour, alpha = 1) {
  if (radius <= 0) return;
  context.globalAlpha = alpha;
  context.fillStyle = colour;
  context.beginPath();
  context.arc(0, 0, radius, 0, 7);
  context.fill();
  context.globalAlpha = 1;
}

function ring(context, radius, colour, width, dash = []) {
  if (radius <= 0) return;
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.beginPath();
  context.arc(0, 0, radius, 0, 6.2832);
  context.stroke();
  context.setLineDash([]);
}

function head(context, x, y, ux, uy, size) {
  const half = size * 0.5;
  context.moveTo(x, y);
  context.lineTo(x - ux * size - uy * half, y - uy * size + ux * half);
  context.lineTo(x - ux * size + uy * half, y - uy * size - ux * half);
  context.closePath();
}
