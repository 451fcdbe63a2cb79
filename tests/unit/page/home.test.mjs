// SPDX-License-Identifier: GPL-2.0-or-later
// The home as the page knows it, fed by hand.

import assert from "node:assert/strict";
import test from "node:test";
import { Home } from "../../../spind/web/static/js/home.js";

const T = 1_700_000_000; // a multiple of 5

function node(id, more = {}) {
  const kind = id < 100 ? "device" : "site";
  return { id, kind, label: `${kind}${id}`, lastseen: T, ips: [], domains: [], is_ignored: false, is_blocked: false, ...more };
}

function flow(device, to, more = {}) {
  return {
    device, node: to, protocol: 6, port: 443, family: 4, inbound: false, up_bytes: 1, down_bytes: 1, up_packets: 1,
    down_packets: 1, firstseen: T, lastseen: T, blocked: 0, ...more,
  };
}

function home() {
  let seconds = 0;
  const made = new Home(() => seconds);
  made.later = (more) => (seconds += more);
  made.receive("hello", { version: "1", time: T, instance: "a", window_seconds: 600, step: 5 });
  made.receive("nodes", { items: [node(1), node(2), node(100), node(101)] });
  made.receive("flows", { items: [flow(1, 100), flow(1, 101, { lastseen: T - 300 })] });
  made.receive("window", { time: T - 300, cells: [[1, 101, 7, 8, 1, 1]] });
  made.receive("window", { time: T, cells: [[1, 100, 10, 20, 1, 2]] });
  made.receive("ready", { time: T });
  return made;
}

const find = (made, device, to) => made.edges().find((edge) => edge.device === device && edge.node === to);

test("a snapshot gives edges with sums and times", () => {
  const made = home();
  assert.equal(made.edges().length, 2);
  const edge = find(made, 1, 100);
  assert.deepEqual([edge.up_bytes, edge.down_bytes, edge.up_packets, edge.down_packets], [10, 20, 1, 2]);
  assert.equal(edge.lastseen, T);
  assert.equal(find(made, 1, 101).lastseen, T - 300);
});

test("the snapshot's steps do not set the clock", () => {
  const made = home();
  assert.equal(made.now, T);
  made.later(3);
  assert.equal(made.now, T + 3);
});

test("a delta twice is as good as once", () => {
  const made = home();
  const delta = { time: T + 1, flows: [flow(1, 100, { lastseen: T + 1 })], cells: [{ time: T, cells: [[1, 100, 11, 22, 2, 3]] }] };
  made.receive("delta", delta);
  made.receive("delta", delta);
  assert.equal(find(made, 1, 100).up_bytes, 11);
  assert.equal(made.flows.size, 2);
});

test("queries and blocked packets make edges of their own", () => {
  const made = home();
  made.receive("delta", {
    time: T + 1,
    queries: [{ time: T + 1, device: 2, node: 100, name: "x" }],
    blocked: [{ time: T + 1, device: 2, node: 101, protocol: 6, port: 443, inbound: false }],
  });
  assert.equal(find(made, 2, 100).queried, T + 1);
  assert.equal(find(made, 2, 101).blocked, T + 1);
  made.later(700);
  made.tick();
  assert.equal(made.edges().length, 0);
});

test("what is gone is forgotten", () => {
  const made = home();
  made.receive("delta", { time: T + 1, gone_nodes: [101], gone_flows: [[1, 101, 6, 443, 4, false]] });
  assert.equal(made.edges().length, 1);
  assert.equal(made.flows.size, 1);
  assert.equal(made.nodes.has(101), false);
});

test("an ICMP flow is found by its type", () => {
  const made = home();
  made.receive("delta", { time: T, flows: [flow(1, 100, { protocol: 1, port: 0, icmp_type: 8 })] });
  assert.equal(made.flows.size, 3);
  made.receive("delta", { time: T, gone_flows: [[1, 100, 1, 8, 4, false]] });
  assert.equal(made.flows.size, 2);
});

test("a merged node's edges are the other one's", () => {
  const made = home();
  made.receive("delta", { time: T, merged: [[101, 100]], gone_nodes: [101], gone_flows: [[1, 101, 6, 443, 4, false]] });
  assert.equal(made.edges().length, 1);
  assert.equal(find(made, 1, 100).up_bytes, 17);
});

test("ignored nodes have no edges", () => {
  const made = home();
  made.receive("delta", { time: T, nodes: [node(100, { is_ignored: true })] });
  assert.equal(made.edges().length, 1);
});

test("looking back shows the moment, and live comes back", () => {
  const made = home();
  made.look = T - 200;
  assert.equal(made.paused, true);
  assert.deepEqual(made.edges().map((edge) => edge.node), [101]);
  assert.equal(made.edges()[0].lastseen <= T - 200, true);
  made.resume();
  assert.equal(made.edges().length, 2);
  made.look = 5;
  assert.equal(made.look, made.oldest);
});

test("paused: data comes in, the view stays", () => {
  const made = home();
  made.pause();
  const before = made.edges().length;
  made.later(4);
  made.receive("delta", { time: T + 10, nodes: [node(102)], flows: [flow(2, 102, { lastseen: T + 10 })],
    cells: [{ time: T + 10, cells: [[2, 102, 1, 1, 1, 1]] }] });
  assert.equal(made.edges().length, before);
  made.resume();
  assert.equal(made.edges().length, before + 1);
});

test("a long pause does not keep memory for ever", () => {
  const made = home();
  made.pause();
  for (let second = 5; second < 4000; second += 5) {
    made.later(5);
    made.receive("delta", { time: T + second, cells: [{ time: T + second, cells: [[1, 100, 1, 1, 1, 1]] }] });
    made.tick();
  }
  assert.ok(made.window.steps.size <= 1200 / 5 + 3, String(made.window.steps.size));
  assert.ok(made.look >= made.oldest - 1);
});

test("rates and series are of what is asked", () => {
  const made = home();
  made.later(5);
  assert.deepEqual(made.rate(1, 100), { up: 2, down: 4 });
  assert.deepEqual(made.rate(), { up: 2, down: 4 });
  assert.deepEqual(made.rate(2), { up: 0, down: 0 });
  assert.equal(made.series({ type: "node", id: 1 }).up_bytes.reduce((a, b) => a + b), 17);
});

test("a new snapshot replaces all", () => {
  const made = home();
  made.receive("hello", { version: "2", time: T + 9, instance: "b", window_seconds: 600, step: 5 });
  made.receive("ready", { time: T + 9 });
  assert.equal(made.nodes.size + made.flows.size + made.edges().length, 0);
});

test("5,000 flows: edges, rates and series within a frame", () => {
  const made = home();
  const devices = Array.from({ length: 30 }, (_, i) => node(1 + i));
  const sites = Array.from({ length: 1000 }, (_, i) => node(100 + i));
  made.receive("nodes", { items: [...devices, ...sites] });
  const pairs = Array.from({ length: 5000 }, (_, i) => [1 + (i % 30), 100 + ((i * 7) % 1000)]);
  made.receive("flows", { items: pairs.map(([device, to], i) => flow(device, to, { port: i })) });
  for (let i = 0; i < 120; i++) {
    made.window.put(T - 5 * i, pairs.slice(i * 40, i * 40 + 250).map((pair) => [...pair, 1, 1, 1, 1]));
  }
  const times = [];
  for (let i = 0; i < 5; i++) {
    const begun = performance.now();
    made.receive("delta", { time: T + 1 });
    assert.ok(made.edges().length > 2000);
    for (const one of devices) made.rate(one.id);
    made.series(null);
    made.series({ type: "node", id: 1 });
    times.push(performance.now() - begun);
  }
  // Some 3 ms on a PC; a machine that is busy with other things may take longer.
  assert.ok(Math.min(...times) < 60, String(times));
});
