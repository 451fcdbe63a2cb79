# SPDX-License-Identifier: GPL-2.0-or-later
"""Refused DNS answers, as scapy and dnspython read them."""

import struct
import warnings

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spind.model import format_address
from spind.wire.dns_refusal import refuse
from spind.wire.packet import parse_ip

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers.inet import IP, TCP, UDP, IPOption
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
    from scapy.packet import Raw

NAME = "use-application-dns.net."
V4 = IP(src="10.0.0.1", dst="10.0.0.9", id=77, ttl=61, tos=4)
V6 = IPv6(src="2001:db8::53", dst="fd00::9", hlim=61, fl=99)


def reply(name: str = NAME, *, edns: bool = False, records: int = 2) -> dns.message.Message:
    query = dns.message.make_query(name, "A", want_dnssec=edns)
    answer = dns.message.make_response(query, recursion_available=True)
    for number in range(records):
        answer.answer.append(dns.rrset.from_text(name, 300, "IN", "A", f"192.0.2.{number + 1}"))
        answer.authority.append(dns.rrset.from_text("net.", 300, "IN", "NS", f"ns{number}.example.net."))
        answer.additional.append(dns.rrset.from_text(f"ns{number}.example.net.", 9, "IN", "A", "192.0.2.7"))
    if edns:
        options = [dns.edns.GenericOption(10, b"client99server99")]
        answer.use_edns(0, dns.flags.DO, 1232, options=options)
    return answer


def wire(answer: dns.message.Message) -> bytes:
    data: bytes = answer.to_wire(max_size=65535)
    return data


def packet(message: bytes, ip: object = V4, sport: int = 53) -> bytes:
    return bytes(ip / UDP(sport=sport, dport=4000) / Raw(message))


def read(data: bytes) -> tuple[object, dns.message.Message]:
    """Parse with scapy and dnspython; lengths and checksums must be what scapy would write."""
    layer = IP if data[0] >> 4 == 4 else IPv6
    parsed = layer(data)
    again = layer(data)
    fields = [(again, "chksum"), (again, "len")] if layer is IP else [(again, "plen")]
    for part, field in [*fields, (again[UDP], "chksum"), (again[UDP], "len")]:
        part.delfieldval(field)
    assert bytes(again) == data
    assert parsed[UDP].chksum != 0
    return parsed, dns.message.from_wire(bytes(parsed[UDP].payload))


@pytest.mark.parametrize(
    "ip", [V4, V6, IP(src="10.0.0.1", dst="10.0.0.9", options=[IPOption(b"\x94\4\0\0")])]
)
@pytest.mark.parametrize("edns", [False, True])
def test_a_refusal_is_the_same_packet_without_an_answer(ip: object, edns: bool) -> None:
    before = reply(edns=edns)
    before.flags |= dns.flags.AA | dns.flags.AD | dns.flags.TC
    original = packet(wire(before), ip)
    refused = refuse(original)
    assert refused is not None
    parsed, after = read(refused)
    assert after.rcode() == dns.rcode.NXDOMAIN
    assert after.id == before.id
    assert after.question == before.question
    assert after.flags & ~0xF == before.flags & ~(dns.flags.AD | dns.flags.TC)
    assert (after.answer, after.authority, after.additional) == ([], [], [])
    assert (after.edns, after.ednsflags, after.payload) == (before.edns, before.ednsflags, before.payload)
    assert after.options == before.options
    old = parse_ip(original)
    assert parse_ip(refused)[:5] == old[:5]
    same = ("src", "dst", "tos", "id", "flags", "ttl", "options") if len(old.src) == 4 else ("fl", "hlim")
    for field in same:
        assert getattr(parsed, field) == getattr(type(parsed)(original), field)


def test_the_upper_bits_of_the_code_go() -> None:
    answer = reply(edns=True, records=0)
    answer.set_rcode(dns.rcode.BADVERS)
    refused = refuse(packet(wire(answer)))
    assert refused is not None
    assert read(refused)[1].rcode() == dns.rcode.NXDOMAIN


def test_checksums_that_are_not_filled_in_yet_do_not_matter() -> None:
    """As of a packet that this machine sends, with its checksum left to the interface."""
    original = packet(wire(reply()), V6)
    spoilt = original[:46] + b"\x12\x34" + original[48:]
    assert refuse(spoilt) == refuse(original)


def test_padding_is_cut() -> None:
    original = packet(wire(reply()))
    assert refuse(original + bytes(6)) == refuse(original)


LABEL = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=20)
NAMES = st.lists(LABEL, min_size=1, max_size=6).map(lambda labels: ".".join(labels) + ".")
ADDRESSES4 = st.integers(1, 2**32 - 1).map(lambda number: number.to_bytes(4))
ADDRESSES6 = st.integers(1, 2**128 - 1).map(lambda number: number.to_bytes(16))


@given(NAMES, st.booleans(), st.integers(0, 8), st.integers(0, 65535), st.data())
def test_any_response_is_refused_with_right_checksums(
    name: str, edns: bool, records: int, ident: int, data: st.DataObject
) -> None:
    answer = reply(name, edns=edns, records=records)
    answer.id = ident
    if data.draw(st.booleans()):
        ip: object = IP(src=format_address(data.draw(ADDRESSES4)), dst=format_address(data.draw(ADDRESSES4)))
    else:
        ip = IPv6(src=format_address(data.draw(ADDRESSES6)), dst=format_address(data.draw(ADDRESSES6)))
    refused = refuse(packet(wire(answer), ip))
    assert refused is not None
    _, after = read(refused)
    assert (after.id, after.question, after.rcode()) == (ident, answer.question, dns.rcode.NXDOMAIN)
    assert after.edns == answer.edns
    assert refuse(refused) == refused


def flags(message: bytes, value: int) -> bytes:
    return message[:2] + struct.pack("!H", value) + message[4:]


MESSAGE = wire(reply())
WHOLE = packet(MESSAGE)
NOT_REFUSED = {
    "a query": packet(flags(MESSAGE, 0x0100)),
    "TCP": bytes(V4 / TCP(sport=53, dport=4000) / Raw(len(MESSAGE).to_bytes(2) + MESSAGE)),
    "no question": packet(MESSAGE[:4] + bytes(8)),
    "two questions": packet(MESSAGE[:4] + b"\0\2" + MESSAGE[6:]),
    "a question that is a pointer": packet(MESSAGE[:12] + b"\xc0\x0c\0\1\0\1"),
    "a question that ends in a pointer": packet(MESSAGE[:12] + b"\1a\xc0\x0c\0\1\0\1"),
    "a reserved label": packet(MESSAGE[:12] + b"\x41a" + MESSAGE[14:]),
    "a name of 257 bytes": packet(
        MESSAGE[:4] + b"\0\1" + bytes(6) + b"\x3f".ljust(64, b"x") * 4 + b"\0\0\1\0\1"
    ),
    "a question cut short": packet(MESSAGE[:16]),
    "a header cut short": packet(MESSAGE[:11]),
    "a first fragment": packet(MESSAGE, IP(src="10.0.0.1", dst="10.0.0.9", flags="MF")),
    "a later fragment": packet(MESSAGE, IP(src="10.0.0.1", dst="10.0.0.9", frag=8)),
    "a packet cut short": WHOLE[:-1],
    "bytes behind the datagram": WHOLE[:2] + struct.pack("!H", len(WHOLE) + 3) + WHOLE[4:] + b"abc",
    "a fragment of IPv6": bytes(V6 / IPv6ExtHdrFragment() / UDP(sport=53) / Raw(MESSAGE)),
    "extension headers": bytes(V6 / IPv6ExtHdrDestOpt() / UDP(sport=53) / Raw(MESSAGE)),
    "nothing": b"",
}


@pytest.mark.parametrize("what", NOT_REFUSED)
def test_not_refused(what: str) -> None:
    assert refuse(NOT_REFUSED[what]) is None


OPT = b"\0\0\x29\4\xd0\0\0\x80\0\0\0"
ADDRESS = b"\xc0\x0c\0\1\0\1\0\0\0\x09\0\4\xc0\0\2\1"


@pytest.mark.parametrize(
    ("counts", "records", "kept"),
    [
        ((1, 0, 1), ADDRESS + OPT, 1),
        ((0, 0, 2), ADDRESS + OPT, 1),
        ((1, 0, 0), OPT, 0),  # in the answer section
        ((0, 0, 2), OPT + OPT, 0),
        ((0, 0, 1), b"\1a" + OPT, 0),  # not the root's
        ((1, 0, 1), ADDRESS[:-1], 0),  # cut short before it
        ((0, 0, 1), OPT[:-1] + b"\5", 0),
        ((0, 0, 2), OPT + b"\xc0", 1),  # cut short behind it
        ((0, 0, 201), ADDRESS * 200 + OPT, 0),
    ],
)
def test_only_a_well_placed_opt_stays(counts: tuple[int, int, int], records: bytes, kept: int) -> None:
    question = b"\1x\0\0\1\0\1"
    message = struct.pack("!HHHHHH", 1, 0x8180, 1, *counts) + question + records
    refused = refuse(packet(message))
    assert refused is not None
    assert read(refused)[1].edns == (0 if kept else -1)


@given(st.binary(max_size=80), st.integers(0, len(WHOLE)), st.booleans())
def test_anything_is_refused_rightly_or_not_at_all(patch: bytes, at: int, cut: bool) -> None:
    data = WHOLE[:at] + patch + (b"" if cut else WHOLE[at + len(patch) :])
    refused = refuse(data)
    if refused is not None:
        assert read(refused)[1].rcode() == dns.rcode.NXDOMAIN
        assert parse_ip(refused)[:5] == parse_ip(data)[:5]
        assert len(refused) <= len(data)
