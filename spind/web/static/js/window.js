// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The last ten minutes as the server counts them: bytes and packets of each pair (device, node) in
 * steps of five seconds. Owns these numbers and what is summed from them. Must not know of names,
 * colours, the page or the clock: times come with the data.
 *
 * A cell is [up bytes, down bytes, up packets, down packets]; up is from the device. Cells are
 * absolute: a later one for the same step and pair replaces the earlier one.
 */

/** The name of a pair in all maps of the page. */
export function pairKey(device, node) {
  return `${device}:${node}`;
}

/** The two ids of a pair's name. */
export function pairIds(key) {
  const colon = key.indexOf(":");
  return [Number(key.slice(0, colon)), Number(key.slice(colon + 1))];
}

export class Window {
  /** seconds: how far back; step: seconds of one cell. */
  constructor(seconds = 600, step = 5) {
    this.seconds = seconds;
    this.step = step;
    this.steps = new Map(); // beginning of the step -> Map(pair -> cell)
    this.totals = new Map(); // beginning of the step -> cell, of all pairs
    this.pairs = new Map(); // pair -> [ub, db, up, dp, last step with traffic], of the whole window
    this.partners = new Map(); // id -> Set of pairs it is part of
    this.version = 0; // grows with each change: for caches
  }

  /** Cells of one step: [[device, node, ub, db, up, dp], ...]. */
  put(time, cells) {
    let step = this.steps.get(time);
    if (!step) {
      this.steps.set(time, (step = new Map()));
      this.totals.set(time, [0, 0, 0, 0]);
    }
    const total = this.totals.get(time);
    for (const [device, node, ...cell] of cells) {
      const key = pairKey(device, node);
      const old = step.get(key);
      const sum = this.pairs.get(key) || this.#begin(key, device, node);
      for (let i = 0; i < 4; i++) {
        const more = cell[i] - (old ? old[i] : 0);
        sum[i] += more;
        total[i] += more;
      }
      if (time > sum[4]) sum[4] = time;
      step.set(key, cell);
    }
    this.version++;
  }

  #begin(key, device, node) {
    const sum = [0, 0, 0, 0, 0];
    this.pairs.set(key, sum);
    for (const id of [device, node]) {
      if (!this.partners.has(id)) this.partners.set(id, new Set());
      this.partners.get(id).add(key);
    }
    return sum;
  }

  #end(key) {
    this.pairs.delete(key);
    for (const id of pairIds(key)) {
      const pairs = this.partners.get(id);
      if (pairs && pairs.delete(key) && pairs.size === 0) this.partners.delete(id);
    }
  }

  /** Forget steps that began before this time. */
  prune(before) {
    for (const [time, step] of this.steps) {
      if (time >= before) continue;
      for (const [key, cell] of step) {
        const sum = this.pairs.get(key);
        if (!sum) continue;
        for (let i = 0; i < 4; i++) sum[i] -= cell[i];
        if (sum[4] <= time) this.#end(key);
      }
      this.steps.delete(time);
      this.totals.delete(time);
      this.version++;
    }
  }

  /** A node is no longer known: its traffic leaves the window too. */
  forget(id) {
    for (const key of [...(this.partners.get(id) || [])]) this.#drop(key);
  }

  #drop(key) {
    for (const [time, step] of this.steps) {
      const cell = step.get(key);
      if (!cell) continue;
      const total = this.totals.get(time);
      for (let i = 0; i < 4; i++) total[i] -= cell[i];
      step.delete(key);
    }
    this.#end(key);
    this.version++;
  }

  /** Node `id` turned out to be node `into`. */
  merge(id, into) {
    for (const key of [...(this.partners.get(id) || [])]) {
      const ids = pairIds(key).map((one) => (one === id ? into : one));
      const other = pairKey(...ids);
      const moved = [];
      for (const [time, step] of this.steps) {
        const cell = step.get(key);
        if (!cell) continue;
        const there = step.get(other) || [0, 0, 0, 0];
        moved.push([time, cell.map((count, i) => count + there[i])]);
      }
      this.#drop(key);
      if (ids[0] !== ids[1]) for (const [time, cell] of moved) this.put(time, [[...ids, ...cell]]);
    }
  }

  /** Sums of all pairs in the window as it was at `time`: Map as `pairs`. */
  pairsAt(time) {
    const sums = new Map();
    for (const [begun, step] of this.steps) {
      if (begun > time || begun <= time - this.seconds) continue;
      for (const [key, cell] of step) {
        let sum = sums.get(key);
        if (!sum) sums.set(key, (sum = [0, 0, 0, 0, 0]));
        for (let i = 0; i < 4; i++) sum[i] += cell[i];
        if (begun > sum[4]) sum[4] = begun;
      }
    }
    return sums;
  }

  /** Bytes per second of every node and pair around `time`: Map(id or pair -> [up, down]), and "" for all.
   * Over the step that is running and the one before it, so five to ten seconds. */
  ratesAt(time) {
    const running = Math.floor(time / this.step) * this.step;
    const seconds = Math.max(time - running, 0) + this.step;
    const rates = new Map([["", [0, 0]]]);
    const add = (key, up, down) => {
      const rate = rates.get(key);
      if (rate) {
        rate[0] += up;
        rate[1] += down;
      } else rates.set(key, [up, down]);
    };
    for (const begun of [running - this.step, running]) {
      for (const [key, cell] of this.steps.get(begun) || []) {
        const [device, node] = pairIds(key);
        const up = cell[0] / seconds;
        const down = cell[1] / seconds;
        add(key, up, down);
        add(device, up, down);
        add(node, up, down);
        add("", up, down);
      }
    }
    return rates;
  }

  /** Per step up to `now`, oldest first: {times, up_bytes, down_bytes, up_packets, down_packets}. `selection` is
   * null for all, {type: "node", id} or {type: "edge", device, node}. */
  series(selection, now) {
    const last = Math.floor(now / this.step) * this.step;
    const count = Math.floor(this.seconds / this.step);
    const rows = { times: [], up_bytes: [], down_bytes: [], up_packets: [], down_packets: [] };
    let keys = null;
    if (selection && selection.type === "node") keys = [...(this.partners.get(selection.id) || [])];
    if (selection && selection.type === "edge") {
      keys = [pairKey(selection.device, selection.node), pairKey(selection.node, selection.device)];
    }
    for (let i = count - 1; i >= 0; i--) {
      const time = last - i * this.step;
      let sum = this.totals.get(time) || [0, 0, 0, 0];
      if (keys) {
        sum = [0, 0, 0, 0];
        const step = this.steps.get(time);
        for (const key of step ? keys : []) {
          const cell = step.get(key);
          if (cell) for (let j = 0; j < 4; j++) sum[j] += cell[j];
        }
      }
      rows.times.push(time);
      rows.up_bytes.push(sum[0]);
      rows.down_bytes.push(sum[1]);
      rows.up_packets.push(sum[2]);
      rows.down_packets.push(sum[3]);
    }
    return rows;
  }
}
