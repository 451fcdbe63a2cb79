// SPDX-License-Identifier: GPL-2.0-or-later
// Sentences, numbers and CSV: what is text stays text, in both languages.

import assert from "node:assert/strict";
import test from "node:test";
import { csv, field } from "../../../spind/web/static/js/csv.js";
import { plain } from "../../../spind/web/static/js/dom.js";
import { ago, bytes, duration, rate, service } from "../../../spind/web/static/js/format.js";
import { dayName, notificationText, ruleText, scheduleText } from "../../../spind/web/static/js/sentences.js";
import { say, setLanguage, t } from "../../../spind/web/static/js/words.js";

const home = { nodes: new Map([[4, { id: 4, mac: "02:00:00:00:08:10" }], [9, { id: 9, domain: "vendor.test" }]]), label: (id) => ({ 4: "camera", 9: "vendor.test" })[id] };

test.beforeEach(() => setLanguage("en"));

test("csv: fields are quoted where they must be (RFC 4180)", () => {
  assert.equal(csv([["a", 'say "x", y'], [1.5, "two\r\nlines"]]), 'a,"say ""x"", y"\r\n1.5,"two\r\nlines"\r\n');
});

test("csv: what a spreadsheet would calculate is text, and numbers are numbers", () => {
  for (const text of ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"]) assert.equal(field(text), `'${text}`);
  assert.equal(field("\r=1"), `"'\r=1"`);
  assert.equal(field('=HYPERLINK("http://a")'), `"'=HYPERLINK(""http://a"")"`);
  assert.equal(field(-3), "-3");
  assert.equal(field(null), "");
});

test("csv: nor where a spreadsheet splits at semicolons or tabs, as with Dutch settings", () => {
  assert.equal(field("a;=1+1;b"), `"a;'=1+1;b"`);
  assert.equal(field('a; "@SUM(A1)'), `"a; ""'@SUM(A1)"`);
  assert.equal(field("a\t-1"), "a\t'-1");
  assert.equal(field(";+1"), `";'+1"`);
  assert.equal(field("  =1"), "'  =1");
  assert.equal(field("＝1"), "'＝1");
  assert.equal(field("a;b-c"), '"a;b-c"');
  assert.equal(field("2024-01-01 10:00"), "2024-01-01 10:00");
});

test("what the browser keeps may be anything", async () => {
  for (const kept of ["constructor", "__proto__", "toString", "{", "\u0000"]) {
    globalThis.localStorage = { getItem: () => kept, setItem: () => {} };
    const fresh = await import(`../../../spind/web/static/js/words.js?${encodeURIComponent(kept)}`);
    assert.ok(["en", "nl"].includes(fresh.language()), kept);
    assert.ok(!fresh.t("list.rows", { count: 1 }).startsWith("list."), kept);
    setLanguage(kept);
    assert.equal(t("list.rows", { count: 1 }), "one row");
  }
  delete globalThis.localStorage;
});

test("nothing hides in text", () => {
  assert.equal(plain("a\u00adb\u3164\u034fc"), "a\ufffdb\ufffd\ufffdc");
  assert.equal(plain("evil\u202egpj.exe\u0000\u200b"), "evil\ufffdgpj.exe\ufffd\ufffd");
  assert.equal(plain("שלום"), "שלום");
  assert.equal(plain(undefined), "");
});

test("values of a sentence are set apart in direction, and never looked into for places", () => {
  assert.equal(t("done.rename", { name: "lamp" }), "It is called lamp now");
  assert.equal(t("done.rename", { name: "שלום" }), "It is called \u2068שלום\u2069 now");
  assert.equal(t("decide.pair", { device: "{node}", node: "x" }), "{node} and x");
  const marks = say("decide.pair", { device: { element: 1 }, node: "{device}" });
  assert.deepEqual(marks.filter((part) => part !== ""), [{ element: 1 }, " and ", "{device}"]);
});

test("one and several", () => {
  assert.equal(t("list.rows", { count: 1 }), "one row");
  assert.equal(t("list.rows", { count: 1234 }), "1,234 rows");
  setLanguage("nl");
  assert.equal(t("list.rows", { count: 1234 }), "1.234 rijen");
  setLanguage("xx");
  assert.equal(t("list.rows", { count: 0 }), "0 rijen");
});

test("amounts", () => {
  assert.equal(bytes(999), "999\u00a0B");
  assert.equal(bytes(999_500), "1.0\u00a0MB");
  assert.equal(bytes(12_345), "12\u00a0kB");
  assert.equal(bytes(5e18), "5,000\u00a0PB");
  assert.equal(rate(0.4), "–");
  assert.equal(rate(1500), "1.5\u00a0kB/s");
  assert.equal(duration(61.4), "1:01");
  assert.equal(ago(1000, 1005), "now");
  assert.equal(ago(1000, 1000 + 7300), "2 hr. ago");
  assert.equal(ago(0, 1000), "–");
});

test("services by what they are called", () => {
  assert.equal(service({ protocol: 6, port: 443 }), "HTTPS");
  assert.equal(service({ protocol: 17, port: 443 }), "HTTP/3");
  assert.equal(service({ protocol: 6, port: 4444 }), "TCP 4444");
  assert.equal(service({ protocol: 58, port: 0, icmp_type: 128 }), "Ping");
  assert.equal(service({ protocol: 1, port: 0, icmp_type: 3 }), "ICMP 3");
  assert.equal(service({ protocol: 250, port: 0 }), "IP 250");
});

test("rules as sentences, from the API's fields and from the configuration's", () => {
  assert.equal(ruleText(home, { action: "block", device: "02:00:00:00:08:10", node: 9 }), "camera may not reach vendor.test");
  assert.equal(ruleText(home, { action: "allow", node: "vendor.test", port: "443", protocol: "tcp" }), "every device may reach vendor.test with TCP port 443");
  assert.equal(ruleText(home, { action: "block", device: "02:00:00:00:08:99", schedule: "mon-fri 22:00-06:30" }), "02:00:00:00:08:99 may not reach anything, at Mon-Fri 22:00-06:30");
  setLanguage("nl");
  assert.equal(ruleText(home, { action: "block", domain: "a.test" }), "geen apparaat mag a.test bereiken");
  assert.equal(scheduleText("daily 22:00-06:30"), "22:00-06:30");
  assert.equal(dayName(6), "zo");
});

test("notifications by their key, else as spind says them", () => {
  assert.equal(notificationText({ message_key: "device.new", message_args: ["tv"], message: "" }), "A new device joined the home: tv");
  assert.equal(notificationText({ message_key: "from.later", message: "As it is." }), "As it is.");
});
