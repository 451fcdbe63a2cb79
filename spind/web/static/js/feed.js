// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The connection to the server's stream of events, and its life: connecting, live, lost, and back again
 * by itself. Owns the EventSource. Knows nothing of what the events mean.
 *
 * Events: "status" (detail: "connecting" | "live" | "lost"), "message" (detail: {kind, data}),
 * "unauthorised" once when the server no longer knows who is asking.
 */

const KINDS = ["hello", "nodes", "flows", "window", "ready", "delta"];

/* The server sends a delta a second while anything changes, else only comments, which a page cannot see. So
 * silence alone proves nothing: after SILENCE milliseconds the server is asked whether it is there, and after
 * LONG_SILENCE the connection is replaced in any case (a dead one may look open for many minutes). */
const SILENCE = 40_000;
const LONG_SILENCE = 300_000;

/* Timers that come so much too late, in milliseconds, mean that the computer slept: its connections are dead. */
const SLEPT = 20_000;

/* EventSource tries again by itself after a lost connection, but gives up for good after a reply such as
 * 401 or 503. Then it is made anew, after 1, 2, 4 ... seconds, at most this many milliseconds. */
const LONGEST_WAIT = 15_000;

export class Feed extends EventTarget {
  /** `make` builds an EventSource and `fetch` asks; a test gives its own. */
  constructor(url = "/api/v1/events", { session = "/api/v1/session", make, fetch } = {}) {
    super();
    this.status = "connecting";
    this.url = url;
    this.session = session;
    this.make = make || ((address) => new EventSource(address));
    this.fetch = fetch || ((...args) => globalThis.fetch(...args));
    this.source = null;
    this.failures = 0;
    this.retry = 0;
    this.watchdog = 0;
    this.heard = 0;
    this.refused = false;
    if (globalThis.addEventListener) globalThis.addEventListener("online", () => this.source && this.start());
  }

  /** Connect. Also after a login, and to connect anew. */
  start() {
    this.stop();
    this.refused = false;
    this.#open();
  }

  /** Disconnect and stay so. */
  stop() {
    clearTimeout(this.retry);
    clearTimeout(this.watchdog);
    if (this.source) this.source.close();
    this.source = null;
  }

  #open() {
    const source = (this.source = this.make(this.url));
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => source === this.source && this.#receive(kind, event));
    }
    source.onopen = () => source === this.source && this.#opened();
    source.onerror = () => source === this.source && this.#failed(source);
    this.#watch();
  }

  #opened() {
    this.#watch();
    // Where EventSource came back by itself, the stream goes on and may have nothing to say at first.
    if (this.status === "lost" && this.failures === 0) this.#become("live");
    this.failures = 0;
  }

  #receive(kind, event) {
    this.#watch();
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      return; // cut off in the middle: the connection is about to end, and the next one brings it again
    }
    if (kind === "ready" || kind === "delta") this.#become("live");
    this.dispatchEvent(new CustomEvent("message", { detail: { kind, data } }));
  }

  #failed(source) {
    this.#become("lost");
    if (source.readyState === 2) this.#again(); // closed: it will not try by itself
    this.#ask();
  }

  /* Why did it end? An EventSource does not tell, so ask who we are. Does the server answer at all? */
  async #ask() {
    let status = 0;
    try {
      status = (await this.fetch(this.session, { cache: "no-store", credentials: "same-origin" })).status;
    } catch {
      return false;
    }
    if (status === 401 && !this.refused) {
      this.refused = true;
      this.stop();
      this.dispatchEvent(new CustomEvent("unauthorised"));
    }
    return status < 500;
  }

  #again() {
    clearTimeout(this.retry);
    clearTimeout(this.watchdog);
    if (this.source) this.source.close();
    const wait = Math.min(1000 * 2 ** this.failures, LONGEST_WAIT);
    this.failures++;
    this.retry = setTimeout(() => !this.refused && this.#open(), wait);
  }

  #watch() {
    this.heard = Date.now();
    this.#wait(SILENCE);
  }

  #wait(milliseconds) {
    clearTimeout(this.watchdog);
    const due = Date.now() + milliseconds;
    this.watchdog = setTimeout(async () => {
      const source = this.source;
      const slept = Date.now() - due > SLEPT;
      const answers = await this.#ask();
      if (source !== this.source || this.refused) return;
      if (!answers) this.#become("lost");
      if (!answers || slept || Date.now() - this.heard > LONG_SILENCE) this.#again();
      else if (Date.now() - this.heard >= SILENCE) this.#wait(SILENCE);
    }, milliseconds);
  }

  #become(status) {
    if (status === this.status) return;
    this.status = status;
    this.dispatchEvent(new CustomEvent("status", { detail: status }));
  }
}
