// SPDX-License-Identifier: GPL-2.0-or-later
// The life of the connection, with an EventSource of our own and a clock that is told to go on.

import assert from "node:assert/strict";
import test, { mock } from "node:test";
import { Feed } from "../../../spind/web/static/js/feed.js";

class Source extends EventTarget {
  readyState = 0;

  open() {
    this.readyState = 1;
    this.onopen();
  }

  say(kind, data) {
    this.dispatchEvent(Object.assign(new Event(kind), { data: typeof data === "string" ? data : JSON.stringify(data) }));
  }

  fail(forGood) {
    this.readyState = forGood ? 2 : 0;
    this.onerror();
  }

  close() {
    this.readyState = 2;
    this.closed = true;
  }
}

function setup(t, { status = 200 } = {}) {
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1e12 });
  t.after(() => mock.timers.reset());
  const seen = { sources: [], statuses: [], messages: [], unauthorised: 0, asked: 0, status };
  const feed = new Feed("/events", {
    make: () => {
      seen.sources.push(new Source());
      return seen.sources.at(-1);
    },
    fetch: async () => {
      seen.asked++;
      if (!seen.status) throw new TypeError("no network");
      return { status: seen.status };
    },
  });
  feed.addEventListener("status", (event) => seen.statuses.push(event.detail));
  feed.addEventListener("message", (event) => seen.messages.push(event.detail.kind));
  feed.addEventListener("unauthorised", () => seen.unauthorised++);
  feed.start();
  return { feed, seen, now: () => seen.sources.at(-1) };
}

const settle = async () => {
  for (let i = 0; i < 8; i++) await Promise.resolve();
};

test("live with the complete snapshot, not before", (t) => {
  const { feed, seen, now } = setup(t);
  now().open();
  now().say("hello", { version: "1" });
  assert.equal(feed.status, "connecting");
  now().say("ready", { time: 1 });
  assert.deepEqual(seen.statuses, ["live"]);
  assert.deepEqual(seen.messages, ["hello", "ready"]);
});

test("a connection that comes back by itself is live again", (t) => {
  const { seen, now } = setup(t);
  now().open();
  now().say("ready", {});
  now().fail(false);
  assert.deepEqual(seen.statuses, ["live", "lost"]);
  now().open();
  assert.deepEqual(seen.statuses, ["live", "lost", "live"]);
  assert.equal(seen.sources.length, 1);
});

test("a connection that ended for good is made anew, after longer and longer", async (t) => {
  const { seen, now } = setup(t, { status: 0 });
  const waits = [];
  for (let i = 0; i < 7; i++) {
    const count = seen.sources.length;
    now().fail(true);
    await settle();
    let waited = 0;
    while (seen.sources.length === count && waited < 60) {
      mock.timers.tick(1000);
      await settle();
      waited++;
    }
    waits.push(waited);
  }
  assert.deepEqual(waits, [1, 2, 4, 8, 15, 15, 15]);
});

test("401: said once, and no further attempt", async (t) => {
  const { seen, now } = setup(t, { status: 401 });
  now().fail(true);
  await settle();
  mock.timers.tick(120_000);
  await settle();
  assert.equal(seen.unauthorised, 1);
  assert.equal(seen.sources.length, 1);
});

test("silence of a server that answers is believed for minutes, not for ever", async (t) => {
  const { seen, now } = setup(t);
  now().open();
  now().say("ready", {});
  for (let second = 0; second < 240; second++) {
    mock.timers.tick(1000);
    await settle();
  }
  assert.equal(seen.sources.length, 1);
  assert.deepEqual(seen.statuses, ["live"]);
  for (let second = 0; second < 120; second++) {
    mock.timers.tick(1000);
    await settle();
  }
  assert.equal(seen.sources.length, 2);
  assert.equal(seen.sources[0].closed, true);
});

test("silence of a server that does not answer is a lost connection", async (t) => {
  const { seen, now } = setup(t, { status: 0 });
  now().open();
  now().say("ready", {});
  mock.timers.tick(41_000);
  await settle();
  mock.timers.tick(2000);
  await settle();
  assert.deepEqual(seen.statuses, ["live", "lost"]);
  assert.equal(seen.sources.length, 2);
});

test("an old connection is not listened to, and broken text does no harm", (t) => {
  const { feed, seen, now } = setup(t);
  const old = now();
  feed.start();
  old.say("ready", {});
  now().say("delta", '{"time": 1');
  assert.deepEqual(seen.messages, []);
});
