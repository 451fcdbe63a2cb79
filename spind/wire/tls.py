# SPDX-License-Identifier: GPL-2.0-or-later
"""The first thing a TLS client says: which server it wants to talk to.

Owns the record layer as far as a ClientHello needs it, and of the ClientHello the server name,
the protocols and whether it has an encrypted inner hello. Nothing else of TLS is looked at;
whether the name is true is for the caller to say.
"""

from typing import Final, NamedTuple

from spind.wire import hostname
from spind.wire.cursor import Cursor
from spind.wire.errors import WireError

_HANDSHAKE: Final = 22  # RFC 8446 5.1, content type
_CLIENT_HELLO: Final = 1  # RFC 8446 4
_MAJOR: Final = 3
# Record versions in use are 3.0 to 3.3; 3.4 is tolerated, since TLS 1.3 has implementations
# that disregard the version (RFC 8446 5.1).
_MAX_MINOR: Final = 4
_RECORD_SIZE: Final = 5  # type, version, length
_MESSAGE_HEADER_SIZE: Final = 4  # RFC 8446 4: type, length
_MAX_FRAGMENT: Final = 0x4000  # RFC 8446 5.1
# Real ones have 200 bytes to 2 KiB (post-quantum key shares); a pre-shared key adds some more.
_MAX_HELLO: Final = 0x10000
# One is usual, a handful are sent to slip past filters; the bound keeps a call short.
_MAX_RECORDS: Final = 1024

_EXT_SERVER_NAME: Final = 0
_EXT_ALPN: Final = 16
_EXT_ECH: Final = 0xFE0D
_HOST_NAME: Final = 0
_MAX_SNI: Final = 255
_MAX_ALPN: Final = 32


class ClientHello(NamedTuple):
    """What a ClientHello says about the server.

    ``sni`` is the host name of the server_name extension (RFC 6066 3) as
    :func:`spind.wire.hostname.from_text` accepts it, else ``None``. ``ech`` says that there is
    an encrypted_client_hello extension (RFC 9849): ``sni`` is then the public name of whoever
    serves the hidden one, or the true name where the extension is mere grease, which nobody on
    the way can tell. ``alpn`` has the protocol names (RFC 7301) in the client's order.
    """

    sni: str | None
    ech: bool
    alpn: tuple[str, ...]


def looks_like_tls(first_bytes: bytes) -> bool:
    """Whether a stream that starts with ``first_bytes`` may start with a ClientHello.

    Looks at six bytes at most, and is content with one; no bytes look like nothing.
    """
    return (
        first_bytes[:1] == b"\x16"
        and first_bytes[1:2] in (b"", b"\x03")
        and first_bytes[2:3] <= bytes((_MAX_MINOR,))
        and first_bytes[5:6] in (b"", b"\x01")
    )


def client_hello(data: bytes) -> ClientHello | None:
    """Parse the ClientHello that the client's side of a connection starts with.

    ``data`` is the stream from its first byte; ``None`` says that the hello goes on beyond it.
    The hello may be spread over several records (RFC 8446 5.1); what follows it is ignored.

    Raises :class:`WireError` where the stream is something else, the hello is longer than
    64 KiB or in more than 1024 records, a length contradicts another, or an extension comes
    twice (RFC 8446 4.2).
    """
    message = bytearray()
    pos = 0
    for _ in range(_MAX_RECORDS):
        header = data[pos : pos + _RECORD_SIZE]
        if header and not looks_like_tls(header):
            raise WireError("not a TLS handshake record")
        if len(header) < _RECORD_SIZE:
            return None
        size = int.from_bytes(header[3:])
        if not 0 < size <= _MAX_FRAGMENT:
            raise WireError("TLS record length out of range")
        pos += _RECORD_SIZE
        message += data[pos : pos + size]
        pos += size
        if message and message[0] != _CLIENT_HELLO:
            raise WireError("not a ClientHello")
        if len(message) >= _MESSAGE_HEADER_SIZE:
            end = _MESSAGE_HEADER_SIZE + int.from_bytes(message[1:_MESSAGE_HEADER_SIZE])
            if end > _MAX_HELLO:
                raise WireError("ClientHello is longer than 64 KiB")
            if end <= len(message):
                return _parse_hello(Cursor(bytes(message), _MESSAGE_HEADER_SIZE, end))
        if pos > len(data):
            return None
    raise WireError("ClientHello is spread over too many records")


def _parse_hello(cursor: Cursor) -> ClientHello:
    """Parse the content of a ClientHello message (RFC 8446 4.1.2)."""
    if cursor.u8() != _MAJOR:
        raise WireError("not a version of TLS")
    cursor.advance(1 + 32)  # minor version, random
    session = cursor.u8()
    if session > 32:
        raise WireError("session id is longer than 32 bytes")
    cursor.advance(session)
    suites = cursor.u16()
    if suites < 2 or suites & 1:
        raise WireError("cipher suites have an odd length")
    cursor.advance(suites)
    methods = cursor.u8()
    if not methods:
        raise WireError("no compression method")
    cursor.advance(methods)
    if cursor.at_end():  # before TLS 1.2 a hello could have no extensions (RFC 5246 7.4.1.2)
        return ClientHello(None, False, ())

    extensions = cursor.sub(cursor.u16())
    if not cursor.at_end():
        raise WireError("ClientHello is longer than its extensions")
    sni: str | None = None
    alpn: tuple[str, ...] = ()
    seen = set()
    while not extensions.at_end():
        kind = extensions.u16()
        content = extensions.sub(extensions.u16())
        if kind in seen:
            raise WireError("extension comes twice")
        seen.add(kind)
        if kind == _EXT_SERVER_NAME:
            sni = _parse_server_name(content)
        elif kind == _EXT_ALPN:
            alpn = _parse_alpn(content)
    return ClientHello(sni, _EXT_ECH in seen, alpn)


def _parse_server_name(cursor: Cursor) -> str | None:
    """Host name of a server_name extension (RFC 6066 3); ``None`` where it is not one."""
    entries = cursor.sub(cursor.u16())
    if not cursor.at_end() or entries.at_end():
        raise WireError("server name list does not fill its extension")
    name = None
    while not entries.at_end():
        kind = entries.u8()
        content = entries.take(entries.u16())
        if kind != _HOST_NAME:
            continue
        if name is not None:
            raise WireError("more than one host name")
        if not 0 < len(content) <= _MAX_SNI:
            raise WireError("host name is empty or longer than 255 bytes")
        name = content
    return None if name is None else hostname.from_text(name)


def _parse_alpn(cursor: Cursor) -> tuple[str, ...]:
    """Protocol names of an ALPN extension (RFC 7301 3.1); beyond 32 of them, the first 32."""
    entries = cursor.sub(cursor.u16())
    if not cursor.at_end():
        raise WireError("protocol list does not fill its extension")
    names: list[str] = []
    while not entries.at_end() and len(names) < _MAX_ALPN:
        names.append(hostname.escape(entries.take(entries.u8())))
    return tuple(names)
