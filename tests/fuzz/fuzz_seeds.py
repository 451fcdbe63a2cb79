# SPDX-License-Identifier: GPL-2.0-or-later
"""Valid packets and messages, built in code: what the mutations start from."""

import struct

V4 = bytes([192, 168, 1, 10]), bytes([203, 0, 113, 80])
V6 = bytes.fromhex("fd000000000000000000000000000010"), bytes.fromhex("20010db8000000000000000000000080")
MACS = bytes.fromhex("0200c0ffee010200c0ffee02")


# IP

TCP = struct.pack("!HHIIBBHHH", 50000, 443, 0x01020304, 0, 0x50, 0x18, 65535, 0, 0)
TCP_SYN = struct.pack("!HHIIBBHHH", 50000, 443, 1, 0, 0x80, 0x02, 65535, 0, 0) + bytes.fromhex(
    "020405b40101080a0000"
)
TCP_SYN += bytes(2)
UDP = struct.pack("!HHHH", 5353, 53, 8 + 12, 0) + bytes(12)
ECHO = bytes([8, 0, 0, 0, 0x12, 0x34, 0, 1]) + b"ping"
ECHO6 = bytes([128, 0, 0, 0, 0x12, 0x34, 0, 1]) + b"ping"
OPTIONS = bytes.fromhex("0000010400000000")


def ipv4(proto: int, content: bytes, field: int = 0, options: bytes = b"") -> bytes:
    head = 0x45 + len(options) // 4
    size = 20 + len(options) + len(content)
    return struct.pack("!BBHHHBBH4s4s", head, 0, size, 1, field, 64, proto, 0, *V4) + options + content


def ipv6(proto: int, content: bytes) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(content), proto, 64, *V6) + content


def headers(*kinds: int, last: int, content: bytes) -> bytes:
    """An IPv6 packet with extension headers of ``kinds`` before the header of protocol ``last``."""
    chain = b""
    for following in (*kinds[1:], last):
        chain += bytes([following]) + OPTIONS[1:]
    return ipv6(kinds[0], chain + content)


PACKETS = [
    ipv4(6, TCP + b"hello"),
    ipv4(6, TCP_SYN),
    ipv4(6, TCP, options=bytes([148, 4, 0, 0])),
    ipv4(17, UDP),
    ipv4(17, UDP, field=0x2000),
    ipv4(17, UDP, field=0x2004),
    ipv4(1, ECHO),
    ipv4(47, b"gre"),
    ipv6(6, TCP + b"hello"),
    ipv6(6, TCP_SYN),
    ipv6(17, UDP),
    ipv6(58, ECHO6),
    ipv6(59, b""),
    headers(0, 43, 60, last=6, content=TCP),
    headers(0, last=58, content=ECHO6),
    ipv6(44, b"\x11\0\0\1\0\0\0\1" + UDP),
    ipv6(44, b"\x11\0\0\x09\0\0\0\1" + UDP),
    ipv6(51, b"\x06\x04" + bytes(22) + TCP),
    headers(60, 60, 60, 60, 60, 60, 60, 60, last=6, content=TCP),
]

ARP = [
    struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + MACS[:6] + V4[0] + MACS[6:] + V4[1]
    for operation in (1, 2)
]

# The first byte chooses the link type; see fuzz_targets.
FRAMES = [
    b"\0" + MACS + b"\x08\0" + PACKETS[0],
    b"\0" + MACS + b"\x86\xdd" + PACKETS[8],
    b"\0" + MACS + b"\x81\0\0\x07\x08\0" + PACKETS[3],
    b"\0" + MACS + b"\x88\xa8\0\x64\x81\0\0\x2a\x08\0" + PACKETS[3],
    b"\0" + MACS + b"\x08\x06" + ARP[0],
    b"\1" + bytes.fromhex("0000 0001 0006 0200c0ffee01 0000 0800") + PACKETS[6],
    b"\1" + bytes.fromhex("0004 fffe 0000 0000000000000000 86dd") + PACKETS[11],
    b"\2" + bytes.fromhex("0800 0000 00000003 0001 00 06 0200c0ffee010000") + PACKETS[6],
    b"\3" + PACKETS[0],
    b"\4\x02\0\0\0" + PACKETS[0],
    b"\5\0\0\0\x1e" + PACKETS[8],
]


# DNS


def labels(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record(owner: bytes, rtype: int, content: bytes, rclass: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", rtype, rclass, 300, len(content)) + content


def dns(flags: int, questions: list[bytes], answers: list[bytes], rest: bytes = b"") -> bytes:
    head = struct.pack("!HHHHHH", 7, flags, len(questions), len(answers), 0, 1 if rest else 0)
    return head + b"".join(questions) + b"".join(answers) + rest


QUESTION = labels("www.example.com") + b"\0\1\0\1"
WWW, PARENT = b"\xc0\x0c", b"\xc0\x10"
SERVICE = b"\0\1\0" + bytes.fromhex("000100060268320268330004000401020304000600102001") + bytes(14)
DNS = [
    dns(0x0100, [QUESTION], [], b"\0\0\x29\x10\0\0\0\0\0\0\0"),
    dns(0x8180, [QUESTION], [record(WWW, 1, V4[0]), record(WWW, 1, V4[1])]),
    dns(0x8180, [QUESTION], [record(WWW, 5, b"\3cdn" + PARENT), record(b"\xc0\x2d", 28, V6[1])]),
    dns(0x8180, [labels("a.example") + b"\0\x41\0\1"], [record(WWW, 65, SERVICE)]),
    dns(0x8180, [QUESTION], [record(WWW, 65, b"\0\0\3svc" + PARENT)]),
    dns(0x8183, [QUESTION], [], record(b"\0", 6, labels("ns.example") + labels("root.example") + bytes(20))),
    dns(
        0x8400,
        [],
        [record(labels("My TV._http._tcp.local"), 16, b"\3a=b", 0x8001), record(WWW, 33, bytes(6) + PARENT)],
    ),
    dns(0x8180, [QUESTION], [record(WWW, 16, WWW + b"\xc0\x2d\xc0\x2f"), record(b"\xc0\x31", 1, V4[0])]),
    dns(0x8180, [b"\x01a" * 126 + b"\0\0\1\0\1"], [record(b"\x01b\xc0\x10", 1, V4[0])]),
    dns(0xA800, [labels("example.com") + b"\0\6\0\1"], []),
]
DNS_STREAMS = [
    b"".join(struct.pack("!H", len(part)) + part for part in DNS[first : first + 3]) for first in range(8)
]


# TLS


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!HH", kind, len(content)) + content


def hello(*extensions: bytes, session: int = 32) -> bytes:
    content = b"\3\3" + bytes(32) + bytes([session]) + bytes(session) + b"\0\4\x13\1\x13\2" + b"\1\0"
    joined = b"".join(extensions)
    content += struct.pack("!H", len(joined)) + joined if extensions else b""
    return b"\1" + len(content).to_bytes(3) + content


def tls_records(message: bytes, size: int = 0x4000) -> bytes:
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\3\1" + struct.pack("!H", len(part)) + part for part in parts)


SNI = extension(0, b"\0\x12\0\0\x0fwww.example.com")
ALPN = extension(16, b"\0\x0c\2h2\x08http/1.1")
VERSIONS = extension(43, b"\2\3\4")
TLS = [
    tls_records(hello(SNI, ALPN, VERSIONS)),
    tls_records(hello(SNI, session=0)),
    tls_records(hello(session=0)),
    tls_records(hello(SNI, extension(0xFE0D, b"\0" + bytes(20)))),
    tls_records(hello(extension(0, b"\0\x0c\0\0\x09192.0.2.1"))),
    tls_records(hello(SNI, ALPN), 40),
    tls_records(hello(SNI), 1),
]


# HTTP and host names

HTTP = [
    b"GET / HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n\r\n",
    b"POST /a?b=c HTTP/1.1\r\nUser-Agent: x\r\nHost: a.example:8080\r\nContent-Length: 1\r\n\r\nx",
    b"GET http://u@a.example:80/x HTTP/1.0\nHost: b.example\n\n",
    b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\n\r\n',
    b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\nX: a\r\n b\r\n\r\n",
    b"\r\nOPTIONS * HTTP/1.1\r\n\r\n",
]
HTTP_TOKENS = [
    b"\r\n", b"\n", b"\r\n\r\n", b"Host:", b"host :", b"Host: a.b\r\n", b" ", b"\t", b":", b"@", b"[", b"]",
    b"HTTP/1.1", b"://", b"http://", b"/", b"\0", b"GET ", b"CONNECT ", b"a" * 70, b".", b"\r",
]  # fmt: skip
HOSTS = [
    b"www.example.com", b"a", b"example.com.", b"xn--kln-sna.example", b"_dmarc.example", b"192.0.2.1",
    b"2001:db8::1", b"0x7f.1", b"a" * 63 + b".example", b".".join([b"a" * 49] * 5), b"a-b.c-d",
    b"1.2.3.4.in-addr.arpa",
]  # fmt: skip
HOST_TOKENS = [
    b".",
    b"-",
    b"_",
    b"..",
    b"0x",
    b"1",
    b"\0",
    b"\n",
    b" ",
    b"a" * 60,
    b"xn--",
    b"[",
    b":",
    b"\xc3\xb6",
]


# TCP segments: see fuzz_targets.stream for their form.

SEGMENTS = [
    bytes.fromhex("0000 08 0008 08 0010 08"),
    bytes.fromhex("0010 08 0008 08 0000 08 0000 20"),
    bytes.fromhex("0004 04 0000 06 0002 10 fff8 10 0000 00"),
    bytes.fromhex("0002 01 0004 01 0006 01 0008 01 0000 0a"),
    bytes.fromhex("0400 ff 7fff 01 8000 10"),
]
