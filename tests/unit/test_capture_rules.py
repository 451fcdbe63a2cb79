# SPDX-License-Identifier: GPL-2.0-or-later
"""The capture rules as text. ``SPIND_UPDATE_GOLDEN=1`` writes the golden files anew."""

import os
import re
from pathlib import Path

import pytest

from spind.capture_iptables import render_iptables
from spind.capture_nftables import render_nftables, render_removal
from spind.capture_rules import CaptureSpec, capture_rules, one_bit

GOLDEN = Path(__file__).parents[1] / "golden" / "capture_rules"

MARK = 0x02000000
SPECS = {
    "router": CaptureSpec("router", ("br-lan", "eth0.10"), 1, 2, MARK),
    "bridge": CaptureSpec("bridge", ("br0",), 1, 2, MARK),
    "local": CaptureSpec("local", (), 1, 2, MARK),
    "local-wifi": CaptureSpec("local", ("wlan0",), 1, 2, MARK),
    "unwatched": CaptureSpec("router", ("br-lan",), 7, 7, MARK, watched=False),
}


def iptables_text(spec: CaptureSpec) -> str:
    lines = []
    for family in (4, 6):
        lines.append(f"# IPv{family}, table mangle")
        lines += [rule.text() for rule in render_iptables(capture_rules(spec), spec.done_mark, family)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", ["nft", "iptables"])
def test_rules_are_as_written(name: str, kind: str) -> None:
    spec = SPECS[name]
    text = render_nftables(capture_rules(spec), spec.done_mark) if kind == "nft" else iptables_text(spec)
    file = GOLDEN / f"{name}.{kind}"
    if os.environ.get("SPIND_UPDATE_GOLDEN") == "1":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", SPECS)
def test_every_chain_that_is_jumped_to_is_there_and_removed(name: str) -> None:
    spec = SPECS[name]
    text = render_nftables(capture_rules(spec), spec.done_mark)
    made = set(re.findall(r"^add chain inet spin (\w+)", text, re.MULTILINE))
    assert set(re.findall(r"jump (\w+)", text)) <= made
    there = frozenset(chain.removeprefix("capture_") for chain in made)
    removed = re.findall(r"^delete chain inet spin (\w+)", render_removal(there), re.MULTILINE)
    assert sorted(removed) == sorted(made)
    again = render_nftables(capture_rules(spec), spec.done_mark, there=there | {"forward"})
    assert ("delete chain inet spin capture_forward" in again) == (spec.mode == "local")
    assert again.count("delete chain") == (1 if spec.mode == "local" else 0), "a hook that goes drops packets"
    rules = render_iptables(capture_rules(spec), spec.done_mark, 4)
    filled = {rule.chain for rule in rules}
    assert {rule.target[0] for rule in rules if rule.target[0].startswith("SPIN_")} <= filled


@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_ever_opened(name: str) -> None:
    """The one accept stands where the packet has been through the chain before; nothing drops."""
    spec = SPECS[name]
    lines = render_nftables(capture_rules(spec), spec.done_mark).splitlines()
    accepts = [line for line in lines if line.startswith("add rule") and line.endswith(" accept")]
    assert len(accepts) == (0 if spec.mode == "local" else 1)
    assert all("meta mark & 0x02000000 == 0x02000000" in line for line in accepts)
    assert [line for line in lines if "drop" in line and 'oifname "lo"' not in line] == []
    queues = [line for line in lines if " queue " in line]
    assert queues
    assert all(line.endswith(" bypass") for line in queues)
    for rule in render_iptables(capture_rules(spec), spec.done_mark, 4):
        if rule.target[0] == "NFQUEUE":
            assert ("queue-bypass", "") in rule.target[1]
        assert rule.target[0] != "DROP"
        assert rule.target[0] != "ACCEPT" or rule.chain == "SPIN_CAPTURE_DONE"


@pytest.mark.parametrize("name", ["", "br lan", 'a"b', "x;y", "br-lan\n", "a" * 16, "eth+", "wl*", "é"])
def test_names_that_no_interface_has_do_not_get_into_rules(name: str) -> None:
    with pytest.raises(ValueError, match="interface name"):
        capture_rules(CaptureSpec("router", (name,), 1, 2, MARK))


@pytest.mark.parametrize(
    ("mask", "bit"), [(0x0E000000, 0x02000000), (1, 1), (0x80000000, 0x80000000), (0, 0)]
)
def test_done_is_the_lowest_bit_of_the_mask(mask: int, bit: int) -> None:
    assert one_bit(mask) == bit


def test_only_our_bit_is_ever_changed() -> None:
    text = render_nftables(capture_rules(SPECS["router"]), MARK)
    (remember,) = [line for line in text.splitlines() if "mark set" in line]
    assert "ct mark set ct mark | 0x02000000 meta mark set meta mark & 0xfdffffff" in remember
    marks = {
        rule.target: rule.chain
        for rule in render_iptables(capture_rules(SPECS["router"]), MARK, 4)
        if rule.target[0] in ("MARK", "CONNMARK")
    }
    assert marks == {
        ("CONNMARK", (("set-xmark", "0x2000000/0x2000000"),)): "SPIN_CAPTURE_DONE",
        ("MARK", (("set-xmark", "0x0/0x2000000"),)): "SPIN_CAPTURE_DONE",
    }
