# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps other web pages out of ours: names, origins, headers. Pure.

A browser inside the home shows pages of strangers, too, and these can send requests to us. Here is decided
which requests are ours to answer, and what a browser may do with the answers. Must not know who is asking
(that is the gate's), nor any route.
"""

import ipaddress
import re
from collections.abc import Collection

from spind.web.messages import Headers, Request, WebError

CSP = (
    "default-src 'none'; "
    "script-src 'self'; "
    "style-src 'self'; "
    "img-src 'self' data:; "
    "connect-src 'self'; "
    "font-src 'self'; "
    "form-action 'self'; "
    "frame-ancestors 'none'; "
    "base-uri 'none'"
)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_HEADERS: Headers = (
    ("Content-Security-Policy", CSP),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),  # for browsers that know no frame-ancestors
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Permissions-Policy",
        "accelerometer=(), camera=(), geolocation=(), gyroscope=(), microphone=(), payment=(), usb=()",
    ),
)
_HSTS = ("Strict-Transport-Security", "max-age=86400")
"""RFC 6797. It holds for all ports of a name, for the router's own page, too: so for a day, not a year."""

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?P<port>:[0-9]{1,5})?")


def security_headers(*, secure: bool) -> Headers:
    """Headers of every response; ``secure`` where it goes over TLS."""
    return (*_HEADERS, _HSTS) if secure else _HEADERS


class Hosts:
    """The names and addresses under which we may be asked."""

    def __init__(self, names: Collection[str], addresses: Collection[str]) -> None:
        """``addresses`` are those that we listen on."""
        self._names = frozenset(name.lower().rstrip(".") for name in names) | {"localhost"}
        self._addresses = frozenset(map(_address, addresses)) - {None}

    def check(self, request: Request) -> None:
        """``WebError`` unless ``Host`` (RFC 9110 section 7.2) is one of ours.

        A stranger's name may be made to point to our address (DNS rebinding); then the stranger's page is,
        to a browser, of the same origin as we.
        """
        host = request.headers.get("host", "")
        match = _HOST.fullmatch(host)
        if match is None:
            raise WebError(400, "the header Host must name this router, once")
        name = match["name"].lower().rstrip(".")
        if name in self._names:
            return
        address = _address(name.strip("[]"))
        if address is not None and (address in self._addresses or address == _address(request.local)):
            return
        raise WebError(
            421,
            f"this router does not know itself as {name!r:.100}: use its address, or put the name into"
            " spinweb_hostnames",
        )


def check_origin(request: Request) -> None:
    """``WebError`` where another page's script, form or link made this request.

    Browsers tell where a request comes from by ``Origin`` (RFC 6454) and, over TLS and on loopback, by
    ``Sec-Fetch-Site`` (W3C Fetch Metadata). Programs send neither.
    """
    site = request.headers.get("sec-fetch-site", "none").lower()
    if site not in {"same-origin", "none"}:
        raise WebError(403, "requests from other web sites are refused (Sec-Fetch-Site)")
    origin = request.headers.get("origin")
    scheme = "https" if request.secure else "http"
    if origin is not None and origin.lower() != f"{scheme}://{request.headers.get('host', '').lower()}":
        raise WebError(403, "requests from other web sites are refused (Origin)")


_PROXY_HEADERS = (
    "forwarded",  # RFC 7239
    "via",  # RFC 9110 section 7.6.3
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
)


def forwarded(request: Request) -> bool:
    """Whether a proxy says that somebody else asks through it. One that says nothing cannot be told from
    a browser. Nobody is believed who the other one is."""
    return any(name in request.headers for name in _PROXY_HEADERS)


def check_content_type(request: Request) -> None:
    """``WebError`` where a request that changes something, and that a browser adds its cookie to, could have
    been made by a form of another page: those can send no JSON (Fetch, CORS-safelisted request headers)."""
    if request.method == "POST" or request.body:
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given != "application/json":
            raise WebError(415, "the header Content-Type must be application/json")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
