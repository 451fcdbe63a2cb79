# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of all options: names, kinds, defaults, explanations. Pure.

The fields of ``Config`` are the table's rows, so that type checkers know each option.
``docs/configuration.md`` and the shipped configuration file are made from it. Must not read any
text (that is ``config``).
"""

from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple

from spind.config_kinds import (
    ADDRESS,
    FLAG,
    HOST,
    MASK,
    NETWORK,
    PATH,
    PORT,
    PREFIX,
    PROFILE,
    SERVER,
    SOCKET,
    TOPIC,
    Kind,
    choice,
    integer,
    list_of,
    seconds,
    text,
)
from spind.ignore import LIMIT as IGNORE_LIMIT
from spind.limits import CaptureLimits, Limits
from spind.model import Mac, format_mac
from spind.profiles import Profile, with_builtin
from spind.rules import Rule

_LIMITS = Limits()
_BACKEND = choice("auto", "nftables", "iptables")


class Option(NamedTuple):
    """A row of the table; ``secret`` values are never shown."""

    name: str
    kind: Kind
    default: Any
    group: str
    doc: str
    secret: bool


@dataclass(frozen=True, slots=True)
class DeviceSection:
    """``config device``: what people decided about a device."""

    section: str
    mac: Mac
    name: str = ""
    profile: str = ""
    ignore: bool = False


@dataclass(frozen=True, slots=True)
class SiteSection:
    """``config site``: what people decided about a remote party, by its domain or address."""

    section: str
    key: str
    name: str = ""
    ignore: bool = False


def _option(group: str, kind: Kind, default: Any, doc: str, *, secret: bool = False) -> Any:
    row = {"kind": kind, "group": group, "doc": doc, "secret": secret}
    return field(default=default, metadata=row, repr=not secret)


_general = partial(_option, "The daemon")
_kernel = partial(_option, "Capture and kernel")
_blocking = partial(_option, "Blocking")
_mqtt = partial(_option, "MQTT")
_web = partial(_option, "Web interface")
_place = partial(_option, "Sockets and files")
_views = partial(_option, "What is shown")
_limit = partial(_option, "Limits", integer(16, 1_000_000))


DOH_RESOLVERS = (
    "dns.google",
    "cloudflare-dns.com",
    "one.one.one.one",
    "mozilla.cloudflare-dns.com",
    "chrome.cloudflare-dns.com",
    "dns.quad9.net",
    "doh.opendns.com",
    "dns.adguard-dns.com",
    "doh.cleanbrowsing.org",
    "dns.nextdns.io",
    "doh.dns.sb",
    "doh.libredns.gr",
    "1.1.1.1",
    "1.0.0.1",
    "2606:4700:4700::1111",
    "2606:4700:4700::1001",
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
    "9.9.9.9",
    "149.112.112.112",
    "2620:fe::fe",
    "2620:fe::9",
)
"""Well-known public resolvers that serve DNS over HTTPS (RFC 8484): names, and anycast addresses."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the file says; each option is an attribute of the same name.

    Lists are tuples, flags bools, masks ints, times seconds; addresses and paths are text as
    sockets and files take them. An optional path, name or password is empty where it is not set.
    """

    enabled: bool = _general(FLAG, True, "Whether the service starts at boot.")
    mode: str = _general(
        choice("router", "bridge", "local"),
        "router",
        "Where the daemon stands: router for a gateway that routes between the home and the internet, "
        "bridge for a machine that bridges the home's traffic, local for a machine that watches itself only.",
    )
    lan: tuple[str, ...] = _general(
        list_of(NETWORK, 32),
        ("lan",),
        "The home's side: names of networks in /etc/config/network, or of interfaces such as br-lan.",
    )
    log_usesyslog: bool = _general(FLAG, True, "Log to syslog; otherwise to standard error.")
    log_loglevel: int = _general(
        integer(0, 7),
        6,
        "The least important level that is logged: 3 errors, 4 warnings, 6 information, 7 debugging.",
    )
    pid_file: str = _general(PATH, "", "File to write the process id to; none if not set.")

    capture_backend: str = _kernel(
        _BACKEND,
        "auto",
        "Which rules bring in packets; auto is nftables if the kernel has nft_queue, else iptables.",
    )
    block_backend: str = _kernel(
        _BACKEND,
        "auto",
        "Which rules block traffic; auto is nftables if the kernel has it, else iptables.",
    )
    iptable_queue_dns: int = _kernel(
        integer(0, 65535), 1, "Number of the NFQUEUE for DNS packets; change it if another program has it."
    )
    iptable_queue_block: int = _kernel(
        integer(0, 65535),
        2,
        "Number of the NFQUEUE for the first packets of connections. It must differ from iptable_queue_dns.",
    )
    iptable_queue_inspect: int = _kernel(
        integer(0, 65535),
        3,
        "Number of the NFQUEUE for packets to an address that several names share, some of them blocked. It "
        "must differ from the other two.",
    )
    ctmark_mask: int = _kernel(
        MASK,
        0x0E000000,
        "Bits of connection and packet marks that are the daemon's own: its three lowest ones are used, all "
        "others left alone. The default is out of the way of sqm (0xff), mwan3 (0x3f00), GL.iNet's policies "
        "(0xf000), and pbr, openNDS and Tailscale (0xff0000). DSCP values kept in the mark for tc ctinfo "
        "(0xfc000000) are in its way: with these, set bits that nothing else uses.",
    )
    conntrack_interval: float = _kernel(
        seconds(0.1, 60),
        1.0,
        "Time between two readings of the kernel's byte counters, the pace of traffic messages.",
    )

    new_device_profile: str = _blocking(
        PROFILE,
        "",
        "Profile that a device gets when it is seen for the first time, such as local or quarantine; none if "
        "not set. Devices that were seen before keep what they have.",
    )
    block_on_stop: bool = _blocking(
        FLAG,
        True,
        "Whether what is blocked stays blocked while the daemon is stopped; with 0 a clean stop removes the "
        "rules. Those of a daemon that was killed stay in any case.",
    )
    block_log_group: int = _blocking(
        integer(0, 65535),
        77,
        "Number of the NFLOG group for reports of blocked packets; change it if another program has it.",
    )
    refuse_doh: bool = _blocking(
        FLAG,
        False,
        "Refuse the known DNS servers that are reached over HTTPS or TLS (doh_resolvers), so that devices "
        "ask the home's, and names can be seen and blocked. Browsers that ask whether they should leave DNS "
        "to the network (use-application-dns.net) are told so.",
    )
    doh_resolvers: tuple[str, ...] = _blocking(
        list_of(SERVER, 256), DOH_RESOLVERS, "Names and addresses that refuse_doh refuses."
    )

    pubsub_host: str = _mqtt(HOST, "127.0.0.1", "The MQTT broker, by name or address.")
    pubsub_port: int = _mqtt(PORT, 1883, "The broker's port.")
    pubsub_websocket_host: str = _mqtt(
        HOST, "127.0.0.1", "The broker's name or address for browsers, which use MQTT over WebSocket."
    )
    pubsub_websocket_port: int = _mqtt(PORT, 1884, "The broker's WebSocket port.")
    pubsub_channel_traffic: str = _mqtt(
        TOPIC,
        "SPIN/traffic",
        "Topic of traffic messages. What is before its last slash begins all other topics, too.",
    )
    pubsub_timeout: int = _mqtt(
        integer(1, 65535), 60, "Keep-alive time in seconds; a connection silent for longer is taken for dead."
    )
    pubsub_user: str = _mqtt(text(255), "", "User name for the broker; none if not set.")
    pubsub_password: str = _mqtt(text(1024), "", "Password for the broker; none if not set.", secret=True)
    pubsub_tls_ca_file: str = _mqtt(
        PATH, "", "Certificates (PEM) that the broker's must be signed by. If it is set, TLS is used."
    )
    pubsub_rpc: bool = _mqtt(
        FLAG,
        False,
        "Take JSON-RPC requests over MQTT. Whoever may publish on the broker can then control the home.",
    )

    spinweb_interfaces: tuple[str, ...] = _web(
        list_of(ADDRESS, 16), ("127.0.0.1",), "Addresses of this machine that the web interface listens on."
    )
    spinweb_port: int = _web(
        integer(0, 65535), 13026, "Port that the web interface listens on; 0 for no web interface."
    )
    spinweb_hostnames: tuple[str, ...] = _web(
        list_of(HOST, 16),
        (),
        "Names, beside this machine's own and its addresses, under which browsers may ask for the web "
        "interface. Any other is refused, since strangers' names can be made to point here.",
    )
    spinweb_tls_certificate_file: str = _web(
        PATH, "", "Certificate (PEM). If it and the key are set, the web interface speaks HTTPS only."
    )
    spinweb_tls_key_file: str = _web(PATH, "", "Private key (PEM) of the certificate.")
    spinweb_password_file: str = _web(
        PATH,
        "",
        "Password file as 'spind passwd' and mosquitto_passwd write it. If it is set, users log in with what "
        "it says; otherwise, on OpenWrt, with the router's own accounts.",
    )
    spinweb_token_file: str = _web(
        PATH, "/etc/spin/tokens", "File of the tokens with which programs log in; 'spind token' writes it."
    )
    spinweb_provider: str = _web(
        choice("off", "view", "act"),
        "off",
        "What users with the role provider may do, who are the access provider's: nothing, look, or make "
        "rules of their own, which never go before the owner's.",
    )

    rpc_socket: str = _place(SOCKET, "/var/run/spin_rpc.sock", "Unix socket for JSON-RPC, for root only.")
    ubus_socket: str = _place(SOCKET, "/var/run/ubus/ubus.sock", "Unix socket of ubusd, OpenWrt's bus.")
    state_dir: str = _place(
        PATH,
        "/var/lib/spin",
        "Where the ids of devices are kept, so that a restart does not change them.",
    )
    history_dir: str = _place(
        PATH, "/var/run/spin", "Where traffic history is kept; best in memory (tmpfs), to spare flash."
    )
    lease_file: tuple[str, ...] = _place(
        list_of(PATH, 16),
        ("/tmp/dhcp.leases", "/var/lib/misc/dnsmasq.leases"),  # noqa: S108 - dnsmasq's own paths
        "dnsmasq's lease files, which tell the names that devices give themselves. Missing ones do no harm.",
    )

    node_cache_retain_time: int = _views(
        integer(1, 31_536_000),
        1800,
        "Seconds after which a device or remote party that was not seen again is forgotten.",
    )
    ignore_ip: tuple[str, ...] = _views(
        list_of(PREFIX, IGNORE_LIMIT),
        (),
        "Addresses and prefixes that are not shown. Ignoring hides; it neither blocks nor allows.",
    )
    dots_enabled: bool = _views(
        FLAG, False, "Take the mitigation requests of DOTS (RFC 9132) that come in by the method dots_signal."
    )
    dots_log_only: bool = _views(FLAG, False, "Log those requests, and block nothing.")

    limit_devices: int = _option(
        "Limits",
        integer(16, 30000),  # what the state file can hold
        _LIMITS.devices,
        "Devices. The one unseen for longest goes, if nobody named it.",
    )
    limit_sites: int = _limit(
        _LIMITS.sites, "Remote parties. The one unseen for longest goes, if nobody named it."
    )
    limit_sites_per_device: int = _limit(
        _LIMITS.sites_per_device,
        "Remote parties of one device; beyond, its nameless addresses are counted together.",
    )
    limit_addresses_per_node: int = _limit(
        _LIMITS.addresses_per_node, "Addresses of one node; the oldest goes."
    )
    limit_domains_per_node: int = _limit(_LIMITS.domains_per_node, "Host names of one node; the oldest goes.")
    limit_names: int = _limit(_LIMITS.names, "DNS answers remembered; the least recently answered goes.")
    limit_queries: int = _limit(_LIMITS.queries, "DNS queries that wait for their answer; the oldest goes.")
    limit_connections: int = _limit(
        _LIMITS.connections, "Connections known by name; the one unseen for longest goes and is named anew."
    )
    limit_flows: int = _limit(
        _LIMITS.flows, "Flows; the one unseen for longest goes, its bytes stay in the device's total."
    )
    limit_window_cells: int = _limit(
        _LIMITS.window_cells,
        "Cells of the ten-minute time series; beyond, pairs are counted per device only.",
    )
    limit_report_rows: int = _limit(
        _LIMITS.report_rows, "Rows of one traffic message; beyond, connections share a row per pair of nodes."
    )
    limit_streams: int = _limit(
        _LIMITS.streams, "TCP streams that are read for names at a time; the oldest goes."
    )
    limit_rules: int = _limit(
        _LIMITS.rules, "Rules; beyond, another one is refused, and those at the end of the file do not apply."
    )
    limit_blocked_addresses: int = _limit(
        _LIMITS.blocked_addresses,
        "Addresses remembered of names that rules speak of; the least recently answered goes.",
    )
    limit_captures: int = _option(
        "Limits",
        integer(1, 16),
        CaptureLimits().captures,
        "Packet captures, running or kept for download; the oldest that has ended goes.",
    )
    limit_capture_seconds: int = _option(
        "Limits", integer(10, 86400), CaptureLimits().seconds, "Seconds that a packet capture may take."
    )
    limit_capture_bytes: int = _option(
        "Limits",
        integer(65536, 1 << 30),
        CaptureLimits().bytes,
        "Bytes of one packet capture. They are kept in memory, for ten minutes after its end.",
    )

    devices: tuple[DeviceSection, ...] = ()
    sites: tuple[SiteSection, ...] = ()
    rules: tuple[Rule, ...] = ()
    profiles: tuple[Profile, ...] = ()
    """Those of the file; the shipped ones are in ``all_profiles``, too."""

    highest_rule_id: int = 0
    """Highest number of a section called ``rule<number>`` or of a rule here: the next one is above it."""

    @property
    def limits(self) -> Limits:
        """The ``limit_*`` options as the engine takes them."""
        return Limits(**{name: getattr(self, f"limit_{name}") for name in Limits._fields})

    @property
    def capture_limits(self) -> CaptureLimits:
        """The limits of packet captures."""
        return CaptureLimits(self.limit_captures, self.limit_capture_seconds, self.limit_capture_bytes)

    def all_profiles(self) -> dict[str, Profile]:
        """The shipped profiles and those of the file, by name."""
        return with_builtin(self.profiles)

    def decisions(self) -> dict[str, tuple[str, bool]]:
        """(name, ignored) of devices by MAC and of sites by domain or address."""
        return {key: (name, ignore) for key, (name, ignore, _) in self.decided_nodes().items()}

    def decided_nodes(self) -> dict[str, tuple[str, bool, str]]:
        """As ``decisions``, with the name of the profile (empty: none), for ``events.Decided``."""
        decided = {
            format_mac(device.mac): (device.name, device.ignore, device.profile) for device in self.devices
        }
        return decided | {site.key: (site.name, site.ignore, "") for site in self.sites}


OPTIONS = {f.name: Option(f.name, default=f.default, **f.metadata) for f in fields(Config) if f.metadata}
"""The table of the main section's options, in the order of the documentation."""

SECTIONS = {
    "device": {
        "mac": "MAC address of the device.",
        "name": "What people call it: at most 64 characters.",
        "profile": "Name of its profile, a section config profile or a shipped one; none if not set.",
        "ignore": "1 hides it from views and messages; what blocks it goes on blocking it.",
    },
    "site": {
        "domain": "Registrable domain of the remote party, such as example.org.",
        "ip": "Its address, if it is known by nothing else.",
        "name": "What people call it: at most 64 characters.",
        "ignore": "1 hides it from views and messages; what blocks it goes on blocking it.",
    },
    "rule": {
        "device": "MAC address of the device it is for; all devices if not set.",
        "domain": "Host name or domain it is for, and everything below it.",
        "node": "Instead of domain: the MAC address, registrable domain or address of the node it is for.",
        "ip": "Instead of domain: the address or prefix it is for.",
        "port": "Port of the remote party, TCP and UDP.",
        "protocol": "tcp, udp, icmp (ICMPv6, too), another protocol's name or its number.",
        "action": "block or allow.",
        "until": "Unix time in seconds at which the rule ends.",
        "schedule": "Times of the week at which it holds; always if not set.",
        "comment": "Why it is there: at most 200 characters.",
        "author": "Who made it: owner, provider, detector or profile.",
        "created": "Unix time in seconds at which it was made.",
    },
    "profile": {
        "name": "What people call it: at most 64 characters.",
        "description": "What it is for: at most 200 characters.",
        "default": "allow or block: what holds for everything that is not listed.",
        "allow_domain": "List of domains that are allowed.",
        "block_domain": "List of domains that are blocked.",
        "allow_ip": "List of addresses and prefixes that are allowed, or the words home and internet.",
        "block_ip": "List of addresses and prefixes that are blocked, or the words home and internet.",
    },
}
"""The other sections and their options."""

_BROKER = "spind starts no broker: run mosquitto as a service of its own"
_RULES = "spind keeps its rules in a table of its own"
OBSOLETE = {
    "log_file": "spind logs to syslog or to standard error (log_usesyslog)",
    "log_use_syslog": "the option is called log_usesyslog",
    "pubsub_channel_commands": "requests come in at SPIN/jsonrpc/q, if pubsub_rpc is 1",
    "pubsub_run_mosquitto": _BROKER,
    "pubsub_run_password_file": _BROKER,
    "pubsub_run_pid_file": _BROKER,
    "pubsub_run_user": _BROKER,
    "iptable_nflog_dns_group": "the queue of DNS packets is iptable_queue_dns",
    "iptable_place_block": _RULES,
    "iptable_place_dns": _RULES,
    "iptable_debug": f"{_RULES}; 'nft list table inet spin' shows it",
    "spinweb_pid_file": "the web interface is a part of spind (pid_file)",
}
"""Options of SPIN 1.0 that mean nothing here, and why."""
