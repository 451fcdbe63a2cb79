# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames that the gateway bridges between two devices, blocked with the program ``ebtables``.

Owns its chains ``SPIN_BLOCK_0`` and ``SPIN_BLOCK_1`` and the jump to one of them: iptables does not see
bridged frames. What is wanted changes seldom, and takes a process for each rule.
"""

import re
import subprocess

from spind.model import Mac, format_mac
from spind.ruleset import Ruleset

_CHAINS = ("SPIN_BLOCK_0", "SPIN_BLOCK_1")
_HOOK = "FORWARD"
_TIMEOUT = 10  # seconds
_RULES_MAX = 1_000

# How one finds another: ARP requests, and neighbour solicitations by the groups that they go to (RFC 2464 7).
_SEEKING = (
    ["-p", "ARP", "-d", "ff:ff:ff:ff:ff:ff"],
    ["-p", "IPv6", "-d", "33:33:ff:00:00:00/ff:ff:ff:00:00:00"],
)


class EbtablesBlock:
    """The rules for bridged frames. All methods raise ``OSError`` with the program's words."""

    def __init__(self) -> None:
        self._known: list[list[str]] | None = None

    def probe(self) -> None:
        """Make a chain with a rule, and take it out again."""
        chain = "SPIN_BLOCK_PROBE"
        if chain in _there()[0]:
            _ebtables("-F", chain)
            _ebtables("-X", chain)
        _ebtables("-N", chain)
        try:
            _ebtables("-A", chain, *_rule(bytes(6), bytes(6), "DROP"))
            _ebtables("-F", chain)
        finally:
            _ebtables("-X", chain)

    def install(self, ruleset: Ruleset) -> None:
        """Put the rules in, in place of those of before, if they are others than this object's last."""
        wanted = bridge_rules(ruleset)
        if wanted == self._known:
            return
        if len(wanted) > _RULES_MAX:
            raise OSError(f"ebtables: {len(wanted)} rules are too many")
        self._known = None
        chains, jumps = _there()
        used = jumps[0] if jumps else ""
        if wanted:
            fresh = next(chain for chain in _CHAINS if chain != used)
            _delete(fresh, chains, jumps)
            _ebtables("-N", fresh)
            for rule in [*wanted, ["-j", "RETURN"]]:  # the end of a chain would accept
                _ebtables("-A", fresh, *rule)
            _ebtables("-I", _HOOK, "1", "-j", fresh)
            chains, jumps = chains - {fresh}, [chain for chain in jumps if chain != fresh]
        for chain in _CHAINS:
            _delete(chain, chains, jumps)
        self._known = wanted

    def remove(self) -> None:
        """Take all of ours out; fine where there is nothing."""
        self._known = None
        chains, jumps = _there()
        for chain in _CHAINS:
            _delete(chain, chains, jumps)


def bridge_rules(ruleset: Ruleset) -> list[list[str]]:
    """Arguments for ebtables(8) after the chain, a rule each, in order."""
    rules = [_rule(one, other, "DROP") for one, other in sorted(ruleset.apart)]
    if ruleset.isolated:  # else nobody needs an exception
        rules += [_rule(one, other, "RETURN") for one, other in sorted(ruleset.together)]
    for mac in sorted(ruleset.seeking):
        rules += [["-s", format_mac(mac), *seeks, "-j", "RETURN"] for seeks in _SEEKING]
    for mac in sorted(ruleset.isolated):
        rules += [_rule(mac, None, "DROP"), _rule(None, mac, "DROP")]
    return rules


def _rule(source: Mac | None, destination: Mac | None, target: str) -> list[str]:
    words: list[str] = []
    for option, mac in (("-s", source), ("-d", destination)):
        if mac is not None:
            words += [option, format_mac(mac)]
    return [*words, "-j", target]


def _there() -> tuple[set[str], list[str]]:
    """All chains, and those of ours that the hook jumps to, in order."""
    text = _ebtables("-L")
    hook = text.partition(f"Bridge chain: {_HOOK},")[2].partition("Bridge chain:")[0]
    jumps = [chain for chain in re.findall(r"-j (\S+)", hook) if chain in _CHAINS]
    return set(re.findall(r"^Bridge chain: ([^,\s]+),", text, re.MULTILINE)), jumps


def _delete(chain: str, chains: set[str], jumps: list[str]) -> None:
    for _jump in range(jumps.count(chain)):
        _ebtables("-D", _HOOK, "-j", chain)
    if chain in chains:
        _ebtables("-F", chain)
        _ebtables("-X", chain)


def _ebtables(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["ebtables", *arguments], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError("ebtables takes too long") from None
    if done.returncode:
        raise OSError(f"ebtables: {done.stderr.strip()[:200]}")
    return done.stdout
