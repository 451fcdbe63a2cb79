# SPDX-License-Identifier: GPL-2.0-or-later
"""DHCP messages: scapy's, cut off everywhere, and odd ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from spind.model import parse_address
from spind.wire.dhcp import ACK, REQUEST, DhcpMessage, parse_dhcp
from spind.wire.errors import WireError

MAC = bytes.fromhex("020000000010")


def message(*options, op=1, **fields):
    return bytes(BOOTP(op=op, chaddr=fields.pop("chaddr", MAC), **fields) / DHCP(options=[*options, "end"]))


def test_a_request():
    data = message(("message-type", "request"), ("hostname", b"plug"), ("requested_addr", "10.0.0.9"))
    assert parse_dhcp(data) == DhcpMessage(False, REQUEST, MAC, bytes(4), 0, "plug")
    data = message(("message-type", "request"), ciaddr="10.0.0.9")
    assert parse_dhcp(data).address == parse_address("10.0.0.9")


def test_an_answer():
    data = message(
        "pad",
        ("message-type", "ack"),
        ("subnet_mask", "255.255.252.0"),
        op=2,
        yiaddr="10.0.0.9",
        ciaddr="10.0.0.8",
    )
    assert parse_dhcp(data) == DhcpMessage(True, ACK, MAC, parse_address("10.0.0.9"), 22, "")


def test_plain_bootp():
    assert parse_dhcp(message()).kind == 0


@pytest.mark.parametrize(
    ("mask", "bits"),
    [("255.255.255.255", 32), ("0.0.0.0", 0), ("255.0.255.0", 0), ("0.255.255.0", 0), ("128.0.0.0", 1)],
)
def test_masks(mask, bits):
    assert parse_dhcp(message(("subnet_mask", mask))).prefix_bits == bits


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Living room", "Living room"),
        (b"nul\0", "nul"),
        (b"caf\xc3\xa9", "caf\u00e9"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\x1b[2Jx\n\x7f", "\ufffd[2Jx\ufffd\ufffd"),
        (b"\xe2\x80\xae", "\ufffd"),
        (b"x" * 200, "x" * 63),
        (b"", ""),
    ],
)
def test_host_names_are_printable_text(raw, text):
    assert parse_dhcp(message(("hostname", raw))).hostname == text


@pytest.mark.parametrize(
    "fields", [{"htype": 6}, {"hlen": 16}, {"chaddr": bytes(6)}, {"chaddr": bytes.fromhex("010000000001")}]
)
def test_clients_without_a_mac(fields):
    assert parse_dhcp(message(**fields)) is None


@pytest.mark.parametrize(
    "data", [b"", bytes(240), bytes(BOOTP(op=3) / DHCP(options=["end"])), message()[:236] + b"nope"]
)
def test_what_is_no_message(data):
    with pytest.raises(WireError):
        parse_dhcp(data)


def test_cut_off_at_every_byte():
    data = message(("message-type", "ack"), ("hostname", b"plug"), ("subnet_mask", "255.255.255.0"), op=2)
    whole = parse_dhcp(data)
    ends = {240, 243, 249, 255, 256}
    for cut in range(len(data) + 1):
        if cut in ends:
            assert parse_dhcp(data[:cut]) is not None
        else:
            with pytest.raises(WireError):
                parse_dhcp(data[:cut])
    assert len(data) == 256
    assert whole.hostname == "plug"


@given(st.binary(max_size=120), st.binary(min_size=236, max_size=236))
@settings(max_examples=300, deadline=None)
def test_noise_gives_a_message_or_the_one_error(options, head):
    for data in (head + b"\x63\x82\x53\x63" + options, message()[:240] + options):
        try:
            found = parse_dhcp(data)
        except WireError:
            continue
        assert found is None or found.hostname.isprintable()
