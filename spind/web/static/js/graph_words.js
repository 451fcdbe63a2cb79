// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the graph and the time line say, in the languages of the page. The language is that of the document.
 */

const WORDS = {
  en: {
    graph: "Graph of the home",
    "graph.help": "Arrow keys move between neighbours, Enter opens, plus and minus zoom, 0 shows all, Escape leaves.",
    "kind.device": "device", "kind.gateway": "router", "kind.site": "site", "kind.more": "more sites",
    "state.recent": "active now", "state.older": "in the last ten minutes", "state.blocked": "blocked",
    "state.query": "looked up", "state.device": "",
    more: "{0} more", "more.of": "{0} more sites of {1}", connections: "{0} connections", connection: "1 connection",
    up: "up", down: "down", edge: "{0} to {1}", nothing: "Nothing selected", opened: "Click to show them",
    timeline: "Time line of the last ten minutes",
    "timeline.live": "Live", "timeline.back": "Looking back at {0}", bytes: "Bytes", packets: "Packets",
    "timeline.all": "All traffic",
  },
  nl: {
    graph: "Kaart van het huis",
    "graph.help": "Met de pijltjes naar de buren, Enter opent, plus en min zoomen, 0 toont alles, Escape verlaat.",
    "kind.device": "apparaat", "kind.gateway": "router", "kind.site": "site", "kind.more": "meer sites",
    "state.recent": "nu actief", "state.older": "in de laatste tien minuten", "state.blocked": "geblokkeerd",
    "state.query": "opgezocht", "state.device": "",
    more: "nog {0}", "more.of": "nog {0} sites van {1}", connections: "{0} verbindingen", connection: "1 verbinding",
    up: "omhoog", down: "omlaag", edge: "{0} met {1}", nothing: "Niets gekozen", opened: "Klik om ze te tonen",
    timeline: "Tijdlijn van de laatste tien minuten",
    "timeline.live": "Live", "timeline.back": "Terugblik op {0}", bytes: "Bytes", packets: "Pakketten",
    "timeline.all": "Al het verkeer",
  },
};

/** The sentence with this key, {0}, {1} ... replaced. */
export function say(key, ...values) {
  const language = WORDS[document.documentElement.lang.slice(0, 2)] || WORDS.en;
  return (language[key] ?? WORDS.en[key]).replace(/\{(\d)\}/g, (_, place) => values[place]);
}
