# SPDX-License-Identifier: GPL-2.0-or-later
"""Capture rules as iptables: their text, and putting them into the kernel with python-iptables.

For kernels without ``nft_queue``. Owns the chains of the tables ``mangle`` (IPv4 and IPv6) whose names
begin with ``SPIN_CAPTURE_``, and the jumps to them. Which packets to queue is decided in
``capture_rules``.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from spind.capture_rules import ALIVE_SECONDS, HEADERS_MAX, HOOKS, CaptureSpec, Rule, capture_rules
from spind.iptables import entries, families, library, open_table, table_in_use
from spind.ruleset import Marks

_PREFIX = "SPIN_CAPTURE_"
_TABLE = "mangle"
_ALIVE_LIST = {4: "spin_capture4", 6: "spin_capture6"}
_ALIVE_FILE = {family: Path("/proc/net/xt_recent", name) for family, name in _ALIVE_LIST.items()}
_ALIVE_ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a mask, not an address to listen on
Options = tuple[tuple[str, str], ...]


class XtRule(NamedTuple):
    """A rule in iptables' own words. ``first`` puts it at the head of ``chain``, else at its end.

    Matches and the target are (name, options); an option without a value has an empty one.
    """

    chain: str
    target: tuple[str, Options]
    matches: tuple[tuple[str, Options], ...] = ()
    incoming: str = ""
    outgoing: str = ""
    protocol: str = ""
    first: bool = False

    def text(self) -> str:
        """Write the rule as iptables(8) takes it."""
        words = ["-I" if self.first else "-A", self.chain]
        for option, name in (("-i", self.incoming), ("-o", self.outgoing)):
            if name:
                words += ["!", option, name[1:].strip()] if name.startswith("!") else [option, name]
        if self.protocol:
            words += ["-p", self.protocol]
        for name, options in self.matches:
            words += ["-m", name, *_xt_words(options)]
        words += ["-j", self.target[0], *_xt_words(self.target[1])]
        return " ".join(words)


def _xt_words(options: Options) -> list[str]:
    words: list[str] = []
    for name, value in options:
        words += [f"--{name}", value] if value else [f"--{name}"]
    return words


def render_iptables(rules: list[Rule], marks: Marks, family: int) -> list[XtRule]:
    """Rules for the table ``mangle`` of iptables (``family`` 4) or ip6tables (6), in order.

    The dead man's switch is an entry of a list of the match ``recent``, which the kernel makes one
    for all addresses by a mask of no bits; we refresh it by a write to its file.
    """
    ours = marks.done | marks.cut | marks.inspect
    heads: list[XtRule] = []
    written: list[XtRule] = []
    for rule in rules:
        if rule.action == "remember":
            chain, bit = _PREFIX + rule.marked.upper(), _bit(marks, rule.marked)
            heads.append(XtRule(rule.chain.upper(), (chain, ()), (("mark", (("mark", bit),)),), first=True))
            written += [
                XtRule(chain, ("CONNMARK", (("set-xmark", bit),))),
                XtRule(chain, ("MARK", (("set-xmark", f"0x0/{ours:#x}"),))),
                XtRule(chain, ("ACCEPT", ())),
            ]
            continue
        written.append(
            XtRule(
                _PREFIX + rule.chain.upper(),
                _xt_target(rule),
                tuple(_xt_matches(rule, marks, family)),
                rule.incoming.replace(" ", ""),
                rule.outgoing.replace(" ", ""),
                rule.protocol,
            )
        )
    written += [
        XtRule(hook.upper(), (_PREFIX + hook.upper(), ()))
        for hook in HOOKS
        if any(rule.chain == hook and rule.action != "remember" for rule in rules)
    ]
    return heads[::-1] + written  # each is put before those that are there


def _bit(marks: Marks, name: str) -> str:
    mask: int = getattr(marks, name)
    return f"{mask:#x}/{mask:#x}"


def _xt_target(rule: Rule) -> tuple[str, Options]:
    if rule.action == "queue":
        return "NFQUEUE", (("queue-num", str(rule.queue)), ("queue-bypass", ""))
    if rule.action in ("return", "pass"):
        return "RETURN", ()
    return _PREFIX + rule.target.upper(), ()


def _xt_matches(rule: Rule, marks: Marks, family: int) -> list[tuple[str, Options]]:
    matches: list[tuple[str, Options]] = []
    transport: list[tuple[str, str]] = []
    if rule.destination_port:
        transport.append(("dport", str(rule.destination_port)))
    if rule.source_port:
        transport.append(("sport", str(rule.source_port)))
    if rule.payload == "push":
        transport.append(("tcp-flags", "PSH PSH"))
    if transport:
        matches.append((rule.protocol, tuple(transport)))
    if rule.payload == "long":
        matches.append(("length", (("length", f"{HEADERS_MAX + 1}:65535"),)))
    if rule.new:
        matches.append(("conntrack", (("ctstate", "NEW"),)))
    if rule.original:
        matches.append(("conntrack", (("ctdir", "ORIGINAL"),)))
    if rule.packets is not None:
        which, last = rule.packets
        options = (("connbytes", f"1:{last}"), ("connbytes-dir", which), ("connbytes-mode", "packets"))
        matches.append(("connbytes", options))
    if rule.done:
        matches.append(("connmark", (("mark", _bit(marks, "done")),)))
    if rule.marked:
        matches.append(("mark", (("mark", _bit(marks, rule.marked)),)))
    if rule.alive:
        alive = (
            ("rcheck", ""),
            ("seconds", str(ALIVE_SECONDS)),
            ("name", _ALIVE_LIST[family]),
            ("mask", _ALIVE_ANY[family]),
            ("rsource", ""),
        )
        matches.append(("recent", alive))
    return matches


class IptablesRules:
    """The rules in the kernel, both families. All methods raise ``OSError`` where it refuses."""

    name = "iptables"

    def __init__(self) -> None:
        self._lists: list[tuple[int, bytes]] = []  # files of the switch, kept open; what to write

    def probe(self, *, watched: bool) -> None:
        """Try all kinds of rules in a chain that nothing jumps to, and take them out again.

        What a daemon that was killed has left goes with them.
        """
        spec = CaptureSpec("router", ("lo",), 0, 0, 1, watched)
        for family in families():
            with open_table(_TABLE, family) as table:
                _remove(table)
                for rule in render_iptables(capture_rules(spec), spec.marks, family):
                    _add(table, rule._replace(chain=_PREFIX + "PROBE", first=False), family)
        self.remove()

    def install(self, spec: CaptureSpec) -> None:
        """Put the rules in, in place of what is there of ours; one transaction a family."""
        self._close()
        for family in families():
            with open_table(_TABLE, family) as table:
                _remove(table)
                for rule in render_iptables(capture_rules(spec), spec.marks, family):
                    _add(table, rule, family)
            if spec.watched:
                descriptor = os.open(_ALIVE_FILE[family], os.O_WRONLY | os.O_CLOEXEC)
                self._lists.append((descriptor, b"+" + _ALIVE_ANY[family].encode()))

    def remove(self) -> None:
        """Take our rules out; fine where there are none."""
        self._close()
        for family in families():
            if table_in_use(_TABLE, family):
                with open_table(_TABLE, family) as table:
                    _remove(table)

    def beat(self) -> bool:
        """Hold the dead man's switch for :data:`ALIVE_SECONDS`; false where our rules are gone."""
        try:
            for descriptor, entry in self._lists:
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, entry)
        except OSError:
            return False  # a list, and its file, are there as long as a rule mentions it
        return bool(self._lists)

    def _close(self) -> None:
        for descriptor, _entry in self._lists:
            os.close(descriptor)
        self._lists.clear()

    def in_place(self) -> bool:
        """Whether our rules still stand last: others may have been appended since."""
        for family in families():
            with open_table(_TABLE, family, write=False) as table:
                for hook in HOOKS:
                    targets = [name for _entry, name in entries(table, hook.upper())]
                    if _PREFIX + hook.upper() in targets[:-1]:
                        return False
        return True

    def passed(self) -> tuple[int, int]:
        """Packets for which a queue was asked, and those that were let go since the switch was.

        Rules that are replaced begin at 0 again.
        """
        asked = let_go = 0
        for family in families():
            with open_table(_TABLE, family, write=False) as table:
                for chain in (_PREFIX + "DNS", _PREFIX + "FIRST", _PREFIX + "INSPECT"):
                    if table.is_chain(chain):
                        counts = [entry.counters.pcnt for entry, _target in entries(table, chain)]
                        asked += sum(counts[:1])
                        let_go += sum(counts[1:])
        return asked, let_go


def _remove(table: Any) -> None:
    """Delete the jumps to our chains, then the chains."""
    for hook in HOOKS:
        # A rule that was deleted takes those that were read with it: read again.
        while (ours := _ours(table, hook.upper())) is not None:
            chain = library().Chain(table, hook.upper())
            chain.delete_rule(table.create_rule(ours, chain))
    chains = [chain for chain in table.chains if chain.name.startswith(_PREFIX)]
    for chain in chains:
        chain.flush()
    for chain in chains:
        chain.delete()


def _ours(table: Any, chain: str) -> Any:
    return next((entry for entry, target in entries(table, chain) if target.startswith(_PREFIX)), None)


def _add(table: Any, rule: XtRule, family: int) -> None:
    """Append or insert a rule, and create our chains that it mentions."""
    iptc = library()
    for name in (rule.chain, rule.target[0]):
        if name.startswith(_PREFIX) and not table.is_chain(name):
            table.create_chain(name)
    entry = iptc.Rule() if family == 4 else iptc.Rule6()
    if rule.incoming:
        entry.in_interface = rule.incoming
    if rule.outgoing:
        entry.out_interface = rule.outgoing
    if rule.protocol:
        entry.protocol = rule.protocol
    for name, options in rule.matches:
        _set(entry.create_match(name), options)
    _set(entry.create_target(rule.target[0]), rule.target[1])
    chain = iptc.Chain(table, rule.chain)
    if rule.first:
        chain.insert_rule(entry)
    else:
        chain.append_rule(entry)


def _set(extension: Any, options: Options) -> None:
    for name, value in options:
        words = value.split()
        extension.set_parameter(name, words if len(words) > 1 else value)
