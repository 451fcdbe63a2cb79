// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The time line: bytes or packets per second, up and down, of the last ten minutes, drawn by uPlot. Owns its
 * elements and which quantity is shown. Dragging, clicking and the arrow keys set the moment that the page shows
 * (`home.look`); Escape and a double click go back to live.
 */

import uPlot from "../vendor/uplot.js";
import { bytes } from "./format.js";
import { say } from "./graph_words.js";
import { cutLabel, palette } from "./look.js";

/* Seconds of one press of an arrow key, and of Page up and down. */
const STEP = 5;
const PAGE = 60;

/* So close to now, in seconds, counts as live. */
const LIVE = 6;

export class Timeline {
  #selection = null;
  #packets = false;
  #plot = null;
  #data = [[], [], []];
  #hover = null;
  #dragging = false;
  #language = "";

  constructor(element, home) {
    this.element = element;
    this.home = home;
    this.#build();
    this.#listen();
    this.#make();
  }

  /** What it is about: a selection as of the graph, or null for everything. */
  get selection() {
    return this.#selection;
  }

  set selection(selection) {
    this.#selection = selection || null;
    this.refresh();
  }

  #build() {
    const { element } = this;
    if (getComputedStyle(element).position === "static") element.style.position = "relative";
    element.style.overflow = "hidden";
    const make = (name, styles, parent = element) => {
      const one = document.createElement(name);
      Object.assign(one.style, styles);
      parent.append(one);
      return one;
    };
    this.head = make("div", {
      position: "absolute", zIndex: "2", left: "66px", right: "8px", top: "2px", display: "flex", gap: "12px",
      alignItems: "baseline", font: "12px/1.5 system-ui, sans-serif", pointerEvents: "none", whiteSpace: "nowrap",
    });
    this.title = make("bdi", { fontWeight: "600", color: "var(--fg)", overflow: "hidden", textOverflow: "ellipsis" }, this.head);
    this.values = make("span", { color: "var(--muted)", fontVariantNumeric: "tabular-nums" }, this.head);
    this.button = make("button", {
      marginLeft: "auto", pointerEvents: "auto", font: "inherit", padding: "1px 10px", cursor: "pointer",
      color: "var(--muted)", background: "var(--panel)", border: "1px solid var(--line)", borderRadius: "999px",
    }, this.head);
    this.button.type = "button";
    this.button.dataset.testid = "timeline-quantity";
    this.slider = make("div", { position: "absolute", inset: "0", cursor: "crosshair", touchAction: "pan-y" });
    this.slider.tabIndex = 0;
    this.slider.setAttribute("role", "slider");
    this.mark = make("div", {
      position: "absolute", zIndex: "1", width: "2px", background: "var(--accent)", pointerEvents: "none", display: "none",
    });
    this.shade = make("div", {
      position: "absolute", zIndex: "1", background: "var(--bg)", opacity: "0.6", pointerEvents: "none", display: "none",
    });
  }

  #listen() {
    const { home, slider } = this;
    for (const name of ["tick", "reset"]) home.addEventListener(name, () => this.refresh());
    this.button.addEventListener("click", () => {
      this.#packets = !this.#packets;
      this.refresh();
    });
    slider.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.#dragging = true;
      slider.setPointerCapture(event.pointerId);
      this.#lookAt(event);
    });
    slider.addEventListener("pointermove", (event) => {
      this.#hover = this.#timeAt(event);
      if (this.#dragging) this.#lookAt(event);
      this.#tell();
    });
    slider.addEventListener("pointerup", () => (this.#dragging = false));
    slider.addEventListener("pointercancel", () => (this.#dragging = false));
    slider.addEventListener("pointerleave", () => {
      this.#hover = null;
      this.#tell();
    });
    slider.addEventListener("dblclick", () => home.resume());
    slider.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#resize()).observe(this.element);
    const restyle = () => requestAnimationFrame(() => this.#make());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
    new MutationObserver(restyle).observe(document.documentElement, { attributes: true });
    addEventListener("load", restyle);
  }

  #make() {
    const colours = palette(this.element);
    this.#language = document.documentElement.lang;
    if (this.#plot) this.#plot.destroy();
    const axis = { stroke: colours.muted, font: "11px system-ui, sans-serif", ticks: { show: false } };
    const line = (colour, filled, dash) => ({
      stroke: colour, width: 1.75, dash, points: { show: false }, paths: uPlot.paths.spline(),
      fill: filled ? `color-mix(in srgb, ${colour} ${filled * 100}%, transparent)` : undefined,
    });
    this.#plot = new uPlot(
      {
        width: Math.max(this.element.clientWidth, 50),
        height: Math.max(this.element.clientHeight, 40),
        padding: [30, 10, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        select: { show: false },
        scales: { x: { time: true }, y: { range: (_, least, most) => [0, Math.max(most || 0, this.#packets ? 10 : 1000) * 1.08] } },
        axes: [
          { ...axis, size: 22, gap: 2, space: 70, grid: { show: false }, values: (_, splits) => splits.map((one) => clock(one, false)) },
          {
            ...axis, size: 64, gap: 4, space: 30, grid: { stroke: colours.line, width: 1 },
            values: (_, splits) => splits.map((one) => (one ? this.#amount(one) : "")),
          },
        ],
        series: [{}, line(colours.accent, 0.16), line(colours.muted, 0, [4, 3])],
      },
      this.#data,
      this.element,
    );
    this.element.prepend(this.#plot.root);
    this.#plot.root.setAttribute("aria-hidden", "true");
    this.refresh();
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (this.#plot && width && height) this.#plot.setSize({ width, height });
    this.#place();
  }

  /** Show the numbers of now. */
  refresh() {
    if (document.hidden || !this.#plot) return;
    if (this.#language !== document.documentElement.lang) return void this.#make();
    const { home } = this;
    const rows = home.series(this.#selection);
    const { step } = home.window;
    const last = rows.times.length - 1;
    const running = Math.max(home.now - rows.times[last], 1);
    const perSecond = (counts) => counts.map((count, i) => count / (i === last ? Math.max(running, step / 2) : step));
    const [down, up] = this.#packets ? [rows.down_packets, rows.up_packets] : [rows.down_bytes, rows.up_bytes];
    this.#data = [rows.times.map((time) => time + step / 2), perSecond(down), perSecond(up)];
    this.#plot.setData(this.#data, false);
    this.#plot.batch(() => {
      this.#plot.setScale("x", { min: home.now - home.window.seconds, max: home.now });
      this.#plot.setScale("y", { min: 0, max: Math.max(...this.#data[1], ...this.#data[2]) });
    });
    this.#place();
    this.#tell();
  }

  #amount(value) {
    return this.#packets ? `${Math.round(value * 10) / 10}/s` : `${bytes(value)}/s`;
  }

  /* The mark of the moment that is shown, and a veil over what came after it. */
  #place() {
    const { home, mark, shade } = this;
    const plot = this.#plot;
    const back = home.look !== null;
    mark.style.display = shade.style.display = back ? "block" : "none";
    if (!back || !plot) return;
    const left = plot.over.offsetLeft + plot.valToPos(home.look, "x");
    const box = { top: `${plot.over.offsetTop}px`, height: `${plot.over.offsetHeight}px` };
    Object.assign(mark.style, box, { left: `${left - 1}px` });
    const right = plot.over.offsetLeft + plot.over.offsetWidth;
    Object.assign(shade.style, box, { left: `${left}px`, width: `${Math.max(right - left, 0)}px` });
  }

  #tell() {
    const { home, slider } = this;
    const time = this.#hover ?? home.look ?? null;
    const index = time === null ? this.#data[0].length - 1 : this.#nearest(time);
    const down = this.#data[1][index] || 0;
    const up = this.#data[2][index] || 0;
    const words = `${time === null ? "" : `${clock(time, true)}   `}↓ ${this.#amount(down)}   ↑ ${this.#amount(up)}`;
    this.values.textContent = words;
    this.title.textContent = this.#subject();
    this.button.textContent = say(this.#packets ? "packets" : "bytes");
    this.button.setAttribute("aria-pressed", String(this.#packets));
    slider.setAttribute("aria-label", say("timeline"));
    const seconds = home.window.seconds;
    slider.setAttribute("aria-valuemin", String(-seconds));
    slider.setAttribute("aria-valuemax", "0");
    const ago = home.look === null ? 0 : Math.round(home.look - home.now);
    // Without looking back the value does not change, so a screen reader stays silent.
    slider.setAttribute("aria-valuenow", String(ago));
    const text = home.look === null ? say("timeline.live") : `${say("timeline.back", clock(home.look, true))}, ${words}`;
    if (slider.getAttribute("aria-valuetext") !== text) slider.setAttribute("aria-valuetext", text);
  }

  #subject() {
    const { home } = this;
    const selection = this.#selection;
    if (!selection) return say("timeline.all");
    if (selection.type === "node") return cutLabel(home.label(selection.id));
    return say("edge", cutLabel(home.label(selection.device), 20), cutLabel(home.label(selection.node), 24));
  }

  #nearest(time) {
    const [times] = this.#data;
    const step = this.home.window.step;
    return Math.min(Math.max(Math.round((time - times[0]) / step), 0), times.length - 1);
  }

  #timeAt(event) {
    const box = this.#plot.over.getBoundingClientRect();
    const part = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    return this.home.oldest + part * this.home.window.seconds;
  }

  #lookAt(event) {
    this.#look(this.#timeAt(event));
  }

  #look(time) {
    const { home } = this;
    home.look = time > home.now - LIVE ? null : time;
  }

  #key(event) {
    const { home } = this;
    const steps = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -PAGE, PageUp: PAGE };
    if (steps[event.key]) {
      // From now the first press must leave what counts as live.
      const from = home.look ?? home.now - (steps[event.key] < 0 ? STEP : 0);
      this.#look(from + steps[event.key]);
    } else if (event.key === "Home") home.look = home.oldest;
    else if (event.key === "End" || event.key === "Escape") home.resume();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/* Clock time in the language of the page. */
function clock(seconds, exact) {
  const options = { hourCycle: "h23", hour: "2-digit", minute: "2-digit", ...(exact ? { second: "2-digit" } : {}) };
  return new Date(seconds * 1000).toLocaleTimeString(document.documentElement.lang || undefined, options);
}
