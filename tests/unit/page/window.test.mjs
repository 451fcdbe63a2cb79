// SPDX-License-Identifier: GPL-2.0-or-later
// The last ten minutes as cells: sums, forgetting, merging, rates and series.

import assert from "node:assert/strict";
import test from "node:test";
import { Window, pairIds } from "../../../spind/web/static/js/window.js";

/* What `pairs` must be, by summing all cells anew. */
function summed(window) {
  const sums = new Map();
  for (const [time, step] of window.steps) {
    for (const [key, cell] of step) {
      const sum = sums.get(key) || [0, 0, 0, 0, 0];
      cell.forEach((count, i) => (sum[i] += count));
      sum[4] = Math.max(sum[4], time);
      sums.set(key, sum);
    }
  }
  return sums;
}

test("cells are absolute: the same one twice counts once", () => {
  const window = new Window();
  window.put(1000, [[1, 2, 10, 20, 1, 2]]);
  window.put(1000, [[1, 2, 10, 20, 1, 2]]);
  window.put(1000, [[1, 2, 30, 20, 3, 2]]);
  assert.deepEqual(window.pairs.get("1:2"), [30, 20, 3, 2, 1000]);
  assert.deepEqual(window.totals.get(1000), [30, 20, 3, 2]);
});

test("sums follow whatever happens", () => {
  const window = new Window(600, 5);
  let state = 7;
  const random = (most) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor((state / 2147483648) * most);
  };
  for (let i = 0; i < 3000; i++) {
    const time = 1000 + 5 * random(150);
    const what = random(40);
    if (what === 0) window.prune(1000 + 5 * random(30));
    else if (what === 1) window.forget(1 + random(12));
    else if (what === 2) window.merge(1 + random(12), 1 + random(12));
    else window.put(time, [[1 + random(5), 6 + random(7), random(99), random(99), random(9), random(9)]]);
  }
  const sums = summed(window);
  assert.ok(sums.size > 5);
  assert.deepEqual(new Map([...window.pairs].sort()), new Map([...sums].sort()));
  for (const [id, keys] of window.partners) {
    for (const key of keys) assert.ok(window.pairs.has(key) && pairIds(key).includes(id));
  }
  for (const [time, step] of window.steps) {
    const total = [0, 0, 0, 0];
    for (const cell of step.values()) cell.forEach((count, i) => (total[i] += count));
    assert.deepEqual(window.totals.get(time), total);
  }
});

test("what is pruned leaves nothing behind", () => {
  const window = new Window();
  for (let i = 0; i < 500; i++) window.put(1000 + 5 * (i % 100), [[1, 10 + i, 1, 1, 1, 1]]);
  window.prune(1e9);
  for (const map of [window.steps, window.totals, window.pairs, window.partners]) assert.equal(map.size, 0);
});

test("a merged node's traffic goes to the other one", () => {
  const window = new Window();
  window.put(1000, [[1, 2, 10, 0, 1, 0], [1, 3, 5, 0, 1, 0]]);
  window.put(1005, [[1, 3, 7, 0, 1, 0]]);
  window.merge(3, 2);
  assert.deepEqual(window.pairs.get("1:2"), [22, 0, 3, 0, 1005]);
  assert.ok(!window.pairs.has("1:3"));
});

test("the window of an earlier moment has what was before it", () => {
  const window = new Window(600, 5);
  window.put(1000, [[1, 2, 10, 0, 1, 0]]);
  window.put(1300, [[1, 2, 5, 0, 1, 0]]);
  window.put(1600, [[1, 2, 3, 0, 1, 0]]);
  assert.deepEqual(window.pairsAt(1302).get("1:2"), [15, 0, 2, 0, 1300]);
  assert.deepEqual(window.pairsAt(1601).get("1:2"), [8, 0, 2, 0, 1600]);
  assert.equal(window.pairsAt(999).size, 0);
});

test("rates are per second, over the running step and the one before it", () => {
  const window = new Window(600, 5);
  window.put(1000, [[1, 2, 500, 50, 1, 1], [1, 3, 100, 0, 1, 0]]);
  window.put(1005, [[1, 2, 300, 30, 1, 1]]);
  const rates = window.ratesAt(1008);
  assert.deepEqual(rates.get("1:2"), [100, 10]);
  assert.deepEqual(rates.get(3), [12.5, 0]);
  assert.deepEqual(rates.get(""), [112.5, 10]);
});

test("a series has every step of the window, of all, of a node and of a pair", () => {
  const window = new Window(600, 5);
  window.put(1000, [[1, 2, 10, 20, 1, 2], [4, 2, 1, 1, 1, 1]]);
  const all = window.series(null, 1003);
  assert.equal(all.times.length, 120);
  assert.equal(all.times.at(-1), 1000);
  assert.equal(all.times[0], 1000 - 595);
  assert.equal(all.up_bytes.at(-1), 11);
  assert.equal(window.series({ type: "node", id: 2 }, 1003).up_bytes.at(-1), 11);
  assert.equal(window.series({ type: "node", id: 1 }, 1003).down_packets.at(-1), 2);
  assert.equal(window.series({ type: "edge", device: 4, node: 2 }, 1003).down_bytes.at(-1), 1);
  assert.equal(window.series({ type: "node", id: 99 }, 1003).up_bytes.reduce((a, b) => a + b), 0);
});
