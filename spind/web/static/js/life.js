// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What moves on the graph while traffic flows: drops along the edges that carried something in the last second, in
 * its direction, and a soft pulse of their devices. On a canvas of its own above the graph, so that a frame costs
 * little. Rests when nothing flows, and does nothing for people who want less motion.
 */

/* At most so many drops at a time; those of the largest rates come first. */
const DROPS = 140;

/* Milliseconds of a drop's way, and of a pulse. */
const WAY = 1300;

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Life {
  #drops = []; // {edge, up, begin, size}
  #pulses = new Map(); // device -> {begin, strength}
  #seen = new Map(); // edge -> [up bytes, down bytes] when looked at last

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.ratio = 1;
  }

  resize(width, height, ratio) {
    Object.assign(this, { width, height, ratio });
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
  }

  /** Look at what the home exchanged since the last time, once a second; `now` in milliseconds. Nothing is shown
   * while looking back. */
  feed(pairs, scene, now, live) {
    const before = this.#seen;
    this.#seen = new Map();
    const found = [];
    for (const pair of pairs) {
      const { up_bytes: up, down_bytes: down } = pair;
      this.#seen.set(pair.key, [up, down]);
      const old = before.get(pair.key);
      if (!old || !live || still.matches) continue;
      const edge = scene.edgeOf(pair);
      if (!edge) continue;
      // Sums fall, too, when old traffic leaves the window: that is not traffic.
      if (up > old[0]) found.push({ edge, up: true, bytes: up - old[0] });
      if (down > old[1]) found.push({ edge, up: false, bytes: down - old[1] });
    }
    found.sort((a, b) => b.bytes - a.bytes);
    if (document.hidden) return;
    for (const one of found) {
      const strength = Math.min(Math.log10(one.bytes + 10) / 7, 1);
      const device = one.edge.device;
      const pulse = this.#pulses.get(device);
      if (!pulse || pulse.strength < strength || now - pulse.begin > WAY / 2) {
        this.#pulses.set(device, { begin: now, strength });
      }
      for (let i = 0; i < 1 + Math.round(2 * strength); i++) {
        if (this.#drops.length >= DROPS) return;
        this.#drops.push({ ...one, begin: now + Math.random() * 900, size: 1.3 + 2 * strength });
      }
    }
  }

  /** Is there something to show? */
  get alive() {
    return this.#drops.length > 0 || this.#pulses.size > 0;
  }

  /** One frame. `view` as for the painter. */
  draw(view, now, colours) {
    const { context, ratio, width, height } = this;
    const { k, x, y } = view.transform;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    this.#drops = this.#drops.filter((drop) => now - drop.begin < WAY);
    for (const [device, pulse] of this.#pulses) {
      const age = (now - pulse.begin) / WAY;
      const item = view.layout.items.get(device);
      if (age >= 1 || !item) this.#pulses.delete(device);
      else if (!view.bright || view.bright.has(device)) {
        context.globalAlpha = 0.4 * (1 - age) ** 2 * (0.4 + 0.6 * pulse.strength);
        context.strokeStyle = colours.recent;
        context.lineWidth = 2;
        context.beginPath();
        context.arc(item.x * k + x, item.y * k + y, Math.max(item.radius * k, 5) + 2 + 12 * age * pulse.strength, 0, 7);
        context.stroke();
      }
    }
    context.fillStyle = colours.recent;
    for (const drop of this.#drops) {
      const age = (now - drop.begin) / WAY;
      const source = view.layout.items.get(drop.edge.device);
      const target = view.layout.items.get(drop.edge.node);
      if (age < 0 || !source || !target) continue;
      if (view.bright && !(view.bright.has(drop.edge.device) && view.bright.has(drop.edge.node))) continue;
      const eased = age * age * (3 - 2 * age);
      const way = drop.up ? eased : 1 - eased;
      const px = (source.x + (target.x - source.x) * way) * k + x;
      const py = (source.y + (target.y - source.y) * way) * k + y;
      if (px < 0 || py < 0 || px > width || py > height) continue;
      context.globalAlpha = Math.sin(age * Math.PI) ** 0.7;
      context.beginPath();
      context.arc(px, py, drop.size * Math.min(Math.max(k, 0.7), 1.6) + 0.4, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
  }
}
