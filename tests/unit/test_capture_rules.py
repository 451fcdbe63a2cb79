# SPDX-License-Identifier: GPL-2.0-or-later
"""The capture rules as text. ``SPIND_UPDATE_GOLDEN=1`` writes the golden files anew."""

import os
import re
from pathlib import Path

import pytest

from spind.capture_iptables import render_iptables
from spind.capture_nftables import _rightly_hooked, render_nftables, render_removal
from spind.capture_rules import CaptureSpec, Rule, bits, capture_rules, one_bit
from spind.ruleset import Marks

GOLDEN = Path(__file__).parents[1] / "golden" / "capture_rules"

MARK, CUT, INSPECT = 0x02000000, 0x04000000, 0x08000000
OURS = Marks(MARK, CUT, INSPECT)
SPECS = {
    "router": CaptureSpec("router", ("br-lan", "eth0.10"), 1, 2, MARK),
    "bridge": CaptureSpec("bridge", ("br0",), 1, 2, MARK),
    "local": CaptureSpec("local", (), 1, 2, MARK),
    "local-wifi": CaptureSpec("local", ("wlan0",), 1, 2, MARK),
    "unwatched": CaptureSpec("router", ("br-lan",), 7, 7, MARK, watched=False),
    "router-inspect": CaptureSpec("router", ("br-lan",), 1, 2, MARK, True, 3, CUT, INSPECT),
    "local-inspect": CaptureSpec("local", (), 1, 2, MARK, True, 3, CUT, INSPECT),
}


def iptables_text(spec: CaptureSpec) -> str:
    lines = []
    for family in (4, 6):
        lines.append(f"# IPv{family}, table mangle")
        lines += [rule.text() for rule in render_iptables(capture_rules(spec), spec.marks, family)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", ["nft", "iptables"])
def test_rules_are_as_written(name: str, kind: str) -> None:
    spec = SPECS[name]
    text = render_nftables(capture_rules(spec), spec.marks) if kind == "nft" else iptables_text(spec)
    file = GOLDEN / f"{name}.{kind}"
    if os.environ.get("SPIND_UPDATE_GOLDEN") == "1":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", SPECS)
def test_every_chain_that_is_jumped_to_is_there_and_removed(name: str) -> None:
    spec = SPECS[name]
    text = render_nftables(capture_rules(spec), spec.marks)
    made = set(re.findall(r"^add chain inet spin (\w+)", text, re.MULTILINE))
    assert set(re.findall(r"jump (\w+)", text)) <= made
    there = frozenset(chain.removeprefix("capture_") for chain in made)
    removed = re.findall(r"^delete chain inet spin (\w+)", render_removal(there), re.MULTILINE)
    assert sorted(removed) == sorted(made)
    again = render_nftables(capture_rules(spec), spec.marks, there=there | {"forward"})
    assert ("delete chain inet spin capture_forward" in again) == (spec.mode == "local")
    assert again.count("delete chain") == (1 if spec.mode == "local" else 0), "a hook that goes drops packets"
    rules = render_iptables(capture_rules(spec), spec.marks, 4)
    filled = {rule.chain for rule in rules}
    assert {rule.target[0] for rule in rules if rule.target[0].startswith("SPIN_")} <= filled


@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_ever_opened(name: str) -> None:
    """Accepts stand where the packet has been through the chain before; nothing drops."""
    spec = SPECS[name]
    inspecting = bool(spec.inspect_mark)
    lines = render_nftables(capture_rules(spec), spec.marks).splitlines()
    accepts = [line for line in lines if line.startswith("add rule") and line.endswith(" accept")]
    assert len(accepts) == (2 if inspecting else 0 if spec.mode == "local" else 1)
    for line in accepts:
        assert re.search(r"meta mark & (0x0[24]000000) == \1 ct mark set ct mark \| \1 ", line)
    assert [line for line in lines if "drop" in line and 'oifname "lo"' not in line] == []
    queues = [line for line in lines if " queue " in line]
    assert queues
    assert all(line.endswith(" bypass") for line in queues)
    for rule in render_iptables(capture_rules(spec), spec.marks, 4):
        if rule.target[0] == "NFQUEUE":
            assert ("queue-bypass", "") in rule.target[1]
        assert rule.target[0] != "DROP"
        assert rule.target[0] != "ACCEPT" or rule.chain in ("SPIN_CAPTURE_DONE", "SPIN_CAPTURE_CUT")


@pytest.mark.parametrize("name", ["", "br lan", 'a"b', "x;y", "br-lan\n", "a" * 16, "eth+", "wl*", "é"])
def test_names_that_no_interface_has_do_not_get_into_rules(name: str) -> None:
    with pytest.raises(ValueError, match="interface name"):
        capture_rules(CaptureSpec("router", (name,), 1, 2, MARK))


@pytest.mark.parametrize(
    ("mask", "bit"), [(0x0E000000, 0x02000000), (1, 1), (0x80000000, 0x80000000), (0, 0)]
)
def test_done_is_the_lowest_bit_of_the_mask(mask: int, bit: int) -> None:
    assert one_bit(mask) == bit


def test_bits_are_the_three_lowest() -> None:
    assert bits(0x0E000000) == OURS
    assert bits(0x80010101) == (1, 0x100, 0x10000)
    for mask in (0, 1, 0x80000001):
        with pytest.raises(ValueError, match="three bits"):
            bits(mask)


def test_only_our_bits_are_ever_changed() -> None:
    text = render_nftables(capture_rules(SPECS["router"]), Marks(MARK, 0, 0))
    (remember,) = [line for line in text.splitlines() if "mark set" in line]
    assert "ct mark set ct mark | 0x02000000 meta mark set meta mark & 0xfdffffff" in remember
    for spec, packet in ((SPECS["router"], "0x2000000"), (SPECS["router-inspect"], "0xe000000")):
        changes = [
            (rule.chain.removeprefix("SPIN_CAPTURE_"), rule.target[0], rule.target[1][0][1])
            for rule in render_iptables(capture_rules(spec), spec.marks, 4)
            if rule.target[0] in ("MARK", "CONNMARK")
        ]
        cut = [("CUT", "CONNMARK", "0x4000000/0x4000000"), ("CUT", "MARK", f"0x0/{packet}")]
        done = [("DONE", "CONNMARK", "0x2000000/0x2000000"), ("DONE", "MARK", f"0x0/{packet}")]
        assert changes == (cut + done if spec.cut_mark else done)


@pytest.mark.parametrize("name", ["router-inspect", "local-inspect"])
def test_what_is_to_be_inspected_comes_before_everything_else(name: str) -> None:
    """Also before the dead man's switch; cut and done before that, or a repeat would never end."""
    spec = SPECS[name]
    chain = "output" if spec.mode == "local" else "forward"
    rules = [rule for rule in capture_rules(spec) if rule.chain == chain]
    assert [(rule.action, rule.marked) for rule in rules[:3]] == [
        ("remember", "cut"),
        ("remember", "done"),
        ("jump", "inspect"),
    ]
    assert [rule for rule in capture_rules(spec) if rule.chain == "inspect"] == [
        Rule("inspect", "queue", queue=3)
    ]
    xt = render_iptables(capture_rules(spec), spec.marks, 6)
    heads = [rule.target[0] for rule in xt if rule.chain == chain.upper() and rule.first]
    assert heads == ["SPIN_CAPTURE_DONE", "SPIN_CAPTURE_CUT"], "each is put before the last"


@pytest.mark.parametrize("queue", [1, 2])
def test_inspection_shares_no_queue(queue: int) -> None:
    """The others let packets pass that find no room."""
    with pytest.raises(ValueError, match="cannot serve inspection"):
        capture_rules(SPECS["router-inspect"]._replace(queue_inspect=queue))


LISTED = """table inet spin {
	chain capture_forward {
		type filter hook forward priority -149; policy accept;
		jump capture_through
	}

	chain capture_alive {
		type filter hook output priority -150; policy accept;
	}

	chain capture_through {
	}

	chain block_forward {
		type filter hook forward priority -160; policy accept;
	}
}
"""


def test_chains_that_another_version_hooked_elsewhere_are_noticed() -> None:
    assert _rightly_hooked(LISTED.splitlines())
    assert not _rightly_hooked(LISTED.replace("-149", "-150").splitlines())
    assert not _rightly_hooked(LISTED.replace("output priority -150", "output priority -149").splitlines())
    assert _rightly_hooked([])
