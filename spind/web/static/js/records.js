// SPDX-License-Identifier: GPL-2.0-or-later
// What people decided and what there is to hear of: rules, profiles, notifications, the audit list, captures.
// Kept fresh by the feed's word that something changed. Must not know of elements.

import { all, call } from "./calls.js";

const SOURCES = {
  rules: () => all("list_rules"),
  profiles: () => call("list_profiles"),
  notifications: async () => items(await call("list_notifications")),
  audit: () => all("list_audit", {}, 1000),
  captures: async () => items(await call("list_captures")),
};

const items = (reply) => (Array.isArray(reply) ? reply : (reply?.items ?? []));

/** A capture grows without anybody saying so: looked at this often, in ms, while one is running. */
const CAPTURE_LOOK = 1000;

/** Events: "change" (detail: name of a list). A list that has not come yet is null. */
export class Records extends EventTarget {
  constructor(home) {
    super();
    Object.assign(this, { rules: null, profiles: null, notifications: null, audit: null, captures: null });
    this.home = home;
    this.loading = new Map();
    this.timer = 0;
    home.addEventListener("changed", (event) => {
      const names = new Set(event.detail);
      if (names.has("lists")) names.add("rules");
      // How a rule reads, and whom a profile has, hang on the others.
      if (names.has("rules") || names.has("profiles")) names.add("audit").add("profiles");
      for (const name of names) if (name in SOURCES) this.load(name);
    });
    home.addEventListener("reset", () => this.loadAll());
  }

  loadAll() {
    return Promise.all(Object.keys(SOURCES).map((name) => this.load(name)));
  }

  /** Fetch a list anew; at most one request of each at a time, and one more if it was asked for meanwhile. */
  load(name) {
    const running = this.loading.get(name);
    if (running) {
      running.again = true;
      return running.promise;
    }
    const job = { again: false, promise: null };
    job.promise = (async () => {
      do {
        job.again = false;
        try {
          this[name] = await SOURCES[name]();
        } catch (error) {
          // Methods of a later version, or a lost connection: the next word of the feed brings it.
          if (this[name] === null && error.code === -32601) this[name] = [];
        }
        this.dispatchEvent(new CustomEvent("change", { detail: name }));
      } while (job.again);
      this.loading.delete(name);
    })();
    this.loading.set(name, job);
    if (name === "captures") job.promise.then(() => this.watchCaptures());
    return job.promise;
  }

  watchCaptures() {
    clearTimeout(this.timer);
    if (this.captures?.some(running)) this.timer = setTimeout(() => this.load("captures"), CAPTURE_LOOK);
  }

  /** Rules that are about a node: as the device, as the party, or by one of its names or addresses. */
  rulesAbout(node) {
    return (this.rules ?? []).filter((rule) => concerns(rule, node));
  }

  /** Rules about a pair: those that are about both of its nodes, or about one and everybody else. */
  rulesAboutPair(device, node) {
    return (this.rules ?? []).filter((rule) => {
      const partyless = !rule.node && !rule.party && !rule.domain && !rule.ip;
      const ours = !rule.device || rule.device === device?.mac;
      return ours && (partyless ? Boolean(rule.device) : isParty(rule, node));
    });
  }

  /** The rule that says just this and always holds, if there is one. */
  exact(fields) {
    const keys = ["action", "device", "node", "domain", "ip", "port", "protocol"];
    return (this.rules ?? []).find(
      (rule) => !rule.until && !rule.schedule && keys.every((key) => (rule[key] || "") === (fields[key] || "")),
    );
  }
}

/** Does a capture still grow? */
export const running = (capture) => ["starting", "running", "stopping"].includes(capture.state);

function isParty(rule, node) {
  if (!node) return false;
  if (rule.node) return rule.node === node.id;
  if (rule.party) return rule.party === node.mac || rule.party === node.domain || Boolean(node.ips?.includes(rule.party));
  if (rule.domain) return [node.domain, ...(node.domains ?? [])].some((host) => within(host, rule.domain));
  return Boolean(rule.ip && node.ips?.includes(rule.ip));
}

const concerns = (rule, node) => Boolean(rule.device && rule.device === node.mac) || isParty(rule, node);

/** Is a host name the domain, or below it? Host names may end in a dot. */
function within(host, domain) {
  const name = (host ?? "").replace(/\.$/, "");
  return name === domain || name.endsWith(`.${domain}`);
}
