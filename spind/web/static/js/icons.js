// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Signs for devices, guessed from what they are called. A guess: it only decorates, and where nothing is
 * recognised, the name's first letter is shown. Drawn in a square of 24, as lines. Pure but for Path2D.
 */

const PATHS = {
  phone: "M8 3h8a1 1 0 0 1 1 1v16a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM11 18h2",
  tablet: "M6 3h12a1 1 0 0 1 1 1v16a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM11 18h2",
  laptop: "M6 5h12a1 1 0 0 1 1 1v9H5V6a1 1 0 0 1 1-1zM2.5 18.5h19",
  desktop: "M4 4h16a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zM12 16v4M8 20h8",
  tv: "M3 7h18v11H3zM8 21h8M8.5 3l3.5 4 3.5-4",
  camera: "M3 8h11v9H3zM14 11.5l6-3v8l-6-3",
  printer: "M7 9V4h10v5M7 17H4V9h16v8h-3M7 14h10v6H7z",
  speaker: "M7 3h10v18H7zM12 11.5a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM12 6.5v.6",
  light: "M9 18h6M10 21h4M12 3a6 6 0 0 0-3.6 10.8c.7.6 1 1.3 1 2.2h5.2c0-.9.3-1.6 1-2.2A6 6 0 0 0 12 3z",
  console: "M7 8h10a4 4 0 0 1 4 4.5c-.3 3-1 4.5-2.5 4.5S16 15 15 15H9c-1 0-2 2-3.5 2S3.3 15.5 3 12.5A4 4 0 0 1 7 8zM8 10v3M6.5 11.5h3M16 11.5h.1",
  watch: "M12 7a5 5 0 1 0 0 10 5 5 0 0 0 0-10zM9.5 7l.5-4h4l.5 4M9.5 17l.5 4h4l.5-4M12 10v2l1.5 1",
  server: "M5 4h14v6H5zM5 14h14v6H5zM8 7h.1M8 17h.1",
  router: "M3 14h18v6H3zM7 17h.1M11 17h.1M17 14V9M14 8a4 4 0 0 1 6 0M12 5.5a7.5 7.5 0 0 1 10 0",
  plug: "M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4",
  thermostat: "M10 14V5a2 2 0 0 1 4 0v9a4 4 0 1 1-4 0zM12 9v8",
  vacuum: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 9.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM7 6.5l10 0",
  appliance: "M5 3h14v18H5zM5 7h14M12 10a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM8 5h.1",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.5 5.5l1.4 1.4M17.1 17.1l1.4 1.4M5.5 18.5l1.4-1.4M17.1 6.9l1.4-1.4",
};

/* First match wins, so what is more particular comes first. English and Dutch, and makes. */
const WORDS = [
  [/doorbell|deurbel|cam(era)?\b|ipcam|baby|monitor cam|reolink|arlo\b/, "camera"],
  [/watch|horloge|fitbit|garmin/, "watch"],
  [/ipad|tablet|kindle|e-?reader|kobo/, "tablet"],
  [/iphone|phone|telefoon|pixel|galaxy|android|oneplus|fairphone|mobiel/, "phone"],
  [/macbook|laptop|notebook|thinkpad|chromebook|xps\b/, "laptop"],
  [/playstation|\bps[45]\b|xbox|nintendo|\bswitch\b|steam ?deck/, "console"],
  [/chromecast|\btv\b|televisi|bravia|apple-?tv|roku|shield|fire-?stick/, "tv"],
  [/printer|epson|brother|officejet|laserjet/, "printer"],
  [/sonos|speaker|luidspreker|echo\b|homepod|alexa|google home|nest mini/, "speaker"],
  [/\bhue\b|lamp|light|licht|bulb|tradfri|wled/, "light"],
  [/vacuum|roomba|roborock|stofzuiger/, "vacuum"],
  [/thermost|tado|nest|toon\b|heating|verwarming/, "thermostat"],
  [/solar|omvormer|inverter|zonne/, "sun"],
  [/wash|dryer|droger|fridge|koelkast|oven|dish|vaatwas|was ?machine/, "appliance"],
  [/plug|stekker|shelly|tasmota|socket/, "plug"],
  [/\bnas\b|synology|qnap|server|raspberry|\bpi\b|proxmox/, "server"],
  [/router|gateway|openwrt|access ?point|\bap\b/, "router"],
  [/\bpc\b|desktop|imac|computer|windows/, "desktop"],
];

/** The name of the sign for a device that is called so, or "". */
export function iconName(label, kind = "device") {
  if (kind === "gateway") return "router";
  const text = String(label).slice(0, 60).toLowerCase().replaceAll("_", " ");
  for (const [words, name] of WORDS) if (words.test(text)) return name;
  return "";
}

const made = new Map();

/** The sign as a Path2D, or null. */
export function icon(name) {
  if (!PATHS[name]) return null;
  if (!made.has(name)) made.set(name, new Path2D(PATHS[name]));
  return made.get(name);
}

/** What is written where there is no sign: the first letter or digit. */
export function initial(label) {
  const found = /[\p{L}\p{N}]/u.exec(String(label).slice(0, 60));
  return found ? found[0].toUpperCase() : "•";
}
