// SPDX-License-Identifier: GPL-2.0-or-later
// What the graph shows: states, bundles, filters; and labels, widths and signs.

import assert from "node:assert/strict";
import test from "node:test";
import { iconName, initial } from "../../../spind/web/static/js/icons.js";
import { cutLabel, edgeState, edgeWidth, mainDirection } from "../../../spind/web/static/js/look.js";
import { Scene, bundleId } from "../../../spind/web/static/js/scene.js";

const T = 1_700_000_000;

/* As much of a home as a scene asks for. */
function home(edges, { nodes = {}, flows = [] } = {}) {
  const known = new Map();
  for (const edge of edges) {
    for (const id of [edge.device, edge.node]) {
      const kind = id < 100 ? "device" : "site";
      known.set(id, { id, kind, label: `${kind}${id}.example`, lastseen: T, ips: [`192.0.2.${id % 250}`], ...nodes[id] });
    }
  }
  return {
    shown: T, nodes: known, window: { seconds: 600 }, edges: () => edges,
    label: (id) => known.get(id)?.label ?? String(id),
    flowsOf: (device, node) => flows.filter((flow) => flow.device === device && flow.node === node),
  };
}

function edge(device, node, more = {}) {
  return {
    key: `${device}:${node}`, device, node, up_bytes: 100, down_bytes: 100, up_packets: 1, down_packets: 1,
    lastseen: T, blocked: 0, queried: 0, ...more,
  };
}

const wish = (more = {}) => ({ filter: {}, focus: null, expanded: new Set(), keep: new Set(), ...more });

const many = () => Array.from({ length: 300 }, (_, i) => edge(1 + (i % 3), 100 + i, { up_bytes: 1000 * i }));

test("states: recent, older, queried, blocked, and working again", () => {
  const none = { up_bytes: 0, down_bytes: 0, up_packets: 0, down_packets: 0, lastseen: 0 };
  assert.equal(edgeState(edge(1, 100), T), "recent");
  assert.equal(edgeState(edge(1, 100, { lastseen: T - 31 }), T), "older");
  assert.equal(edgeState(edge(1, 100, { blocked: T - 400, lastseen: T - 500 }), T), "blocked");
  assert.equal(edgeState(edge(1, 100, { ...none, blocked: T - 400 }), T), "blocked");
  assert.equal(edgeState(edge(1, 100, { blocked: T - 400, lastseen: T }), T), "recent");
  assert.equal(edgeState(edge(1, 100, { ...none, queried: T - 5 }), T), "query");
  assert.equal(edgeState(edge(1, 100, { queried: T - 5, lastseen: T - 100 }), T), "query");
  assert.equal(edgeState(edge(1, 100, { queried: T - 5 }), T), "recent");
});

test("few sites are all shown", () => {
  const scene = new Scene().build(home([edge(1, 100), edge(1, 101), edge(2, 101)]), wish());
  assert.deepEqual([...scene.nodes.keys()].sort(), [1, 100, 101, 2].sort());
  assert.equal(scene.edges.length, 3);
  assert.deepEqual([...scene.nodes.get(101).neighbours], [1, 2]);
});

test("many sites are bundled, each in one place, and nothing is lost", () => {
  const scene = new Scene().build(home(many()), wish());
  const bundles = [...scene.nodes.values()].filter((node) => node.kind === "more");
  assert.equal(bundles.length, 3);
  const sites = [...scene.nodes.values()].filter((node) => node.kind === "site").map((node) => node.id);
  const members = bundles.flatMap((bundle) => bundle.members);
  assert.equal(new Set([...sites, ...members]).size, 300);
  assert.equal(sites.length + members.length, 300);
  assert.ok(scene.nodes.size < 150);
  const bytes = scene.edges.reduce((sum, one) => sum + one.bytes, 0);
  assert.equal(bytes, many().reduce((sum, one) => sum + one.up_bytes + one.down_bytes, 0));
});

test("a site of several devices is never bundled, nor one that is kept", () => {
  const scene = new Scene().build(home([...many(), edge(2, 100)]), wish({ keep: new Set([101]) }));
  assert.ok(scene.nodes.has(100));
  assert.ok(scene.nodes.has(101));
});

test("focus and expansion open a bundle", () => {
  for (const more of [{ focus: 1 }, { expanded: new Set([1]) }]) {
    const scene = new Scene().build(home(many()), wish(more));
    assert.equal(scene.nodes.has(bundleId(1)), false);
    assert.equal(scene.nodes.has(bundleId(2)), true);
    assert.equal(scene.nodes.get(1).neighbours.size, 100);
  }
});

test("what is shown beside a bundle stays while it is nearly as large", () => {
  const edges = many();
  const scene = new Scene().build(home(edges), wish());
  const before = [...scene.nodes.keys()].filter((id) => id >= 100).sort();
  for (const one of edges) one.up_bytes += one.node % 2 ? 20_000 : 0;
  scene.build(home(edges), wish());
  assert.deepEqual([...scene.nodes.keys()].filter((id) => id >= 100).sort(), before);
});

test("a blocked site is shown before others", () => {
  const edges = many();
  Object.assign(edges[0], { blocked: T, lastseen: T - 99, up_bytes: 0 });
  const scene = new Scene().build(home(edges), wish());
  assert.equal(scene.nodes.get(100).state, "blocked");
});

test("a bundle is red when most of it is blocked", () => {
  for (const [some, state] of [[10, "recent"], [95, "blocked"]]) {
    const edges = many();
    for (const one of edges.filter((each) => each.device === 1).slice(0, some)) {
      Object.assign(one, { blocked: T, lastseen: T - 99 });
    }
    const scene = new Scene().build(home(edges), wish({ room: 0.1 }));
    assert.equal(scene.nodes.get(bundleId(1)).state, state);
  }
});

test("filters: text, device, port, blocked, direction", () => {
  const edges = [edge(1, 100), edge(1, 101), edge(2, 101, { blocked: T, lastseen: T - 50 })];
  const flows = [
    { device: 1, node: 100, port: 53, inbound: false },
    { device: 1, node: 101, port: 443, inbound: true },
    { device: 2, node: 101, port: 443, inbound: false },
  ];
  const nodes = { 2: { mac: "02:00:00:00:00:02" }, 100: { domains: ["dns.example.net."] } };
  const shown = (filter) => {
    const scene = new Scene().build(home(edges, { nodes, flows }), wish({ filter }));
    return scene.edges.map((one) => `${one.device}-${one.node}`).join(" ");
  };
  assert.equal(shown({}), "1-100 1-101 2-101");
  assert.equal(shown({ text: "DNS.example" }), "1-100");
  assert.equal(shown({ text: "device2" }), "2-101");
  assert.equal(shown({ device: "02:00:00:00:00:02" }), "2-101");
  assert.equal(shown({ device: 1 }), "1-100 1-101");
  assert.equal(shown({ port: 53 }), "1-100");
  assert.equal(shown({ blocked: true }), "2-101");
  assert.equal(shown({ direction: "inbound" }), "1-101");
  assert.equal(shown({ direction: "outbound", port: 443 }), "2-101");
  assert.equal(shown({ text: "nothing like it" }), "");
});

test("a device without traffic is there while it is around", () => {
  const made = home([edge(1, 100)]);
  made.nodes.set(3, { id: 3, kind: "device", label: "quiet", lastseen: T - 60 });
  made.nodes.set(4, { id: 4, kind: "device", label: "away", lastseen: T - 9999 });
  made.nodes.set(5, { id: 5, kind: "device", label: "hidden", lastseen: T, is_ignored: true });
  const ids = (filter) => [...new Scene().build(made, wish({ filter })).nodes.keys()].sort();
  assert.deepEqual(ids({}), [1, 100, 3]);
  assert.deepEqual(ids({ ignored: true }), [1, 100, 3, 5]);
});

test("labels: short, without anything hidden", () => {
  assert.equal(cutLabel("example.org"), "example.org");
  assert.equal(Array.from(cutLabel("x".repeat(300))).length, 28);
  assert.equal(cutLabel("\u202egnp.exe\u202c\u0000\u2067a"), "gnp.exea");
  const cut = cutLabel(`${"a".repeat(60)}.example.org`);
  assert.ok(cut.endsWith("example.org") && Array.from(cut).length === 28, cut);
  assert.equal(cutLabel("😀".repeat(40)), `${"😀".repeat(27)}…`);
  assert.equal(cutLabel("\u202e"), "");
});

test("widths grow with the logarithm, within bounds", () => {
  const widths = [0, 1, 1e3, 1e5, 1e7, 1e9, 1e15].map(edgeWidth);
  for (let i = 1; i < widths.length; i++) assert.ok(widths[i] >= widths[i - 1]);
  assert.ok(widths[0] > 0 && widths.at(-1) === 6);
});

test("the main direction is where most bytes go", () => {
  assert.equal(mainDirection({ up_bytes: 50, down_bytes: 10 }), "up");
  assert.equal(mainDirection({ up_bytes: 10, down_bytes: 50 }), "down");
  assert.equal(mainDirection({ up_bytes: 30, down_bytes: 10 }), "both");
});

test("signs are guessed, or a letter is shown", () => {
  assert.equal(iconName("iPhone-van-Anna"), "phone");
  assert.equal(iconName("Doorbell camera"), "camera");
  assert.equal(iconName("anything", "gateway"), "router");
  assert.equal(iconName("Switzerland"), "");
  assert.equal(initial("<esp>"), "E");
  assert.equal(initial("\u202e"), "•");
});
