# SPDX-License-Identifier: GPL-2.0-or-later
"""Capture rules as nftables: their text, and putting it into the kernel with ``nft``.

Owns the chains and the set of table ``inet spin`` whose names begin with ``capture_``; other chains of
that table are none of its business. Which packets to queue is decided in ``capture_rules``.
"""

import socket
import subprocess
from itertools import pairwise

from spind.capture_rules import ALIVE_SECONDS, HEADERS_MAX, NOT_LOOPBACK, CaptureSpec, Rule, capture_rules
from spind.netlink_socket import NETLINK_NETFILTER, open_netlink, request
from spind.ruleset import Marks
from spind.wire.errors import WireError
from spind.wire.nftables import NFT_MSG_GETOBJ, counter_request, parse_counter

TABLE = "inet spin"
_PROBE_TABLE = "inet spin_probe"
_ALIVE_SET = "capture_alive"
# Named counters, which rules that are replaced do not reset: packets for which a queue was asked, and
# those that passed while the dead man's switch was let go.
_ASKED = "capture_asked"
_LET_GO = "capture_let_go"
_ALIVE_PORT = 9  # discard
_SO_MARK = 36
_TIMEOUT = 20  # seconds that nft may take; it waits for other transactions

# All chains that we ever make; base chains with their hook and priority. -149 is after conntrack,
# before the filter rules of fw4 and of people, and one behind table mangle of iptables (-150): there
# blocking by iptables sets the bit for inspection, while capture may be by nftables. A beat comes by
# before anything looks at its mark.
_BASE = {
    "forward": "hook forward priority -149",
    "input": "hook input priority -149",
    "output": "hook output priority -149",
    "alive": "hook output priority -150",
}
_CHAINS = (*_BASE, "through", "arriving", "leaving", "inspect", "dns", "first")


def render_nftables(
    rules: list[Rule], marks: Marks, *, there: frozenset[str] = frozenset(), table: str = TABLE
) -> str:
    """Commands for ``nft -f``, one transaction. ``there`` are our chains that the kernel has by now.

    Chains that are needed again are emptied and kept: when a base chain goes, the kernel drops all
    packets that wait in any queue (``nf_queue_nf_hook_drop``).

    The dead man's switch is an element of a set. A packet of ours on loopback, with the bit
    *done*, refreshes it, since that takes microseconds and no transaction.
    """
    needed = {rule.chain for rule in rules} | {rule.target for rule in rules if rule.target}
    watched = any(rule.alive for rule in rules)
    lines = [f"add table {table}"]
    lines += [f"add counter {table} {name}" for name in (_ASKED, _LET_GO)]
    if watched:
        needed.add("alive")
        lines.append(f"add set {table} {_ALIVE_SET} {{ type mark; size 4; flags dynamic, timeout; }}")
    lines += [_nft_chain(table, chain) for chain in _CHAINS if chain in needed]
    lines += [f"flush chain {table} capture_{chain}" for chain in _CHAINS if chain in needed | there]
    lines += [f"delete chain {table} capture_{chain}" for chain in _CHAINS if chain in there - needed]
    if watched:
        bit = f"{marks.done:#010x}"
        lines.append(
            f'add rule {table} capture_alive oifname "lo" meta mark & {bit} == {bit} udp dport {_ALIVE_PORT} '
            f"update @{_ALIVE_SET} {{ meta mark & 0x0 timeout {ALIVE_SECONDS}s }} drop"
        )
    lines += [f"add rule {table} capture_{rule.chain} {_nft_rule(rule, marks)}" for rule in rules]
    return "\n".join(lines) + "\n"


def render_removal(there: frozenset[str], table: str = TABLE) -> str:
    """Commands for ``nft -f`` that delete our chains ``there``, our set and our counters."""
    lines = [f"add set {table} {_ALIVE_SET} {{ type mark; size 4; flags dynamic, timeout; }}"]
    lines += [f"add counter {table} {name}" for name in (_ASKED, _LET_GO)]
    lines += [f"flush chain {table} capture_{chain}" for chain in _CHAINS if chain in there]
    lines += [f"delete chain {table} capture_{chain}" for chain in _CHAINS if chain in there]
    lines.append(f"delete set {table} {_ALIVE_SET}")
    lines += [f"delete counter {table} {name}" for name in (_ASKED, _LET_GO)]
    return "\n".join(lines) + "\n"


def _nft_chain(table: str, chain: str) -> str:
    base = _BASE.get(chain) if table == TABLE else None
    if base is None:
        return f"add chain {table} capture_{chain}"
    return f"add chain {table} capture_{chain} {{ type filter {base}; policy accept; }}"


def _nft_rule(rule: Rule, marks: Marks) -> str:
    done = f"{marks.done:#010x}"
    bit = f"{getattr(marks, rule.marked):#010x}" if rule.marked else ""
    words: list[str] = []
    for field, name in (("iifname", rule.incoming), ("oifname", rule.outgoing)):
        if name == NOT_LOOPBACK:
            words.append(f'{field} != "lo"')
        elif name:
            words.append(f'{field} "{name}"')
    if rule.destination_port:
        words.append(f"{rule.protocol} dport {rule.destination_port}")
    elif rule.source_port:
        words.append(f"{rule.protocol} sport {rule.source_port}")
    elif rule.protocol:
        words.append(f"meta l4proto {rule.protocol}")
    if rule.payload == "push":
        words.append("tcp flags & psh == psh")
    elif rule.payload == "long":
        words.append(f"meta length > {HEADERS_MAX}")
    if rule.new:
        words.append("ct state new")
    if rule.original:
        words.append("ct direction original")
    if rule.packets is not None:
        which, last = rule.packets
        # From 1: a connection without counters has 0, and would match for ever.
        words.append(f"ct {'original ' if which == 'original' else ''}packets 1-{last}")
    if rule.done:
        words.append(f"ct mark & {done} == {done}")
    if rule.marked:
        words.append(f"meta mark & {bit} == {bit}")
    if rule.alive:
        words.append(f"meta mark & 0x0 @{_ALIVE_SET}")
    if rule.action == "remember":
        others = f"{(marks.done | marks.cut | marks.inspect) ^ 0xFFFFFFFF:#010x}"
        words.append(f"ct mark set ct mark | {bit} meta mark set meta mark & {others} accept")
    elif rule.action == "queue":
        words.append(f"counter name {_ASKED} queue num {rule.queue} bypass")
    elif rule.action == "pass":
        words.append(f"counter name {_LET_GO} return")
    elif rule.action == "jump":
        words.append(f"jump capture_{rule.target}")
    else:
        words.append("return")
    return " ".join(words)


class NftablesRules:
    """The rules in the kernel. All methods raise ``OSError`` with ``nft``'s words where it fails."""

    name = "nftables"

    def __init__(self) -> None:
        self._beacon: socket.socket | None = None

    def probe(self, *, watched: bool) -> None:
        """Try all kinds of rules in a table that is deleted in the same transaction.

        So the kernel has seen each, and loaded what modules it has for them. What ``nft --check``
        finds depends on its version. No chain of that table has a hook.
        """
        spec = CaptureSpec("router", ("lo",), 0, 0, 1, watched)
        text = render_nftables(capture_rules(spec), spec.marks, table=_PROBE_TABLE)
        _nft(text + f"delete table {_PROBE_TABLE}\n")

    def install(self, spec: CaptureSpec) -> None:
        """Put the rules in, in place of what is there of ours."""
        listed = _table_lines()
        if not _rightly_hooked(listed):  # by another version; the kernel moves no chain
            _nft(render_removal(_chains(listed)))
            listed = []
        _nft(render_nftables(capture_rules(spec), spec.marks, there=_chains(listed)))
        self._close()
        if spec.watched:
            # The mark is what makes a packet a beat, and setting one takes CAP_NET_ADMIN.
            self._beacon = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._beacon.setsockopt(socket.SOL_SOCKET, _SO_MARK, spec.done_mark)
            self._beacon.setblocking(False)

    def remove(self) -> None:
        """Take our rules out, and the table if nothing else is in it; fine where there are none."""
        self._close()
        listed = _table_lines()
        if not listed:
            return
        _nft(render_removal(_chains(listed)))
        if len(_table_lines()) <= 2:  # its name, and a brace
            _nft(f"delete table {TABLE}\n")

    def beat(self) -> bool:
        """Hold the dead man's switch for :data:`ALIVE_SECONDS`; false where our rules are gone."""
        if self._beacon is None:
            return False
        try:
            self._beacon.sendto(b"", ("127.0.0.1", _ALIVE_PORT))
        except PermissionError:
            return True  # dropped: by our rule, which took it for a beat
        except OSError:
            return False
        return False

    def in_place(self) -> bool:
        """Whether the rules stand where they should; a table of our own moves for nobody."""
        return True

    def passed(self) -> tuple[int, int]:
        """Packets for which a queue was asked, and those that were let go since the switch was."""
        with open_netlink(NETLINK_NETFILTER) as sock:
            asked, let_go = (self._counter(sock, name) for name in (_ASKED, _LET_GO))
        return asked, let_go

    def _counter(self, sock: socket.socket, name: str) -> int:
        request(sock, NFT_MSG_GETOBJ, 0, 1, counter_request(TABLE.split()[1], name))
        try:
            return parse_counter(sock.recv(8192)) or 0  # the kernel answers before send returns
        except (BlockingIOError, WireError):
            return 0

    def _close(self) -> None:
        if self._beacon is not None:
            self._beacon.close()
            self._beacon = None


def _table_lines() -> list[str]:
    """What ``nft`` lists of our table; nothing where it is not there."""
    tables = _nft("list tables\n").split("\n")
    return _nft(f"list table {TABLE}\n").splitlines() if f"table {TABLE}" in tables else []


def _chains(listed: list[str]) -> frozenset[str]:
    """Which of our chains are in a listing."""
    words = (line.split() for line in listed)
    names = {line[1].removeprefix("capture_") for line in words if line[:1] == ["chain"]}
    return frozenset(names & set(_CHAINS))


def _rightly_hooked(listed: list[str]) -> bool:
    """Whether those of our base chains that are in a listing are hooked where we would hook them."""
    lines = [line.strip() for line in listed]
    ours = {f"chain capture_{chain} {{": f"type filter {base};" for chain, base in _BASE.items()}
    return all(following.startswith(ours[line]) for line, following in pairwise(lines) if line in ours)


def _nft(text: str) -> str:
    """Run one transaction and return what ``nft`` prints, priorities as numbers."""
    try:
        done = subprocess.run(
            ["nft", "-y", "-t", "-f", "-"],
            input=text,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError("nft takes too long") from None
    if done.returncode:
        # What is wrong, and the command; the third line would point at a word of it.
        lines = done.stderr.strip().splitlines() or [f"nft ended with {done.returncode}"]
        raise OSError(": ".join([lines[0].split("Error: ")[-1], *lines[1:2]]))
    return done.stdout
