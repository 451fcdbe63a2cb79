# SPDX-License-Identifier: GPL-2.0-or-later
"""Names from the network as text that is safe to print, compare and store.

Owns what a name may look like once it is inside: two doors, one for DNS (any label is a legal
one, so odd bytes are escaped) and one for names that are claimed in TLS and HTTP (anything
that is not a host name is refused). It resolves nothing, decodes no IDNA, and knows no
public suffixes.
"""

import re
from collections.abc import Sequence
from typing import Final

# Bytes that stand for themselves in text: printable ASCII without the space and the backslash.
_PLAIN: Final = bytes(set(range(0x21, 0x7F)) - {0x5C})
_ESCAPES: Final = {
    byte: "\\\\" if byte == 0x5C else chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in range(256)
}

_MAX_TEXT: Final = 253  # RFC 1035 2.3.4: 255 bytes on the wire, less the outer length and root

# RFC 1123 2.1: letters, digits and inner hyphens; underscores besides, which host names in use
# have. A last label that is a number is an address in disguise: no top-level domain is one.
_HOST: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*"
    r"(?!(?:[0-9]+|0x[0-9a-f]*)\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
).fullmatch


def escape(raw: bytes) -> str:
    r"""Text of any bytes: printable ASCII, anything else escaped as RFC 1035 5.1 has it.

    A backslash becomes ``\\``; spaces, control characters and bytes from 127 up become
    ``\DDD`` in decimal. Case is kept.
    """
    return "".join([_ESCAPES[byte] for byte in raw])


def from_labels(labels: Sequence[bytes]) -> str:
    r"""Text of a DNS name: lower case, labels joined by dots, no trailing dot; root is ``""``.

    Any bytes are accepted, since DNS does (RFC 2181 11); the text is printable ASCII without
    spaces, and two names have the same text exactly if DNS takes them for the same
    (RFC 4343: ASCII case does not count). Labels are escaped as by :func:`escape`, a dot
    inside a label as ``\.``, which makes a name at most four times as long as it was. The
    caller bounds labels to 63 and names to 255 bytes.
    """
    joined = b".".join(labels)
    if not joined.translate(None, _PLAIN) and joined.count(b".") == max(len(labels) - 1, 0):
        return joined.lower().decode("ascii")
    return ".".join([escape(label.lower()).replace(".", "\\.") for label in labels])


def from_text(name: bytes | str) -> str | None:
    """Host name that somebody claims (TLS SNI, HTTP Host), or ``None`` where it is not one.

    Accepted, after one trailing dot was cut and ASCII letters were lowered: 1 to 253
    characters, dot-separated labels of 1 to 63 letters, digits, hyphens and underscores, no
    hyphen at either end of a label; IDNA A-labels (``xn--``) are such labels. A name of one
    label (``router``) is accepted.

    Refused: the empty name, anything outside ASCII, empty labels, ports, brackets, spaces,
    control characters, IPv6 addresses, and names whose last label is a number (``10.0.0.1``,
    ``127.1``, ``0x7f.0x1``): programs read these as IPv4 addresses.
    """
    if len(name) > _MAX_TEXT + 1:
        return None
    if isinstance(name, bytes):
        try:
            name = name.decode("ascii")
        except UnicodeDecodeError:
            return None
    elif not name.isascii():
        return None
    name = name.lower().removesuffix(".")
    if len(name) > _MAX_TEXT or not _HOST(name):
        return None
    return name
