# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz target: DNS responses that are refused, as whole packets."""

import struct

import fuzz_seeds as seeds
from fuzz_targets import Target

from spind.wire.dns import parse_message
from spind.wire.dns_refusal import refuse
from spind.wire.packet import parse_ip

RESPONSES = [message[:2] + b"\x81\x80" + message[4:] for message in seeds.DNS]
DATAGRAMS = [struct.pack("!HHHH", 53, 4000, 8 + len(message), 0) + message for message in RESPONSES]
PACKETS = [seeds.ipv4(17, content) for content in DATAGRAMS] + [
    seeds.ipv6(17, content) for content in DATAGRAMS
]


def check_refusal(data: bytes, refused: bytes) -> None:
    before, after = parse_ip(data), parse_ip(refused)
    assert after[:5] == before[:5]
    assert len(refused) == after.length <= before.length
    message = parse_message(after.payload)
    assert message.response
    assert (message.rcode, message.answers, len(message.questions)) == (3, (), 1)


TOKENS = (b"\0\0\x29", b"\xc0\x0c", b"\0\1\0\0\0\0\0\1", b"\xff\xff")
TARGETS = {"dns-refusal": Target(refuse, (), PACKETS, TOKENS, check_refusal)}
