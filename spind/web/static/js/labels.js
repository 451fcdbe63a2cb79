// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which labels there is room for, and their pictures. Labels are placed for the whole graph at a scale, not for
 * what is in view, so that none appears or goes while one pans. Drawing text is slow without a GPU: each label
 * is drawn once, and copied.
 */

import { cutLabel } from "./look.js";

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
const PICTURES = 700; // kept, the least recently used goes first
const HEIGHT = 16; // pixels of a line

export class Labels {
  #pictures = new Map();
  #widths = new Map();
  #context = document.createElement("canvas").getContext("2d");

  constructor() {
    this.placed = []; // {item, text, strong, side: "below" | "above" | "left" | "right", width}
  }

  /** Forget the pictures: colours or resolution changed. */
  restyle() {
    this.#pictures.clear();
  }

  /** Find room. `items`: the layout's; `scale`: pixels per unit; `first`: ids whose label must be there. */
  place(items, scale, first) {
    const room = new Room();
    const anchors = [];
    const others = [];
    const bundles = [];
    for (const item of items.values()) {
      if (item.node.kind === "more") bundles.push(item);
      else (item.anchor ? anchors : others).push(item);
    }
    // What is drawn there needs its room, too.
    const reserve = (item) => {
      const radius = Math.max(item.radius * scale, 8);
      room.take(item.x * scale, item.y * scale, radius, radius);
    };
    anchors.forEach(reserve);
    const score = (item) => item.node.bytes * (item.node.state === "recent" ? 20 : 1) + (item.node.state === "blocked" ? 1e9 : 0);
    anchors.sort((a, b) => b.node.bytes - a.node.bytes);
    others.sort((a, b) => score(b) - score(a));
    const most = Math.round(46 * Math.max(scale, 0.25) ** 1.6 * Math.max(1, anchors.length / 12)) + 8;
    const chosen = [...items.values()].filter((item) => first.has(item.id) && item.node.kind !== "more");
    this.placed = [];
    const done = new Set();
    let count = 0;
    for (const item of [...chosen, ...anchors, null, ...others]) {
      if (!item) bundles.forEach(reserve);
      if (!item || done.has(item.id)) continue;
      done.add(item.id);
      const must = first.has(item.id) || (item.anchor && scale > 0.5);
      if (!must && !item.anchor && count >= most) continue;
      if (!must && item.anchor && scale < 0.16) continue;
      const text = cutLabel(item.node.label, item.anchor ? 24 : 28);
      if (!text) continue;
      const width = this.#width(text, item.anchor);
      const sides = item.anchor ? ["below", "above", "right", "left"] : this.#sides(item, items);
      const half = width / 2 + 2;
      const places = sides.map((side) => {
        const [x, y] = offset(item, side, width, scale);
        return { side, x: item.x * scale + x, y: item.y * scale + y };
      });
      const place = places.find(({ x, y }) => room.free(x, y, half, HEIGHT / 2)) || (must && places[0]);
      if (!place) continue;
      room.take(place.x, place.y, half, HEIGHT / 2);
      this.placed.push({ item, text, strong: item.anchor, side: place.side, width });
      if (!item.anchor) count++;
    }
  }

  /* Beside a site, away from its device, so that the edge does not run through it. */
  #sides(item, items) {
    let x = 0;
    for (const id of item.node.neighbours) x += (items.get(id)?.x ?? item.x) - item.x;
    return [x > 0 ? "left" : "right"];
  }

  #width(text, strong) {
    const key = `${strong ? 1 : 0}${text}`;
    let width = this.#widths.get(key);
    if (width === undefined) {
      if (this.#widths.size > 4000) this.#widths.clear();
      this.#context.font = font(strong);
      this.#widths.set(key, (width = Math.ceil(this.#context.measureText(text).width)));
    }
    return width;
  }

  /** Draw those that are in view. `at(item)` gives pixels, `alpha(id)` how visible it is. */
  draw(context, { at, scale, alpha, width, height, ratio, colours }) {
    for (const label of this.placed) {
      const visible = alpha(label.item.id);
      if (visible < 0.3) continue;
      const [x, y] = at(label.item);
      const [dx, dy] = offset(label.item, label.side, label.width, scale);
      const left = x + dx - label.width / 2;
      const top = y + dy - HEIGHT / 2;
      if (left > width || left + label.width < 0 || top > height || top + HEIGHT < 0) continue;
      const picture = this.#picture(label, ratio, colours);
      context.globalAlpha = visible;
      context.drawImage(picture, Math.round(left - 3), Math.round(top), picture.width / ratio, picture.height / ratio);
    }
    context.globalAlpha = 1;
  }

  #picture(label, ratio, colours) {
    const faint = !label.strong && label.item.node.state === "older";
    const key = `${label.strong ? 1 : 0}${faint ? 1 : 0}${label.text}`;
    let picture = this.#pictures.get(key);
    if (picture) {
      this.#pictures.delete(key);
      this.#pictures.set(key, picture);
      return picture;
    }
    if (this.#pictures.size >= PICTURES) this.#pictures.delete(this.#pictures.keys().next().value);
    picture = document.createElement("canvas");
    picture.width = Math.ceil((label.width + 6) * ratio);
    picture.height = Math.ceil(HEIGHT * ratio);
    const context = picture.getContext("2d");
    context.scale(ratio, ratio);
    context.font = font(label.strong);
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = 3;
    context.strokeStyle = colours.bg;
    context.globalAlpha = 0.85;
    context.strokeText(label.text, 3, HEIGHT / 2 + 0.5);
    context.globalAlpha = 1;
    context.fillStyle = faint ? colours.muted : colours.fg;
    context.fillText(label.text, 3, HEIGHT / 2 + 0.5);
    this.#pictures.set(key, picture);
    return picture;
  }
}

const font = (strong) => (strong ? `600 12.5px ${FONT}` : `11.5px ${FONT}`);

/* Of a label's middle from its node's, in pixels. */
function offset(item, side, width, scale) {
  const radius = Math.max(item.radius * scale, item.anchor ? 8 : 2);
  if (side === "below" || side === "above") return [0, (radius + 10) * (side === "above" ? -1 : 1)];
  return [(radius + 5 + width / 2) * (side === "left" ? -1 : 1), 0];
}

/* What is taken, in squares of 64 pixels. */
class Room {
  #squares = new Map();

  *#around(x, y, half, tall) {
    for (let i = Math.floor((x - half) / 64); i <= Math.floor((x + half) / 64); i++) {
      for (let j = Math.floor((y - tall) / 64); j <= Math.floor((y + tall) / 64); j++) yield `${i},${j}`;
    }
  }

  free(x, y, half, tall) {
    for (const key of this.#around(x, y, half, tall)) {
      for (const one of this.#squares.get(key) || []) {
        if (Math.abs(one[0] - x) < one[2] + half && Math.abs(one[1] - y) < one[3] + tall) return false;
      }
    }
    return true;
  }

  take(x, y, half, tall) {
    for (const key of this.#around(x, y, half, tall)) {
      if (!this.#squares.has(key)) this.#squares.set(key, []);
      this.#squares.get(key).push([x, y, half, tall]);
    }
  }
}
