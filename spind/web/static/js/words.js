// SPDX-License-Identifier: GPL-2.0-or-later
// All sentences of the page, in English; words.nl.js has the same keys in Dutch. Chooses between them.
// {name} is replaced by what the caller gives. Keys with .one and .other depend on {count} (Intl.PluralRules).

import { plain } from "./dom.js";
import { nl } from "./words.nl.js";

export const en = {
  "app.title": "Traffic Monitor",
  "app.skip": "Go to the lists",
  "status.connecting": "Connecting",
  "status.live": "Live",
  "status.lost": "No connection",
  "status.past": "At {time}",
  "lost.banner": "The connection to the router is lost. The page goes on by itself as soon as it is back.",
  "past.banner": "You are looking back at {time}.",
  "past.live": "Back to now",
  "loading": "Having a look at the home …",
  "empty.home": "No device has been seen yet. As soon as something in the home uses the network, it shows up here.",
  "empty.filter": "Nothing here matches what you search for.",
  "empty.clear": "Show everything",

  "tool.search": "Search",
  "tool.searchHint": "Name, address, host",
  "tool.filters": "Filters",
  "tool.device": "Device",
  "tool.allDevices": "All devices",
  "tool.port": "Port",
  "tool.anyPort": "Any port",
  "tool.direction": "Direction",
  "tool.anyDirection": "Both ways",
  "tool.outbound": "From the home",
  "tool.inbound": "To the home",
  "tool.blocked": "Blocked",
  "tool.ignored": "Ignored, too",
  "tool.pause": "Pause",
  "tool.resume": "Go on",
  "tool.lock": "Hold the drawing still",
  "tool.unlock": "Let the drawing move",
  "tool.fit": "Show everything",
  "tool.theme": "Colours: {theme}",
  "theme.auto": "as the system has them",
  "theme.light": "light",
  "theme.dark": "dark",
  "tool.language": "NL",
  "tool.languageHint": "NL: deze pagina in het Nederlands",
  "tool.help": "Help",
  "tool.user": "You",
  "tool.logout": "Log out",
  "tool.graph": "Graph",
  "tool.lists": "Lists",
  "tool.more": "Larger lists",
  "tool.less": "Smaller lists",
  "tool.hide": "Hide the lists",
  "tool.close": "Close",

  "region.graph": "Who talks to whom",
  "region.timeline": "Traffic of the last ten minutes",
  "region.panel": "Details",
  "region.lists": "Lists",
  "region.tools": "Search and filters",

  "kind.device": "Device of the home",
  "kind.site": "Site",
  "kind.gateway": "The router itself",
  "kind.nameless": "Address without a name",
  "node.gone": "This one is not there any more.",
  "node.address.one": "Address",
  "node.address.other": "Addresses",
  "node.hosts": "Host names",
  "node.mac": "Hardware address",
  "node.random": "made up by the device, for privacy",
  "node.called": "It calls itself",
  "node.first": "First seen",
  "node.last": "Last seen",
  "node.profile": "Profile",
  "node.noProfile": "none",
  "node.ignored": "Ignored: not shown in the graph, and not in the messages.",
  "node.blocked": "Blocked",
  "node.excepted": "Always allowed",
  "node.parties": "Talks most to",
  "node.devices": "Used by",
  "node.noParties": "No traffic in view.",
  "node.more.one": "and one more",
  "node.more.other": "and {count} more",
  "node.evidence": "How the names are known",
  "node.rules": "Rules about it",
  "node.noRules": "None.",
  "traffic.title": "Traffic",
  "traffic.up": "Sent",
  "traffic.down": "Received",
  "traffic.now": "Now",
  "traffic.now4": "Now, IPv4",
  "traffic.now6": "Now, IPv6",
  "traffic.window": "Ten minutes",
  "traffic.total": "In all",
  "traffic.ipv4": "In all, IPv4",
  "traffic.ipv6": "In all, IPv6",
  "traffic.packets.one": "one packet",
  "traffic.packets.other": "{count} packets",
  "edge.title": "Connection",
  "edge.flows": "What they exchange",
  "edge.noFlows": "Nothing is known of it any more.",
  "edge.blocked.one": "one packet blocked",
  "edge.blocked.other": "{count} packets blocked",
  "edge.inbound": "opened from outside",

  "evidence.sni": "the device said it when it connected (SNI)",
  "evidence.http": "the device said it when it connected (HTTP)",
  "evidence.dns": "from the DNS answer that the device was given",
  "evidence.dns-other": "from a DNS answer that another device was given",
  "evidence.none": "only the address is known",
  "note.ech": "The device hides the name (ECH): what is shown is its provider's.",
  "note.encrypted-dns": "Encrypted DNS: which names are asked for here is not visible.",
  "note.any": "Note: {note}",

  "home.title": "Your home",
  "home.devices.one": "One device",
  "home.devices.other": "{count} devices",
  "home.sites.one": "one site",
  "home.sites.other": "{count} sites",
  "home.now": "Now",
  "home.busy": "Busy now",
  "home.quiet": "All quiet.",
  "home.recentlyBlocked": "Blocked lately",
  "home.news": "Notifications",
  "home.noNews": "Nothing to report.",
  "home.hint": "Choose something in the graph or in a list to see what it does.",

  "do.ignore": "Ignore",
  "do.unignore": "Do not ignore",
  "do.rename": "Rename",
  "do.block": "Block",
  "do.unblock": "Unblock",
  "do.allow": "Allow",
  "do.unallow": "Do not allow",
  "do.profile": "Profile",
  "do.capture": "Record",
  "do.focus": "Only this",
  "do.unfocus": "Show all",
  "do.remove": "Remove",
  "do.edit": "Change",
  "do.cancel": "Cancel",
  "do.save": "Save",
  "do.undo": "Undo",
  "do.stop": "Stop",
  "do.download": "Download",
  "do.dismiss": "Dismiss",
  "do.viewer": "You may look, but not change anything. The owner of this home can.",
  "do.nothing": "It has nothing by which it could be recognised again, so nothing can be decided about it.",

  "decide.title": "Decide",
  "decide.what": "What",
  "decide.when": "When",
  "decide.pair": "{device} and {node}",
  "decide.device": "{device}, everything",
  "decide.pairPort": "{device} and {node}, only {service}",
  "decide.site": "{node}, for every device",
  "decide.host": "{host}, for {device}",
  "decide.hostAll": "{host}, for every device",
  "decide.always": "From now on",
  "decide.hour": "For an hour",
  "decide.schedule": "At set times",
  "decide.days": "Days",
  "decide.from": "From",
  "decide.to": "To",
  "decide.noDays": "Choose at least one day.",
  "decide.sameTimes": "The times must differ.",

  "done.block": "Blocked: {what}",
  "done.allow": "Allowed: {what}",
  "done.removeRule": "Rule removed: {what}",
  "done.ignore": "{name} is ignored",
  "done.unignore": "{name} is shown again",
  "done.rename": "It is called {name} now",
  "done.unname": "It has its own name again",
  "done.profile": "{name} has the profile {profile}",
  "done.noProfile": "{name} has no profile any more",
  "done.setProfile": "Profile {profile} saved",
  "done.removeProfile": "Profile {profile} removed",
  "done.undo": "Undone",
  "done.undoAgain": "Done again",
  "done.capture": "Recording {name}",
  "done.stop": "Recording stopped",
  "done.dismiss": "Notification dismissed",
  "done.warning": "Kept, but not in force yet: {why}",
  "fail.lost": "The router does not answer. Nothing was changed, as far as is known.",
  "fail.refused": "That did not work: {why}",
  "fail.unknown": "That did not work. The log of the router may say why.",

  "rename.title": "Rename",
  "rename.label": "Name",
  "rename.hint": "Leave it empty to have its own name again.",
  "profile.title": "Profile of {name}",
  "profile.hint": "What it may reach. Single rules count before the profile.",
  "profile.none": "No profile",
  "profile.noneHint": "May reach everything that no rule forbids.",
  "profile.full": "Full access",
  "profile.fullHint": "May reach everything.",
  "profile.local": "Local network only",
  "profile.localHint": "May reach the home, and nothing else.",
  "profile.nointernet": "No internet",
  "profile.nointernetHint": "May reach everything but the internet.",
  "profile.learned": "Only what it already used",
  "profile.learnedHint": "Takes what it has used until now as its list; all else is blocked.",
  "profile.quarantine": "Quarantine",
  "profile.quarantineHint": "May reach nothing at all.",
  "profile.new": "New profile",
  "profile.edit": "Profile {profile}",
  "profile.key": "Short name",
  "profile.keyHint": "Letters, digits and underscores.",
  "profile.name": "Name",
  "profile.description": "What it is for",
  "profile.default": "What is not listed is",
  "profile.allowed": "allowed",
  "profile.blocked": "blocked",
  "profile.allow_domain": "Allowed names",
  "profile.block_domain": "Blocked names",
  "profile.allow_ip": "Allowed addresses",
  "profile.block_ip": "Blocked addresses",
  "profile.domains": "One a line, such as example.org",
  "profile.ips": "One a line: addresses, prefixes, home or internet",
  "capture.title": "Record {name}",
  "capture.hint": "Every packet from and to it, as a file that Wireshark opens. It stays in the router's memory for a while, and nowhere else.",
  "capture.seconds": "At most seconds",
  "capture.megabytes": "At most megabytes",
  "capture.start": "Record",
  "rule.new": "New rule",
  "rule.device": "Device",
  "rule.party": "May not, or may, reach",
  "rule.partyHint": "Host name, domain, address or prefix; empty: everything",
  "rule.comment": "Why",
  "rule.action": "Decision",

  "login.title": "Log in",
  "login.hint": "With the account of this router.",
  "login.user": "User",
  "login.password": "Password",
  "login.submit": "Log in",
  "login.wait": "Too many attempts. The next one is possible in {count} seconds.",
  "login.wrong": "User and password do not match.",
  "user.title": "You",
  "user.open": "Nobody has to log in here, since the page is only reachable from the router itself. A password makes it safe to open up: spind passwd.",
  "user.as": "Logged in as {name}",
  "user.role": "Role: {role}",
  "role.owner": "owner: may do everything",
  "role.viewer": "viewer: may look",
  "role.provider": "provider: helps with what the owner allows",
  "user.version": "spind {version}",

  "list.devices": "Devices",
  "list.sites": "Sites",
  "list.flows": "Flows",
  "list.rules": "Rules",
  "list.profiles": "Profiles",
  "list.notifications": "Notifications",
  "list.audit": "What was done",
  "list.captures": "Recordings",
  "list.search": "Search in this list",
  "list.export": "Save as CSV",
  "list.rows.one": "one row",
  "list.rows.other": "{count} rows",
  "list.page": "{from} to {to} of {count}",
  "list.previous": "Previous rows",
  "list.next": "Next rows",
  "list.loading": "Loading …",
  "list.empty.devices": "No device has been seen yet.",
  "list.empty.sites": "No device has talked to anybody outside yet.",
  "list.empty.flows": "No traffic has been seen yet.",
  "list.empty.rules": "No rules: everything is allowed. Choose something in the graph to block it.",
  "list.empty.profiles": "No profiles.",
  "list.empty.notifications": "Nothing to report.",
  "list.empty.audit": "Nothing has been decided yet.",
  "list.empty.captures": "No recordings. Choose a device or site to record its packets.",
  "list.noMatch": "Nothing in this list matches.",
  "col.name": "Name",
  "col.address": "Address",
  "col.mac": "Hardware address",
  "col.up": "Sent/s",
  "col.down": "Received/s",
  "col.upTotal": "Sent",
  "col.downTotal": "Received",
  "col.last": "Last seen",
  "col.first": "First seen",
  "col.profile": "Profile",
  "col.state": "State",
  "col.devices": "Devices",
  "col.device": "Device",
  "col.party": "With",
  "col.host": "Host name",
  "col.service": "Service",
  "col.packets": "Packets",
  "col.blocked": "Blocked",
  "col.evidence": "Name known",
  "col.rule": "Rule",
  "col.active": "Holds now",
  "col.author": "By",
  "col.created": "Made",
  "col.comment": "Why",
  "col.members": "Devices",
  "col.description": "What it is for",
  "col.default": "Not listed",
  "col.time": "Time",
  "col.message": "Message",
  "col.what": "What",
  "col.through": "Through",
  "col.of": "Of",
  "col.progress": "Progress",
  "col.left": "Time left",
  "col.bytes": "Size",
  "col.do": "",
  "state.blocked": "blocked",
  "state.ignored": "ignored",
  "state.allowed": "allowed",
  "state.none": "",
  "yes": "yes",
  "no": "no",
  "author.owner": "owner",
  "author.provider": "provider",
  "author.detector": "detector",
  "author.profile": "profile",
  "audit.undone": "undone",
  "capture.starting": "starting",
  "capture.running": "running",
  "capture.stopping": "stopping",
  "capture.ended": "ended",
  "builtin": "shipped",

  "say.block.device": "{device} may not reach {party}",
  "say.block.all": "no device may reach {party}",
  "say.allow.device": "{device} may reach {party}",
  "say.allow.all": "every device may reach {party}",
  "say.anything": "anything",
  "say.on": "{sentence} with {service}",
  "say.at": "{sentence}, at {schedule}",
  "say.until": "{sentence}, until {time}",
  "say.port": "port {port}",
  "say.rule.made": "rule made: {rule}",
  "say.rule.removed": "rule removed: {rule}",
  "say.rule.changed": "rule changed: {rule}",
  "say.profile.set": "profile {profile} changed",
  "say.profile.removed": "profile {profile} removed",
  "say.called": "{node} is called {name}",
  "say.unnamed": "{node}: name taken back",
  "say.ignored": "{node} is ignored",
  "say.unignored": "{node} is not ignored any more",
  "say.hasProfile": "{node} has the profile {profile}",
  "say.noProfile": "{node} has no profile any more",
  "say.ignoredAddresses": "ignored addresses: {list}",
  "say.none": "none",
  "news.device.new": "A new device joined the home: {0}",
  "news.device.profile": "{0} is new and was given the profile {1}",
  "news.blocked.party": "{0} tried to reach {1}, which is blocked for it",
  "news.blocked.device": "{0}, which is blocked, tried to reach {1}",
  "news.rule.ended": "This rule ended, as its time was over: {0}",
  "news.table.full": "There are more {0} than fit in memory (limit {1}): the oldest were forgotten",

  "time.now": "now",

  "welcome.title": "Welcome",
  "welcome.1": "This is your home, live. Grey circles are its devices; everything else is who they talk to. Green lines are new, blue ones older, red dashed ones blocked, violet dotted ones are names being looked up.",
  "welcome.2": "The line above shows the last ten minutes. Drag over it to look back.",
  "welcome.3": "Choose a device or a line to see what it does, and to block, allow, rename or record it. Everything can be undone.",
  "welcome.4": "Prefer tables? Every list can be sorted, searched and saved. Nothing you see here leaves your home.",
  "welcome.next": "Next",
  "welcome.done": "Got it",
  "welcome.skip": "Skip",
  "welcome.step": "{count} of {total}",
  "help.title": "Help",
  "help.legend": "Colours and signs",
  "help.device": "Device of the home",
  "help.site": "Site: everything under one name, such as example.org",
  "help.recent": "Traffic in the last half minute: green, a filled dot",
  "help.older": "Traffic within the last ten minutes: blue, an open dot",
  "help.blocked": "Blocked within the last ten minutes: red, dashed, a barred dot",
  "help.query": "A name was looked up: violet, dotted, a ring",
  "help.width": "The wider a line, the more traffic. The arrow shows which way most of it goes.",
  "help.keys": "Keys",
  "help.keysOn": "Single keys work as shortcuts",
  "key.search": "Search",
  "key.pause": "Pause, go on",
  "key.lock": "Hold the drawing still",
  "key.fit": "Show everything",
  "key.focus": "Only what is chosen",
  "key.theme": "Light or dark",
  "key.tabs": "A list",
  "key.help": "This help",
  "key.escape": "Close, choose nothing",
  "key.arrows": "In the graph: to the neighbour in that direction",
  "key.enter": "In the graph: open what is chosen",
  "key.zoom": "In the graph: larger, smaller",
  "help.rulesTitle": "What blocking does",
  "help.rules": "A blocked pair cannot exchange anything, in either direction, from the next packet on, also where it is connected already. The narrower rule wins; between equals, allowing wins. Ignoring only hides.",
  "help.numbersTitle": "What is counted",
  "help.numbers": "Bytes of IP packets, as the router's kernel counts them. Names come from what devices say and ask for; nothing is decrypted.",
  "help.again": "Show the welcome again",
};

const LANGUAGES = { en, nl };

/** The languages that people want, the best first; none where there is no browser. */
const wanted = () => globalThis.navigator?.languages ?? [];

function initial() {
  const kept = remembered("spind.language");
  if (kept in LANGUAGES) return kept;
  return wanted().find((tag) => tag.slice(0, 2) in LANGUAGES)?.slice(0, 2) ?? "en";
}

/** What this browser keeps under a key; empty where it keeps nothing. */
export function remembered(key) {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}

/** Keep something in this browser, if it lets us. */
export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // A private window may refuse; the page works without.
  }
}

let current = initial();

/** The language of the page: "en" or "nl". */
export const language = () => current;

/** Change it; whoever shows words has to show them again. */
export function setLanguage(tag) {
  if (!(tag in LANGUAGES)) return;
  current = tag;
  remember("spind.language", tag);
}

/** The language as people here write numbers and times: en-GB rather than en, where the browser says so. */
export const locale = () => wanted().find((tag) => tag.slice(0, 2) === current) ?? current;

/** Is there such a sentence? */
export const has = (key) => key in en;

function template(key, values) {
  const words = LANGUAGES[current];
  if (key in words) return words[key];
  if ("count" in values) {
    const form = new Intl.PluralRules(current).select(Number(values.count));
    return words[`${key}.${form === "one" ? "one" : "other"}`] ?? key;
  }
  return key;
}

const PLACE = /\{(\w+)\}/;

/** A sentence as text, with each value set apart in direction (Unicode UAX #9: FSI, PDI) unless it is plain ASCII. */
export function t(key, values = {}) {
  return template(key, values).replace(/\{(\w+)\}/g, (whole, place) => {
    if (!(place in values)) return whole;
    const value = typeof values[place] === "number" ? new Intl.NumberFormat(locale()).format(values[place]) : plain(values[place]);
    return /^[\x20-\x7e\u00a0–]*$/.test(value) ? value : `\u2068${value}\u2069`;
  });
}

/** A sentence as a list of nodes and text, in which values may be elements. */
export function say(key, values = {}) {
  return template(key, values)
    .split(new RegExp(PLACE.source, "g"))
    .map((part, index) => {
      if (index % 2 === 0) return part;
      const value = values[part];
      if (value === undefined) return `{${part}}`;
      return typeof value === "number" ? new Intl.NumberFormat(locale()).format(value) : value;
    });
}
