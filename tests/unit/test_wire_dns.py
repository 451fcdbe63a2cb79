# SPDX-License-Identifier: GPL-2.0-or-later
"""DNS messages: golden bytes from the RFCs, dnspython as the second opinion, hostile pointers."""

import struct
import time

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.model import parse_address
from spind.wire.dns import DnsMessage, Question, Record, parse_message, split_tcp
from spind.wire.errors import WireError
from spind.wire.hostname import from_labels


def message(questions: int, answers: int, content: bytes, flags: int = 0x8180) -> bytes:
    return struct.pack("!HHHHHH", 0x1234, flags, questions, answers, 0, 0) + content


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".") if label) + b"\0"


def record(owner: bytes, rtype: int, content: bytes, ttl: int = 300, rclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rtype, rclass, ttl, len(content)) + content


QUESTION = name("www.example.com") + b"\0\1\0\1"  # at offset 12
WWW = b"\xc0\x0c"


def answers(*records: bytes) -> tuple[Record, ...]:
    return parse_message(message(1, len(records), QUESTION + b"".join(records))).answers


def test_query() -> None:
    data = message(1, 0, name("www.Example.com") + b"\0\x1c\0\1", flags=0x0100)
    assert parse_message(data) == DnsMessage(
        0x1234, False, 0, 0, False, (Question("www.example.com", 28, 1),), ()
    )


def test_header_flags() -> None:
    parsed = parse_message(message(0, 0, b"", flags=0xAA03))
    assert (parsed.response, parsed.opcode, parsed.rcode, parsed.truncated) == (True, 5, 3, True)


def test_cname_chain_with_compression() -> None:
    chain = record(WWW, 5, b"\x03cdn\xc0\x10")  # 0x10: "example.com" in the question
    at = 12 + len(QUESTION) + 12
    assert answers(
        chain,
        record(b"\xc0" + bytes([at]), 1, b"\xc0\0\2\1", ttl=60),
        record(b"\xc0" + bytes([at]), 28, parse_address("2001:db8::1"), ttl=60),
    ) == (
        Record("www.example.com", 5, 300, None, "cdn.example.com"),
        Record("cdn.example.com", 1, 60, b"\xc0\0\2\1", None),
        Record("cdn.example.com", 28, 60, parse_address("2001:db8::1"), None),
    )


def test_compression_example_of_rfc_1035_4_1_4() -> None:
    # F.ISI.ARPA, FOO and a pointer to it, a pointer to ARPA, and the root.
    content = b"\x01F\x03ISI\x04ARPA\0" + b"\0\1\0\1"
    content += b"\x03FOO\xc0\x0c" + b"\0\1\0\1" + b"\xc0\x12" + b"\0\1\0\1" + b"\0" + b"\0\1\0\1"
    parsed = parse_message(message(4, 0, content))
    assert [question.name for question in parsed.questions] == ["f.isi.arpa", "foo.f.isi.arpa", "arpa", ""]


V6_HINTS = "20010db8000000000000000000000001 20010db8000000000000000000530001"
MANDATORY, ALPN, V4_HINT = "0000000400010004", "000100090268320568332d3139", "00040004c0000201"


@pytest.mark.parametrize(
    ("content", "target", "hints"),
    [
        # RFC 9460 appendix D.1, figure 2: AliasMode.
        ("0000 03666f6f 076578616d706c65 03636f6d 00", "foo.example.com", []),
        # Figure 3: TargetName is ".".
        ("0001 00", None, []),
        # Figure 7: two quoted ipv6hints.
        (
            "0001 03666f6f 076578616d706c65 03636f6d 00 0006 0020" + V6_HINTS,
            "foo.example.com",
            ["2001:db8::1", "2001:db8::53:1"],
        ),
        # Figure 9: keys sorted on the wire, with an ipv4hint.
        (
            "0010 03666f6f 076578616d706c65 036f7267 00" + MANDATORY + ALPN + V4_HINT,
            "foo.example.org",
            ["192.0.2.1"],
        ),
    ],
)
def test_service_binding_vectors_of_rfc_9460(content: str, target: str | None, hints: list[str]) -> None:
    for rtype in (64, 65):
        parsed = answers(record(WWW, rtype, bytes.fromhex(content)))
        assert parsed == (
            Record("www.example.com", rtype, 300, None, target),
            *(Record("www.example.com", rtype, 300, parse_address(hint), target) for hint in hints),
        )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "0001",
        "0001 00 0004 0003 c00002",
        "0001 00 0004 0005 c000020100",
        "0001 00 0004 0000",
        "0001 00 0006 0004 c0000201",
        "0001 00 0004 0008 c0000201",
        "0001 00 0006 0010 20010db8000000000000000000000001 0004 0004 c0000201",
        "0001 00 0004 0004 c0000201 0004 0004 c0000202",
    ],
)
def test_malformed_service_binding_leaves_the_rest(content: str) -> None:
    assert answers(record(WWW, 65, bytes.fromhex(content)), record(WWW, 1, b"\xc0\0\2\1")) == (
        Record("www.example.com", 65, 300, None, None),
        Record("www.example.com", 1, 300, b"\xc0\0\2\1", None),
    )


def test_parameters_of_an_alias_are_ignored() -> None:
    content = bytes.fromhex("0000 03666f6f 00 0004 0004 c0000201")
    assert answers(record(WWW, 65, content)) == (Record("www.example.com", 65, 300, None, "foo"),)


def test_hints_are_bounded() -> None:
    content = bytes.fromhex("0001 00 0004 1000") + bytes(range(1, 5)) * 1024
    assert len(answers(record(WWW, 65, content))) == 1 + 64


def test_other_types_and_classes_have_no_content() -> None:
    assert answers(
        record(WWW, 16, b"\x03txt"),
        record(WWW, 15, b"\0\x0a" + name("mail.example.com")),
        record(WWW, 1, b"\0" * 7, rclass=3),
        record(b"\0", 41, b""),
    ) == (
        Record("www.example.com", 16, 300, None, None),
        Record("www.example.com", 15, 300, None, None),
        Record("www.example.com", 1, 300, None, None),
        Record("", 41, 300, None, None),
    )
    # RFC 6762 10.2: multicast DNS flags the class.
    assert answers(record(WWW, 1, b"\xc0\0\2\1", rclass=0x8001))[0].address == b"\xc0\0\2\1"


def test_ttl_with_the_top_bit_is_zero() -> None:
    parsed = answers(*(record(WWW, 1, bytes(4), ttl) for ttl in (0x7FFFFFFF, 0x80000000)))
    assert [entry.ttl for entry in parsed] == [0x7FFFFFFF, 0]


def test_odd_bytes_become_harmless_text() -> None:
    data = message(1, 0, b"\x04a.\n\xff\x02\\B\0" + b"\0\1\0\1")
    assert parse_message(data).questions[0].name == r"a\.\010\255.\\b"


def test_what_follows_the_answers_is_not_looked_at() -> None:
    data = message(1, 1, QUESTION + record(WWW, 1, b"\xc0\0\2\1"))
    assert parse_message(data + b"\xff" * 40) == parse_message(data)


def test_every_cut_is_refused() -> None:
    data = message(1, 2, QUESTION + record(WWW, 5, b"\x03cdn\xc0\x10") + record(WWW, 28, bytes(16)))
    parse_message(data)
    for size in range(len(data)):
        with pytest.raises(WireError):
            parse_message(data[:size])


LONGEST = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"  # 255 bytes


def test_names_are_bounded() -> None:
    assert len(LONGEST) == 255
    assert len(parse_message(message(1, 0, LONGEST + b"\0\1\0\1")).questions[0].name) == 253
    for content in (b"\x01a" + LONGEST, b"\x01a" * 127 + b"\x01a\0"):
        with pytest.raises(WireError, match="255"):
            parse_message(message(1, 0, content + b"\0\1\0\1"))
    # The same by way of a pointer, to a name read before and into the middle of one.
    parse_message(message(2, 0, LONGEST + b"\0\1\0\1" + b"\xc0\x0c" + b"\0\1\0\1"))
    inner = bytes([12 + 64])
    parse_message(message(2, 0, LONGEST + b"\0\1\0\1" + b"\x3f" + b"b" * 63 + b"\xc0" + inner + b"\0\1\0\1"))
    for content in (b"\x01b\xc0\x0c", b"\x3f" + b"b" * 63 + b"\x01c\xc0" + inner):
        with pytest.raises(WireError, match="255"):
            parse_message(message(2, 0, LONGEST + b"\0\1\0\1" + content + b"\0\1\0\1"))


@pytest.mark.parametrize(
    "content",
    [
        b"\xc0\x0c",  # to itself
        b"\x01a\xc0\x0c",  # to the name that it is in
        b"\xc0\x0e\x01a\0",  # forwards
        b"\xc0\x00",  # into the header
        b"\xff\xff",  # beyond the message
        b"\x40a\0",  # reserved
        b"\x81a\0",
        b"\xc0",
    ],
)
def test_hostile_pointers(content: bytes) -> None:
    with pytest.raises(WireError):
        parse_message(message(1, 0, content + b"\0\1\0\1"))


def test_pointer_loops_through_record_data() -> None:
    # Data that is read as a name only by way of a pointer: a pair that points at each other.
    first = 12 + len(QUESTION) + 12
    loop = b"\xc0" + bytes([first + 2]) + b"\xc0" + bytes([first])
    for target in (first, first + 2):
        with pytest.raises(WireError, match="backwards"):
            answers(record(WWW, 16, loop), record(b"\xc0" + bytes([target]), 1, bytes(4)))


def test_pointers_to_pointers_are_bounded() -> None:
    def chain(length: int) -> bytes:
        first = 12 + len(QUESTION) + 12
        pointers = [WWW] + [struct.pack("!H", 0xC000 | (first + 2 * index)) for index in range(length - 1)]
        last = struct.pack("!H", 0xC000 | (first + 2 * (length - 1)))
        return record(WWW, 16, b"".join(pointers)) + record(last, 1, bytes(4))

    assert parse_message(message(1, 2, QUESTION + chain(32))).answers[1].name == "www.example.com"
    with pytest.raises(WireError, match="in a row"):
        parse_message(message(1, 2, QUESTION + chain(33)))


def test_time_is_linear_in_the_message_whatever_the_pointers() -> None:
    content, starts, count = b"", [], 0
    while len(content) < 0x3E00:
        start = 12 + len(content)
        starts += range(start, start + 252, 2)
        content += record(b"\x01\xff" * 126 + b"\0", 16, b"")
        count += 1
    while len(content) < 65000:
        content += record(struct.pack("!H", 0xC000 | starts[count % len(starts)]), 16, b"")
        count += 1
    before = time.process_time()
    parsed = parse_message(message(0, count, content))
    # About 12 ms; without a memory of names it is some 200.
    assert time.process_time() - before < 0.1
    assert len(parsed.answers) == count


@pytest.mark.parametrize(
    ("rtype", "content"),
    [
        (1, bytes(3)),
        (1, bytes(5)),
        (28, bytes(15)),
        (28, bytes(17)),
        (5, b"\x01a"),
        (5, b"\x01a\0\0"),
        (5, b""),
    ],
)
def test_content_has_to_fill_its_length(rtype: int, content: bytes) -> None:
    with pytest.raises(WireError):
        answers(record(WWW, rtype, content), record(WWW, 16, bytes(40)))


def test_tcp_framing() -> None:
    first, second = message(1, 0, QUESTION), message(0, 0, b"")
    stream = b"".join(struct.pack("!H", len(part)) + part for part in (first, second))
    assert split_tcp(stream) == ([first, second], b"")
    for size in range(len(stream)):
        whole, rest = split_tcp(stream[:size])
        done = [part for part, end in ((first, 2 + len(first)), (second, len(stream))) if end <= size]
        assert whole == done
        assert b"".join(struct.pack("!H", len(part)) + part for part in whole) + rest == stream[:size]
    for size in (0, 11):
        with pytest.raises(WireError):
            split_tcp(stream + struct.pack("!H", size))


labels = st.binary(min_size=1, max_size=20)
names = st.lists(labels, min_size=1, max_size=6).map(tuple)
contents = st.one_of(
    st.ip_addresses(v=4).map(lambda address: ("A", str(address))),
    st.ip_addresses(v=6).map(lambda address: ("AAAA", str(address))),
    names.map(lambda target: ("CNAME", dns.name.Name((*target, b"")).to_text())),
    st.just(("TXT", '"text"')),
    st.just(("MX", "10 mail.example.com.")),
)


@settings(deadline=None, database=None, max_examples=200)
@given(names, st.lists(st.tuples(names, st.integers(0, 2**31 - 1), contents), max_size=6), st.booleans())
def test_agrees_with_what_dnspython_builds(
    asked: tuple[bytes, ...], entries: list[tuple[tuple[bytes, ...], int, tuple[str, str]]], truncated: bool
) -> None:
    built = dns.message.make_response(dns.message.make_query(dns.name.Name((*asked, b"")), "A"))
    built.flags |= dns.flags.TC if truncated else 0
    for owner, ttl, (rtype, text) in entries:
        built.answer.append(dns.rrset.from_text(dns.name.Name((*owner, b"")), ttl, "IN", rtype, text))
    data = built.to_wire()
    parsed = parse_message(data)
    assert (parsed.id, parsed.response, parsed.truncated) == (built.id, True, truncated)
    assert parsed.questions == (Question(from_labels(asked), 1, 1),)
    expected = []
    for rrset in built.answer:
        for item in rrset:
            is_address = rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
            expected.append(
                Record(
                    from_labels(rrset.name.labels[:-1]),
                    rrset.rdtype,
                    rrset.ttl,
                    parse_address(item.address) if is_address else None,
                    from_labels(item.target.labels[:-1]) if rrset.rdtype == dns.rdatatype.CNAME else None,
                )
            )
    assert list(parsed.answers) == expected


@settings(deadline=None, database=None, max_examples=300)
@given(st.integers(0, 3), st.integers(0, 3), st.binary(max_size=80))
def test_nothing_but_wire_error_escapes(questions: int, count: int, content: bytes) -> None:
    try:
        parse_message(message(questions, count, content))
    except WireError:
        pass
    try:
        split_tcp(content)
    except WireError:
        pass
