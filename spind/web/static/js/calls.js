// SPDX-License-Identifier: GPL-2.0-or-later
// Calls to spind: methods as JSON-RPC 2.0, and the session. Knows no method, and nothing of the page.

const JSON_RPC = "/spin_api/jsonrpc";
const SESSION = "/api/v1/session";

/** A call that was refused, or got no answer. `code` is JSON-RPC's, or "lost", "login". */
export class CallError extends Error {
  constructor(message, code, retryAfter = 0) {
    super(message);
    this.code = code;
    /** Seconds after which another attempt has a chance. */
    this.retryAfter = retryAfter;
  }
}

/** Hears of the event "login" when the session is over. */
export const session = new EventTarget();

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch {
    throw new CallError("", "lost");
  }
  let body = null;
  try {
    if (response.status !== 204) body = await response.json();
  } catch {
    if (response.ok) throw new CallError("", "lost");
  }
  if (response.ok) return body;
  const said = body?.error?.message ?? body?.detail ?? body?.message ?? body?.error ?? body?.title;
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  if (response.status === 401 && path !== SESSION) session.dispatchEvent(new Event("login"));
  throw new CallError(typeof said === "string" ? said : "", response.status === 401 ? "login" : response.status, retryAfter);
}

const json = (method, body) => ({ method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

let lastId = 0;
const request = (method, params) => ({ jsonrpc: "2.0", id: ++lastId, method, params });

function unwrap(reply) {
  if (reply?.error) throw new CallError(reply.error.message ?? "", reply.error.code);
  return reply?.result;
}

/** The result of a method. */
export async function call(method, params = {}) {
  return unwrap(await send(JSON_RPC, json("POST", request(method, params))));
}

/** All of a list that comes in pages, up to `most` items. */
export async function all(method, params = {}, most = 5000) {
  const found = [];
  for (;;) {
    const page = await call(method, { ...params, limit: 500, offset: found.length });
    const items = Array.isArray(page) ? page : page.items;
    found.push(...items);
    if (!items.length || found.length >= most || found.length >= (page.total ?? Infinity)) return found;
  }
}

/**
 * Does something that can be undone. The answer has the method's `result` and `entry`, the id of what it wrote
 * into the audit list: 0 if nothing. One batch, which spind answers without doing anything else in between, so
 * the entry cannot be another one's.
 */
export async function act(method, params = {}) {
  const look = () => request("list_audit", { limit: 1 });
  const batch = [look(), request(method, params), look()];
  const replies = await send(JSON_RPC, json("POST", batch));
  if (!Array.isArray(replies)) return unwrap(replies);
  const [before, done, after] = batch.map(({ id }) => replies.find((reply) => reply.id === id));
  const latest = (reply) => reply?.result?.items?.[0]?.id ?? 0;
  const entry = latest(after) > latest(before) ? latest(after) : 0;
  if (done?.error && entry) {
    // Kept, but not in force yet: it can be undone all the same.
    return { result: null, entry, warning: done.error.message };
  }
  return { result: unwrap(done), entry, warning: "" };
}

/** Who we are: {open, name, role, version, login}. */
export const whoAmI = () => send(SESSION, {});

/** Log in; CallError with a sentence where it is refused. */
export const logIn = (user, password) => send(SESSION, json("POST", { user, password }));

/** Log out. */
export const logOut = () => send(SESSION, { method: "DELETE" });
