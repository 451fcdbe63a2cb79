// SPDX-License-Identifier: GPL-2.0-or-later
// Numbers, times and services for people, in their language. Pure but for the language of the moment.

import { locale, t } from "./words.js";

const cache = new Map();

function formatter(kind, options) {
  const key = `${locale()} ${kind.name} ${JSON.stringify(options)}`;
  if (!cache.has(key)) cache.set(key, new kind(locale(), options));
  return cache.get(key);
}

/** A whole number. */
export const count = (value) => formatter(Intl.NumberFormat, { maximumFractionDigits: 0 }).format(value);

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** Bytes, in units of 1,000. */
export function bytes(value) {
  let unit = 0;
  let size = Number(value) || 0;
  while (size >= 999.5 && unit < UNITS.length - 1) {
    size /= 1000;
    unit += 1;
  }
  const digits = unit && size < 9.95 ? 1 : 0;
  const number = formatter(Intl.NumberFormat, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${number.format(size)}\u00a0${UNITS[unit]}`;
}

/** Bytes per second; nothing is a dash, so that the eye finds what moves. */
export const rate = (value) => (value >= 1 ? `${bytes(value)}/s` : "–");

/** A moment (Unix seconds), as clock time today and with the date before. */
export function moment(seconds) {
  if (!seconds) return "–";
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const time = { hour: "2-digit", minute: "2-digit" };
  return formatter(Intl.DateTimeFormat, today ? { ...time, second: "2-digit" } : { ...time, day: "numeric", month: "short" }).format(date);
}

/** A moment in full. */
export const momentInFull = (seconds) =>
  formatter(Intl.DateTimeFormat, { dateStyle: "full", timeStyle: "medium" }).format(new Date(seconds * 1000));

/** How long ago, in words: "now" below ten seconds. */
export function ago(seconds, now) {
  if (!seconds) return "–";
  const passed = Math.max(0, Math.round(now - seconds));
  if (passed < 10) return t("time.now");
  const relative = formatter(Intl.RelativeTimeFormat, { numeric: "always", style: "short" });
  if (passed < 60) return relative.format(-Math.floor(passed / 10) * 10, "second");
  if (passed < 3600) return relative.format(-Math.floor(passed / 60), "minute");
  if (passed < 86400) return relative.format(-Math.floor(passed / 3600), "hour");
  return relative.format(-Math.floor(passed / 86400), "day");
}

/** Minutes and seconds. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Services by their port, where the name says more than the number (IANA's registry). */
const SERVICES = {
  20: "FTP", 21: "FTP", 22: "SSH", 23: "Telnet", 25: "SMTP", 53: "DNS", 67: "DHCP", 68: "DHCP", 80: "HTTP", 110: "POP3", 123: "NTP",
  137: "NetBIOS", 138: "NetBIOS", 139: "SMB", 143: "IMAP", 161: "SNMP", 179: "BGP", 389: "LDAP", 443: "HTTPS", 445: "SMB", 465: "SMTPS",
  500: "IPsec", 515: "LPD", 546: "DHCPv6", 547: "DHCPv6", 548: "AFP", 554: "RTSP", 587: "SMTP", 631: "IPP", 636: "LDAPS", 853: "DNS-TLS",
  873: "rsync", 989: "FTPS", 990: "FTPS", 993: "IMAPS", 995: "POP3S", 1194: "OpenVPN", 1883: "MQTT", 1900: "SSDP", 3074: "Xbox Live",
  3306: "MySQL", 3389: "RDP", 3478: "STUN", 4500: "IPsec", 5060: "SIP", 5061: "SIPS", 5222: "XMPP", 5223: "APNs", 5228: "FCM",
  5349: "TURN", 5353: "mDNS", 5355: "LLMNR", 5432: "PostgreSQL", 5900: "VNC", 6881: "BitTorrent", 8009: "Chromecast", 8080: "HTTP",
  8443: "HTTPS", 8883: "MQTTS", 9100: "JetDirect", 32400: "Plex", 51820: "WireGuard",
};
const PROTOCOLS = { 1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 41: "IPv6", 47: "GRE", 50: "ESP", 51: "AH", 58: "ICMPv6", 132: "SCTP", 136: "UDP-Lite" };

/** The name of an IP protocol, or its number. */
export const protocolName = (protocol) => PROTOCOLS[protocol] ?? `IP ${protocol}`;

/** The service of a flow, such as "HTTPS", "HTTP/3" or "TCP 4444". */
export function service({ protocol, port, icmp_type: type }) {
  if (protocol === 1 || protocol === 58) {
    const kind = type ?? 0;
    return kind === 8 || kind === 128 ? "Ping" : `${protocolName(protocol)} ${kind}`;
  }
  if (protocol === 17 && port === 443) return "HTTP/3";
  const known = (protocol === 6 || protocol === 17) && SERVICES[port];
  return known || (port ? `${protocolName(protocol)} ${port}` : protocolName(protocol));
}
