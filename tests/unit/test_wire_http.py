# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP/1.x requests: the examples of RFC 9112, its refusals, and every cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.wire.errors import WireError
from spind.wire.http import HttpRequest, looks_like_http, request_host

END = b"\r\n\r\n"


@pytest.mark.parametrize(
    ("header", "host"),
    [
        # RFC 9112 3.2.1 to 3.2.4: the four forms of a target.
        (b"GET /where?q=now HTTP/1.1\r\nHost: www.example.org", "www.example.org"),
        (
            b"GET http://www.example.org/pub/WWW/TheProject.html HTTP/1.1\r\nHost: other.example",
            "www.example.org",
        ),
        (b"CONNECT www.example.com:80 HTTP/1.1\r\nHost: other.example", "www.example.com"),
        (b"OPTIONS * HTTP/1.1\r\nHost: www.example.org:8001", "www.example.org"),
        (b"GET http://user:secret@www.example.org:8080?x HTTP/1.1", "www.example.org"),
        (b"GET HTTPS://www.example.org HTTP/1.1", "www.example.org"),
        (b"GET / HTTP/1.1\r\nAccept: */*\r\nhOsT:WWW.Example.ORG. \t\r\nX: y", "www.example.org"),
        (b"GET / HTTP/1.0\nHost: a.example\nX: y", "a.example"),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a.example", "a.example"),
        (b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900", None),
        (b"GET /a:b@c HTTP/1.1\r\nHost: a.example", "a.example"),
        (b"GET /?u=http://b.example/ HTTP/1.1\r\nHost: a.example", "a.example"),
        (b"GET / HTTP/1.1\r\nX-Host: b.example\r\nHost: a.example\r\nHosts: c.example", "a.example"),
        (b"GET / HTTP/1.1", None),
        (b"GET / HTTP/1.1\r\nAccept: */*", None),
        (b"GET / HTTP/1.1\r\nHost:", None),
        (b"GET / HTTP/1.1\r\nHost: 192.0.2.1:80", None),
        (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80", None),
        (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]", None),
        (b"GET / HTTP/1.1\r\nHost: 2001:db8::1", None),
        (b"GET / HTTP/1.1\r\nHost: a.example:port", None),
        (b"GET / HTTP/1.1\r\nHost: a.example, b.example", None),
        (b"GET / HTTP/1.1\r\nHost: <script>", None),
        (b"GET http:///x HTTP/1.1\r\nHost: a.example", None),
    ],
)
def test_host(header: bytes, host: str | None) -> None:
    assert request_host(header + END) == HttpRequest(host)
    assert request_host(header + END + b"GET / HTTP/1.1\r\nHost: body.example" + END) == HttpRequest(host)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nUser-Agent: x\r\nHost: a.example\r\nAccept: */*\r\n\r\n",
        b"\r\nPOST http://a.example/?x HTTP/1.1\nHost: a.example\n\n",
    ],
)
def test_incomplete_at_every_byte(data: bytes) -> None:
    for size in range(len(data)):
        assert request_host(data[:size]) is None
    assert request_host(data) == HttpRequest("a.example")


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"\x16\x03\x01\x02\x00",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET /\r\n",  # HTTP/0.9
        b"GET  / HTTP/1.1\r\n",
        b"GET / HTTP/1.1 \r\n",
        b"GET / HTTP/1.1\rHost",
        b"GET / HTTP/1.x",
        b"GET / HTPP",
        b"GET /a b HTTP",
        b"GE\x00T",
        b"A" * 33,
        b" GET / HTTP/1.1\r\n",
    ],
)
def test_not_a_request_is_known_before_its_end(data: bytes) -> None:
    with pytest.raises(WireError):
        request_host(data)


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: a.example\r\nHost: a.example",  # RFC 9112 3.2
        b"Host: a.example\r\nhost: b.example",
        b"Host : a.example",  # 5.1
        b"Host: a.example\r\n b.example",  # 5.2
        b"Host:\r\n\ta.example",
    ],
)
def test_host_fields_that_servers_refuse(fields: bytes) -> None:
    with pytest.raises(WireError, match="Host"):
        request_host(b"GET / HTTP/1.1\r\n" + fields + END)


def test_folded_lines_of_other_fields_are_stepped_over() -> None:
    header = b"GET / HTTP/1.1\r\nX: y\r\n Host: b.example\r\nHost: a.example"
    assert request_host(header + END) == HttpRequest("a.example")


def test_header_is_bounded() -> None:
    start = b"GET / HTTP/1.1\r\nHost: a.example\r\nX: "
    filler = 0x4000 - len(start) - len(END)
    assert request_host(start + b"x" * filler + END) == HttpRequest("a.example")
    assert request_host(start + b"x" * filler) is None
    with pytest.raises(WireError, match="16 KiB"):
        request_host(start + b"x" * (filler + 1) + END)
    with pytest.raises(WireError, match="16 KiB"):
        request_host(b"GET /" + b"x" * 0x4000)
    with pytest.raises(WireError, match="16 KiB"):
        request_host(b"\r\n" * 0x2000 + b"GET / HTTP/1.1" + END)


@pytest.mark.parametrize(
    "data", [b"G", b"GET", b"GET ", b"GET /", b"M-SEARCH * HTTP/1.1\r\n", b"PROPFIND http://x"]
)
def test_looks_like_http(data: bytes) -> None:
    assert looks_like_http(data)


@pytest.mark.parametrize(
    "data", [b"", b"get / HTTP/1.1", b"\x16\x03", b"SSH-2.0-x", b"GET\r\n", b"GET  /", b"A" * 33]
)
def test_does_not_look_like_http(data: bytes) -> None:
    assert not looks_like_http(data)


words = st.binary(max_size=12)


@settings(deadline=None, database=None, max_examples=300)
@given(
    st.lists(
        st.one_of(
            words, st.sampled_from([b"GET", b" ", b"/", b"HTTP/1.1", b"\r\n", b"\n", b"Host", b":", b"a.b"])
        )
    )
)
def test_nothing_but_wire_error_escapes(parts: list[bytes]) -> None:
    for data in (b"".join(parts), b"GET / HTTP/1.1\r\n" + b"".join(parts)):
        try:
            request = request_host(data)
        except WireError:
            continue
        assert request is None or b"\n" in data
