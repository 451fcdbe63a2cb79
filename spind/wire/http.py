# SPDX-License-Identifier: GPL-2.0-or-later
"""The first thing an HTTP/1.x client says: which host it wants to talk to.

Owns the request line and the Host field (RFC 9112 2, 3, 5). Nothing else of the header and
nothing of the content is looked at.
"""

import re
from typing import Final, NamedTuple

from spind.wire import hostname
from spind.wire.errors import WireError

# Servers accept 8 to 16 KiB of header; devices in a home send a few hundred bytes.
_MAX_HEADER: Final = 0x4000
_MAX_METHOD: Final = 32

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # RFC 9110 5.6.2
_METHOD: Final = _TOKEN + rb"{1,%d}" % _MAX_METHOD
# RFC 9112 3. The target is bounded by the header's size and looked at below.
_REQUEST_LINE: Final = re.compile(_METHOD + rb" ([\x21-\xff]+) HTTP/1\.[0-9]\r?").fullmatch
# What a request line may look like while its end has not been seen.
_REQUEST_START: Final = re.compile(
    rb"%b(?: (?:[\x21-\xff]+(?: (?:H|HT|HTT|HTTP|HTTP/|HTTP/1|HTTP/1\.|HTTP/1\.[0-9]\r?)?)?)?)?" % _METHOD
).fullmatch
# Methods in use are upper case (RFC 9110 9.3, WebDAV, UPnP); TLS, SSH and the like are not.
_FIRST_BYTES: Final = re.compile(rb"[A-Z][A-Z-]{0,31}\Z|[A-Z][A-Z-]{0,31} (?:[\x21-\xff]|\Z)").match
# A header ends with an empty line; a lone LF is a line end too (RFC 9112 2.2).
_HEADER_END: Final = re.compile(rb"\n\r?\n").search
# Any line that is or pretends to be a Host field, with the folded lines behind it.
_HOST_FIELD: Final = re.compile(rb"^host([ \t]*:)([^\n]*)\n([ \t]?)", re.IGNORECASE | re.MULTILINE).findall
# RFC 9112 3.2.2: absolute form, of which only the authority matters here.
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)").match
# RFC 3986 3.2: host and port; a host in brackets is an IPv6 address.
_AUTHORITY: Final = re.compile(rb"(\[[^\[\]]*\]|[^:\[\]]*)(?::[0-9]*)?").fullmatch


class HttpRequest(NamedTuple):
    """A request's header.

    ``host`` is the host name that the request is for, as
    :func:`spind.wire.hostname.from_text` accepts it, without port; ``None`` where the header
    names none, or an IP address, or something that is no host name.
    """

    host: str | None


def looks_like_http(first_bytes: bytes) -> bool:
    """Whether a stream that starts with ``first_bytes`` may start with an HTTP/1.x request.

    That is: a method in upper case, and behind its space the start of a target, as far as
    these are there. No bytes look like nothing.
    """
    return _FIRST_BYTES(first_bytes[: _MAX_METHOD + 2]) is not None


def request_host(data: bytes) -> HttpRequest | None:
    """Parse the request that the client's side of a connection starts with.

    ``data`` is the stream from its first byte; ``None`` says that the header goes on beyond it.
    An absolute-form or authority-form target wins over the Host field (RFC 9112 3.2.2, 3.2.3).

    Raises :class:`WireError` where the stream is something else, the header is longer than
    16 KiB, or has more than one Host field, a folded one, or one with space before its colon
    (RFC 9112 3.2, 5.1, 5.2: a server has to refuse these).
    """
    # RFC 9112 2.2: empty lines before the request are ignored.
    header = data[:_MAX_HEADER].lstrip(b"\r\n")
    end = _HEADER_END(header)
    line, found, fields = header.partition(b"\n")
    match = _REQUEST_LINE(line)
    if not match and (found or (line and not _REQUEST_START(line))):
        raise WireError("not an HTTP/1.x request")
    if not match or not end:
        if len(data) >= _MAX_HEADER:
            raise WireError("HTTP header is longer than 16 KiB")
        return None
    hosts = _HOST_FIELD(fields, 0, end.end() - len(line) - 1)
    if len(hosts) > 1 or any(colon != b":" or fold for colon, _, fold in hosts):
        raise WireError("Host field is repeated, folded or malformed")
    target = match[1]
    absolute = _ABSOLUTE(target)
    if absolute:
        return HttpRequest(_host(absolute[1].rpartition(b"@")[2]))
    if line.startswith(b"CONNECT "):
        return HttpRequest(_host(target))
    return HttpRequest(_host(hosts[0][1].strip(b" \t\r")) if hosts else None)


def _host(authority: bytes) -> str | None:
    """Host name of an authority without user information (RFC 3986 3.2)."""
    match = _AUTHORITY(authority)
    return hostname.from_text(match[1]) if match else None
