# SPDX-License-Identifier: GPL-2.0-or-later
"""ClientHellos: RFC 8448's, OpenSSL's, and broken ones; cut and fragmented at every byte."""

import ssl
import struct
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.wire.errors import WireError
from spind.wire.tls import ClientHello, client_hello, looks_like_tls

# RFC 8448 3, the client's first message.
RFC_8448 = bytes.fromhex(
    "010000c00303cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece7000006130113031302010000"
    "910000000b0009000006736572766572ff01000100000a00140012001d0017001800190100010101020103010400230000"
    "003300260024001d002099381de560e4bd43d23d8e435a7dbafeb3c06e51c13cae4d5413691e529aaf2c002b0003020304"
    "000d0020001e040305030603020308040805080604010501060102010402050206020202002d00020101001c00024001"
)


def records(message: bytes, *sizes: int, version: bytes = b"\x03\x01") -> bytes:
    """Spread ``message`` over records of ``sizes``, and the rest over one more."""
    data, pos = b"", 0
    for size in (*sizes, len(message) - sum(sizes)):
        data += b"\x16" + version + struct.pack("!H", size) + message[pos : pos + size]
        pos += size
    return data


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!HH", kind, len(content)) + content


def server_name(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(struct.pack("!BH", kind, len(name)) + name for name in names)
    return extension(0, struct.pack("!H", len(entries)) + entries)


def hello(*extensions: bytes, session: bytes = bytes(32)) -> bytes:
    content = b"\x03\x03" + bytes(range(32)) + bytes([len(session)]) + session + b"\0\2\x13\x01" + b"\1\0"
    joined = b"".join(extensions)
    content += struct.pack("!H", len(joined)) + joined
    return b"\1" + len(content).to_bytes(3) + content


def openssl_hello(
    name: str | None, alpn: list[str], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = name is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_trace_of_rfc_8448() -> None:
    assert client_hello(records(RFC_8448)) == ClientHello("server", False, ())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("name", "alpn"), [("www.Example.com", ["h2", "http/1.1"]), ("a.example", []), (None, ["mqtt"])]
)
def test_openssl(name: str | None, alpn: list[str], version: ssl.TLSVersion) -> None:
    data = openssl_hello(name, alpn, version)
    expected = ClientHello(name.lower() if name else None, False, tuple(alpn))
    assert client_hello(data) == expected
    assert client_hello(data + b"what the client sends next") == expected


def test_incomplete_at_every_byte() -> None:
    data = openssl_hello("www.example.com", ["h2"])
    assert client_hello(b"") is None
    for size in range(len(data)):
        assert client_hello(data[:size]) is None
    for size in range(1, len(data)):
        assert looks_like_tls(data[:size])


def test_fragmented_over_records_at_every_byte() -> None:
    message = hello(server_name(b"www.example.com"))
    for size in range(1, len(message)):
        data = records(message, size)
        assert client_hello(data) == ClientHello("www.example.com", False, ())
        assert client_hello(data[:-1]) is None
        assert client_hello(data[: 5 + size]) is None
        assert client_hello(data[: 5 + size + 3]) is None
    assert client_hello(records(message, *[1] * (len(message) - 1))) is not None


@settings(deadline=None, database=None, max_examples=60)
@given(st.lists(st.integers(1, 60), max_size=8), st.integers(0, 700))
def test_any_split_gives_none_then_the_same(sizes: list[int], cut: int) -> None:
    message = openssl_hello("www.example.com", ["h2", "http/1.1"])[5:]
    sizes = sizes if sum(sizes) < len(message) else sizes[:1]
    data = records(message, *sizes)
    whole = ClientHello("www.example.com", False, ("h2", "http/1.1"))
    assert client_hello(data[:cut]) == (whole if cut >= len(data) else None)


def test_a_record_may_go_on_behind_the_hello() -> None:
    data = records(hello(server_name(b"a.example")) + b"\x0b\0\0\1")
    assert client_hello(data) == ClientHello("a.example", False, ())


def test_encrypted_client_hello_is_noticed() -> None:
    outer = hello(server_name(b"public.example"), extension(0xFE0D, b"\0" + bytes(30)))
    assert client_hello(records(outer)) == ClientHello("public.example", True, ())


def test_alpn_text_is_harmless_and_bounded() -> None:
    protocols = b"\x02h2" + b"\x02\x0a\x0a" + b"\x01\xff"
    data = records(hello(extension(16, struct.pack("!H", len(protocols)) + protocols)))
    assert client_hello(data) == ClientHello(None, False, ("h2", r"\010\010", r"\255"))
    many = b"\x01a" * 1000
    parsed = client_hello(records(hello(extension(16, struct.pack("!H", len(many)) + many))))
    assert parsed is not None
    assert parsed.alpn == ("a",) * 32


@pytest.mark.parametrize(
    ("name", "sni"),
    [
        (b"Example.COM", "example.com"),
        (b"example.com.", "example.com"),
        (b"192.0.2.1", None),
        (b"2001:db8::1", None),
        (b"a\0.example", None),
        (b"-x", None),
        (b"\xff" * 255, None),
    ],
)
def test_server_names(name: bytes, sni: str | None) -> None:
    assert client_hello(records(hello(server_name(name)))) == ClientHello(sni, False, ())


def test_other_kinds_of_server_name_are_no_host_name() -> None:
    assert client_hello(records(hello(server_name(b"x", kind=1)))) == ClientHello(None, False, ())


def test_hello_without_extensions() -> None:
    content = b"\x03\x01" + bytes(32) + b"\0" + b"\0\2\0\x2f" + b"\1\0"
    assert client_hello(records(b"\1" + len(content).to_bytes(3) + content)) == ClientHello(None, False, ())
    assert client_hello(records(hello())) == ClientHello(None, False, ())


GOOD = hello(server_name(b"a.example"))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x80\x2e\x01\x03\x01",  # SSLv2
        b"\x17\x03\x03\x00\x10",
        b"\x16\x02",
        b"\x16\x03\x05",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x01\x02",  # a ServerHello
        # An alert between two records of the hello.
        records(GOOD, 20)[:25] + b"\x15" + records(GOOD, 20)[26:],
        records(b"\1\1\0\0" + bytes(60)),  # 64 KiB and more
        records(b"\1\0\0\0"),
        records(GOOD[:3] + bytes([GOOD[3] - 1]) + GOOD[4:-1]),
        records(b"\1" + (len(GOOD) - 3).to_bytes(3) + GOOD[4:] + b"\0"),
        records(GOOD.replace(b"\x03\x03", b"\x04\x03", 1)),
        records(hello(session=bytes(33))),
        records(GOOD.replace(b"\0\2\x13\x01", b"\0\1\x13\x01", 1)),
        records(GOOD.replace(b"\0\2\x13\x01\1\0", b"\0\2\x13\x01\0\0", 1)),
        records(hello(server_name(b"a.example"), server_name(b"b.example"))),
        records(hello(server_name(b"a.example", b"b.example"))),
        records(hello(server_name())),
        records(hello(server_name(b""))),
        records(hello(server_name(b"a" * 256))),
        records(hello(extension(0, b""))),
        records(hello(extension(0, b"\0\4\0\0\1a\0"))),
        records(hello(extension(16, b"\0\3\2h"))),
        records(hello(extension(16, b"\0\3\2h2\0"))),
    ],
)
def test_not_a_client_hello(data: bytes) -> None:
    with pytest.raises(WireError):
        client_hello(data)


def test_records_are_bounded() -> None:
    message = hello(server_name(b"a.example"), extension(21, bytes(2000)))
    assert client_hello(records(message, *[1] * 1023)) is not None
    with pytest.raises(WireError, match="records"):
        client_hello(records(message, *[1] * 1024))


def test_largest_hello() -> None:
    rest = 0x10000 - len(hello(server_name(b"a.example"), extension(21, b"")))
    message = hello(server_name(b"a.example"), extension(21, bytes(rest)))
    assert len(message) == 0x10000
    assert client_hello(records(message, *[0x4000] * 3)) == ClientHello("a.example", False, ())


@pytest.mark.parametrize(
    "first", [b"", b"G", b"\x17\x03\x01", b"\x16\x02", b"\x16\x03\x05", b"\x16\x03\x01\0\x40\2"]
)
def test_does_not_look_like_tls(first: bytes) -> None:
    assert not looks_like_tls(first)


@settings(deadline=None, database=None, max_examples=300)
@given(st.binary(max_size=60), st.integers(0, len(RFC_8448)), st.integers(0, 20))
def test_nothing_but_wire_error_escapes(noise: bytes, at: int, removed: int) -> None:
    data = records(RFC_8448[:at] + noise + RFC_8448[at + removed :])
    for candidate in (data, noise):
        try:
            client_hello(candidate)
        except WireError:
            pass
