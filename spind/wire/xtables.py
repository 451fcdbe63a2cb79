# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules of iptables and ip6tables: as text, as the entries that the kernel takes, and as it lists them.

Owns the structures of ``linux/netfilter_ipv4/ip_tables.h``, ``linux/netfilter_ipv6/ip6_tables.h``
and of the few matches and targets (``linux/netfilter/xt_*.h``) that blocking needs. Pure.

Why not the plug-ins of the iptables package, as python-iptables uses them: a rule then takes 150 µs
instead of 5, standard output is turned away meanwhile, and with some of them (NFLOG) it ends in a
segmentation fault now and then (seen with 1.2.0 and iptables 1.8.9).
"""

from collections.abc import Iterator
from struct import Struct, calcsize
from typing import NamedTuple

from spind.wire.errors import WireError

ANY_PORT = (0, 65535)

CHAIN_BYTES = 28
"""The name of a chain has at most so many bytes (XT_EXTENSION_MAXNAMELEN with its NUL)."""

_EXTENSION = Struct("@H29sB")  # struct xt_entry_match, xt_entry_target: size with the data, name, revision
_NUMBER = Struct("@i")
_COUNTERS = Struct("@QQ")
_ALIGN = calcsize("@BQ") - 8  # XT_ALIGN: 4 on 32-bit x86, 8 elsewhere
# struct ipt_ip and ip6t_ip6: no addresses; names and masks of interfaces; protocol, flags, inverted flags.
_IP = {4: Struct("@16x16s16s16s16sHBB"), 6: Struct("@64x16s16s16s16sHxBBxxx")}
_REST = Struct("@IHHI")  # of ipt_entry and ip6t_entry: nfcache, target_offset, next_offset, comefrom
_COUNTERS_AT = {family: (ip.size + _REST.size + _ALIGN - 1) & -_ALIGN for family, ip in _IP.items()}
_HEADER = {family: start + _COUNTERS.size for family, start in _COUNTERS_AT.items()}
_OFFSETS = Struct("@HH")
_OFFSETS_AT = {family: ip.size + 4 for family, ip in _IP.items()}
_INVERT_IN, _INVERT_OUT = 1, 2
_GOTO = {4: 2, 6: 4}
_PROTOCOL_GIVEN = {4: 0, 6: 1}  # IP6T_F_PROTO
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}
_STANDARD = (_EXTENSION.size + _NUMBER.size + _ALIGN - 1) & -_ALIGN  # the least that a target has
_CHAIN_HEAD = b"ERROR\0"
_VERDICTS = {-1: "DROP", -2: "ACCEPT", -5: "RETURN"}

_SET = Struct("@HBB4x16x16xI4x")  # struct xt_set_info_match_v4: index, dimensions, which are sources
_MAC = Struct("@6si")
_CONNMARK = Struct("@IIB")
# struct xt_conntrack_mtinfo3: which fields, inverted fields, states; no addresses, times, ports.
_CONNTRACK = Struct("@128x8x10xHHH2x8xxx")
_UDP = Struct("@HHHHB")
_TCP = Struct("@HHHHBBBB")
_LIMIT = Struct("@IILIIIP")  # struct xt_rateinfo: 1/rate, burst; the rest is the kernel's
_LIMIT_OURS = _EXTENSION.size + 8
_NFLOG = Struct("@IHHHxx64s")
_MARK = Struct("@II")
_TCP_FLAGS = {"NONE": 0, "FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}
# enum ipt_reject_with, enum ip6t_reject_with
_ANSWERS = {
    4: {"tcp-reset": 7, "icmp-admin-prohibited": 8},
    6: {"tcp-reset": 6, "icmp6-adm-prohibited": 1},
}


class Extension(NamedTuple):
    """A match or a target: its words for iptables(8), and what the kernel knows it by."""

    text: str
    name: str
    revision: int = 0
    data: bytes = b""


class XtRule(NamedTuple):
    """A rule at the end of ``chain``. Interfaces may begin with ``! ``; ``protocol`` 0 is any."""

    chain: str
    target: Extension
    matches: tuple[Extension, ...] = ()
    incoming: str = ""
    outgoing: str = ""
    protocol: int = 0

    def text(self) -> str:
        """The rule as iptables-save(8) writes it."""
        words = ["-A", self.chain]
        for option, name in (("-i", self.incoming), ("-o", self.outgoing)):
            if name:
                words += ["!", option, name[2:]] if name.startswith("! ") else [option, name]
        if self.protocol:
            words += ["-p", _PROTOCOLS.get(self.protocol, str(self.protocol))]
        return " ".join([*words, *(match.text for match in self.matches), self.target.text])


Identity = tuple[bytes, bytes, str | bytes]
"""What a rule does: interfaces and protocol, matches, and the target (a name where that says it all)."""


def in_set(name: str, fields: str, index: int) -> Extension:
    """The packet's ``fields`` (``dst``, or ``src,src`` and the like) are in an ipset."""
    split = fields.split(",")
    flags = sum(2 << number for number, field in enumerate(split) if field == "src")
    return Extension(f"-m set --match-set {name} {fields}", "set", 4, _SET.pack(index, len(split), flags, 0))


def from_mac(mac: bytes) -> Extension:
    """The frame's sender."""
    return Extension(f"-m mac --mac-source {mac.hex(':')}", "mac", 0, _MAC.pack(mac, 0))


def connection_mark(value: int, mask: int, *, invert: bool = False) -> Extension:
    """Bits ``mask`` of the connection's mark are ``value`` (``invert``: are not).

    Never so for a packet that belongs to no connection.
    """
    text = f"-m connmark {'! ' if invert else ''}--mark {value:#x}/{mask:#x}"
    return Extension(text, "connmark", 1, _CONNMARK.pack(value, mask, invert))


def related() -> Extension:
    """The packet speaks of a connection without being part of it: an error, or a reset that we made."""
    return Extension("-m conntrack --ctstate RELATED", "conntrack", 3, _CONNTRACK.pack(1, 0, 1 << 2))


def udp_ports(source: tuple[int, int], destination: tuple[int, int]) -> Extension:
    """First and last ports, (0, 65535) for any; the rule must be for UDP."""
    text = "-m udp"
    for option, (first, last) in (("--sport", source), ("--dport", destination)):
        if (first, last) != ANY_PORT:
            text += f" {option} {first}:{last}" if last > first else f" {option} {first}"
    return Extension(text, "udp", 0, _UDP.pack(*source, *destination, 0))


def tcp_flags(mask: str, value: str) -> Extension:
    """Of the flags ``mask`` just ``value`` are set; the rule must be for TCP."""
    bits = [sum(_TCP_FLAGS[flag] for flag in flags.split(",")) for flags in (mask, value)]
    data = _TCP.pack(*ANY_PORT, *ANY_PORT, 0, *bits, 0)
    return Extension(f"-m tcp --tcp-flags {mask} {value}", "tcp", 0, data)


def icmp6_type(number: int) -> Extension:
    """A type of ICMPv6, any code; the rule must be for ICMPv6."""
    return Extension(f"-m icmp6 --icmpv6-type {number}", "icmp6", 0, bytes([number, 0, 255, 0]))


def limit(rate: int, burst: int) -> Extension:
    """At most ``rate`` packets a second (of which there are 10,000), after the first ``burst``."""
    text = f"-m limit --limit {rate}/sec --limit-burst {burst}"
    return Extension(text, "limit", 0, _LIMIT.pack(10_000 // rate, burst, 0, 0, 0, 0, 0))


def jump(chain: str) -> Extension:
    """To a chain, or the verdict DROP or RETURN."""
    return Extension(f"-j {chain}", chain)


def goto(chain: str) -> Extension:
    """To a chain, which returns not to here but to where this chain was jumped to from."""
    return Extension(f"-g {chain}", chain)


def reject(answer: str, family: int) -> Extension:
    """Drop the packet and answer with an error; ``tcp-reset`` only in a rule for TCP."""
    number = _ANSWERS[family][answer]
    return Extension(f"-j REJECT --reject-with {answer}", "REJECT", 0, _NUMBER.pack(number))


def log(group: int, prefix: str) -> Extension:
    """Tell the listeners of a group of NFLOG, and go on."""
    text = f'-j NFLOG --nflog-prefix "{prefix}" --nflog-group {group}'
    return Extension(text, "NFLOG", 0, _NFLOG.pack(0, group, 0, 0, prefix.encode()))


def set_mark(bits: int) -> Extension:
    """Set bits of the packet's mark, leave the others, and go on."""
    return Extension(f"-j MARK --set-xmark {bits:#x}/{bits:#x}", "MARK", 2, _MARK.pack(bits, bits))


def pack_entry(rule: XtRule, family: int) -> bytes:
    """The rule as libiptc takes it: the target of a jump by name."""
    flags = inverted = 0
    interfaces: list[bytes] = []
    for name, bit in ((rule.incoming, _INVERT_IN), (rule.outgoing, _INVERT_OUT)):
        if name.startswith("! "):
            inverted |= bit
        interfaces.append(name.removeprefix("! ").encode())
    masks = [b"\xff" * (len(name) + 1) if name else b"" for name in interfaces]
    if rule.protocol:
        flags |= _PROTOCOL_GIVEN[family]
    target = rule.target
    if target.text.startswith("-g "):
        flags |= _GOTO[family]
    return _join(
        _IP[family].pack(*interfaces, *masks, rule.protocol, flags, inverted),
        b"".join([_pack_extension(match) for match in rule.matches]),
        _pack_extension(target._replace(data=target.data or _NUMBER.pack(0))),
        family,
    )


def pack_again(what: Identity, family: int) -> bytes:
    """The entry for a rule that the kernel has, as libiptc takes it."""
    head, matches, target = what
    if isinstance(target, str):
        target = _pack_extension(Extension("", target, 0, _NUMBER.pack(0)))
    return _join(head, matches, target, family)


def _join(head: bytes, matches: bytes, target: bytes, family: int) -> bytes:
    at = _HEADER[family] + len(matches)
    rest = _REST.pack(0, at, at + len(target), 0)
    return b"".join((head, rest, bytes(_HEADER[family] - len(head) - len(rest)), matches, target))


def _pack_extension(extension: Extension) -> bytes:
    size = (_EXTENSION.size + len(extension.data) + _ALIGN - 1) & -_ALIGN
    head = _EXTENSION.pack(size, extension.name.encode(), extension.revision)
    return (head + extension.data).ljust(size, b"\0")


class Entry(NamedTuple):
    """A rule as the kernel has it; ``target`` is the chain, verdict or extension that it goes to.

    ``counters`` is where the entries have those of the rule: :func:`read_counters`.
    """

    identity: Identity
    target: str
    counters: int


def identify(packed: bytes, family: int) -> Identity:
    """The identity that the kernel's entry will have for a rule of :func:`pack_entry`."""
    at, end = _OFFSETS.unpack_from(packed, _OFFSETS_AT[family])
    target: str | bytes = packed[at:end]
    if end - at == _STANDARD and not any(packed[at + _EXTENSION.size : end]):  # no data: a name
        target = _text(packed[at + 2 : at + 31])
    return packed[: _IP[family].size], _matches(packed, _HEADER[family], at), target


def parse_table(data: bytes, family: int, builtin: dict[int, str]) -> dict[str, list[Entry]]:
    """Chains of a table, as the kernel lists its entries. ``WireError`` if malformed.

    ``builtin`` has the name of each built-in chain by the place of its first entry. The rule at the end
    of each chain that is its policy, or the way back, is left out.
    """
    places = list(_places(data, family))
    starts = dict(builtin)  # a chain's name by the place of its first rule
    for _start, at, end in places:
        if data[at + 2 : at + 8] == _CHAIN_HEAD:
            starts[end] = _text(data[at + _EXTENSION.size : end])
    header, ip_size, counters_at = _HEADER[family], _IP[family].size, _COUNTERS_AT[family]
    chains: dict[str, list[Entry]] = {}
    chain: list[Entry] = []
    for start, at, end in places:
        if start in starts:
            chain = chains.setdefault(starts[start], [])
        what: str | bytes = data[at:end]
        if data[at + 2]:
            name = _text(data[at + 2 : at + 31])
            if name == "ERROR":
                continue  # what heads the next chain, or ends the table
        else:
            verdict = _NUMBER.unpack_from(data, at + _EXTENSION.size)[0]
            what = name = _VERDICTS.get(verdict) or starts.get(verdict) or str(verdict)
        matches = _matches(data, start + header, at)
        chain.append(Entry((data[start : start + ip_size], matches, what), name, start + counters_at))
    for chain in chains.values():
        del chain[-1:]
    return chains


def read_counters(data: bytes, entry: Entry) -> tuple[int, int]:
    """Packets and bytes that a rule has matched."""
    packets, octets = _COUNTERS.unpack_from(data, entry.counters)
    return packets, octets


def without_counters(data: bytes, family: int) -> bytes:
    """As long as the entries: ones, but for zeros where there are counters."""
    mask = bytearray(b"\xff" * len(data))
    for start, _at, _end in _places(data, family):
        where = start + _COUNTERS_AT[family]
        mask[where : where + _COUNTERS.size] = bytes(_COUNTERS.size)
    return bytes(mask)


def _places(data: bytes, family: int) -> Iterator[tuple[int, int, int]]:
    """Where each entry starts, where its target, and where the next."""
    header, offsets_at, unpack = _HEADER[family], _OFFSETS_AT[family], _OFFSETS.unpack_from
    position, size = 0, len(data)
    while position < size:
        if size - position < header:
            raise WireError("xtables: entry cut short")
        target, length = unpack(data, position + offsets_at)
        if not header <= target <= length - _STANDARD or length > size - position:
            raise WireError("xtables: entry out of bounds")
        yield position, position + target, position + length
        position += length


def _matches(data: bytes, start: int, end: int) -> bytes:
    """The bytes of the matches, with zeros where the kernel keeps its own in the data of ``limit``."""
    region = data[start:end]
    if b"limit\0" not in region:
        return region
    found = bytearray(region)
    position = 0
    while len(region) - position >= _EXTENSION.size:
        size, name, _revision = _EXTENSION.unpack_from(region, position)
        following = min(position + max(size, _EXTENSION.size), len(region))
        kept = position + _LIMIT_OURS
        if _text(name) == "limit" and kept < following:
            found[kept:following] = bytes(following - kept)
        position = following
    return bytes(found)


def _text(name: bytes) -> str:
    return name.split(b"\0", 1)[0].decode("ascii", "replace")
