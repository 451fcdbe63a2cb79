# SPDX-License-Identifier: GPL-2.0-or-later
"""DNS messages: what was asked, and which addresses and aliases were answered.

Owns RFC 1035 messages, their framing over TCP, and the records that connect a name with an
address: A, AAAA, CNAME, and the targets and hints of SVCB and HTTPS. It does not judge: whether
an answer belongs to a query, or may label an address, is for the caller to say.

A message is parsed in time linear in its size, whatever its compression pointers do: each
position that a pointer leads to is decoded once.
"""

from struct import Struct
from typing import Final, NamedTuple

from spind.model import Address
from spind.wire import hostname
from spind.wire.cursor import Cursor
from spind.wire.errors import WireError

TYPE_A: Final = 1
TYPE_CNAME: Final = 5
TYPE_AAAA: Final = 28
TYPE_SVCB: Final = 64
TYPE_HTTPS: Final = 65

CLASS_IN: Final = 1

_HEADER: Final = Struct("!HHHH4x").unpack_from
_HEADER_SIZE: Final = 12
_QUESTION: Final = Struct("!HH").unpack_from
_RECORD: Final = Struct("!HHIH").unpack_from

_MAX_NAME: Final = 255  # RFC 1035 2.3.4, on the wire with lengths and root
_MAX_LABEL: Final = 63
_POINTER: Final = 0xC0
# A pointer that leads to a pointer saves its sender nothing; software sends none or one.
_MAX_JUMPS: Final = 32
# RFC 6762 10.2: in multicast DNS the top bit of the class says "flush the cache".
_CLASS_MASK: Final = 0x7FFF
_MAX_TTL: Final = 0x7FFFFFFF  # RFC 2181 8: a TTL with the top bit set is 0

_SVC_IPV4HINT: Final = 4
_SVC_IPV6HINT: Final = 6
# RFC 9460 7.3: hints are a few; more than this many of a record are not looked at.
_MAX_HINTS: Final = 64

# Names by the position they start at: text, and size on the wire without compression.
_Names = dict[int, tuple[str, int]]


class Question(NamedTuple):
    """One entry of the question section."""

    name: str
    qtype: int
    qclass: int


class Record(NamedTuple):
    """One entry of the answer section; ``ttl`` in seconds.

    ``address`` is the content of A and AAAA, ``target`` the content of CNAME. Any other type,
    and any class but IN, has neither. An SVCB or HTTPS record (RFC 9460) has its TargetName as
    ``target`` (``None`` where that is the owner itself), and is followed by one more record of
    the same type, owner and target for each address in its ipv4hint and ipv6hint.
    """

    name: str
    rtype: int
    ttl: int
    address: Address | None
    target: str | None


class DnsMessage(NamedTuple):
    """A DNS query or response. Names are as :func:`spind.wire.hostname.from_labels` makes them."""

    id: int
    response: bool
    opcode: int
    rcode: int
    truncated: bool
    questions: tuple[Question, ...]
    answers: tuple[Record, ...]


def parse_message(data: bytes) -> DnsMessage:
    """Parse the header, question and answer section of a DNS message (RFC 1035 4).

    What follows the answers is not looked at: the authority and additional sections say nothing
    about who is who, and bytes behind the last section are no error, because RFC 1035 forbids
    none and the resolvers of devices ignore them; a parser that is stricter than they are would
    be blind to names that they go on to use.

    Raises :class:`WireError` where a section is cut short, a name is longer than 255 bytes, a
    label has a reserved type (RFC 1035 4.1.4, RFC 6891 5), a compression pointer does not lead
    strictly backwards, or the content of A, AAAA or CNAME does not fill its length exactly. A
    malformed SVCB or HTTPS record counts as one without content (RFC 9460 2.2: clients go on
    as if it were not there).
    """
    if len(data) < _HEADER_SIZE:
        raise WireError("shorter than a DNS header")
    ident, flags, question_count, answer_count = _HEADER(data)
    cursor = Cursor(data, _HEADER_SIZE)
    names: _Names = {}
    questions = []
    for _ in range(question_count):
        name = _read_name(cursor, names)
        qtype, qclass = _QUESTION(data, cursor.advance(4))
        questions.append(Question(name, qtype, qclass))
    answers: list[Record] = []
    for _ in range(answer_count):
        _read_record(cursor, names, answers)
    return DnsMessage(
        ident,
        flags >= 0x8000,
        flags >> 11 & 0x0F,
        flags & 0x0F,
        bool(flags & 0x0200),
        tuple(questions),
        tuple(answers),
    )


def parse_question(data: bytes) -> str | None:
    """The name that a message is about, by its first question; ``None`` where it has none.

    For messages that are too long to be looked at as a whole. Raises as :func:`parse_message` does.
    """
    if len(data) < _HEADER_SIZE:
        raise WireError("shorter than a DNS header")
    _, _, question_count, _ = _HEADER(data)
    return _read_name(Cursor(data, _HEADER_SIZE), {}) if question_count else None


def split_tcp(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Cut a stream of DNS over TCP into messages (RFC 1035 4.2.2, RFC 7766 8).

    Returns the whole messages and the rest, an incomplete message with its length, which is
    shorter than 64 KiB + 2. Raises :class:`WireError` where a length leaves no room for a
    header: the stream is not DNS, or its beginning was missed.
    """
    messages = []
    start = 0
    while len(buffer) - start >= 2:
        size = buffer[start] << 8 | buffer[start + 1]
        if size < _HEADER_SIZE:
            raise WireError("DNS message length below that of a header")
        end = start + 2 + size
        if end > len(buffer):
            break
        messages.append(buffer[start + 2 : end])
        start = end
    return messages, buffer[start:]


def _read_record(cursor: Cursor, names: _Names, answers: list[Record]) -> None:
    """Read one resource record (RFC 1035 4.1.3) and append what it says to ``answers``."""
    name = _read_name(cursor, names)
    rtype, rclass, ttl, size = _RECORD(cursor.data, cursor.advance(10))
    if ttl > _MAX_TTL:
        ttl = 0
    content = cursor.sub(size)
    address = target = None
    if rclass & _CLASS_MASK == CLASS_IN:
        if rtype == TYPE_A:
            if size != 4:
                raise WireError("A record is not 4 bytes")
            address = content.take(4)
        elif rtype == TYPE_AAAA:
            if size != 16:
                raise WireError("AAAA record is not 16 bytes")
            address = content.take(16)
        elif rtype == TYPE_CNAME:
            target = _read_name(content, names)
            if not content.at_end():
                raise WireError("CNAME record is longer than its name")
        elif rtype in (TYPE_SVCB, TYPE_HTTPS):
            try:
                target, hints = _read_service(content, names)
            except WireError:
                hints = []
            answers.append(Record(name, rtype, ttl, None, target))
            answers += [Record(name, rtype, ttl, hint, target) for hint in hints]
            return
    answers.append(Record(name, rtype, ttl, address, target))


def _read_service(cursor: Cursor, names: _Names) -> tuple[str | None, list[Address]]:
    """Target and address hints of an SVCB or HTTPS record (RFC 9460 2.2, 7.3)."""
    priority = cursor.u16()
    target = _read_name(cursor, names) or None
    hints: list[Address] = []
    if priority == 0:  # AliasMode: recipients ignore any parameters (RFC 9460 2.4.2)
        return target, hints
    previous = -1
    while not cursor.at_end():
        key = cursor.u16()
        value = cursor.sub(cursor.u16())
        if key <= previous:
            raise WireError("SvcParamKeys are not in order")
        previous = key
        if key in (_SVC_IPV4HINT, _SVC_IPV6HINT):
            width = 4 if key == _SVC_IPV4HINT else 16
            if value.at_end():
                raise WireError("address hint is empty")
            while not value.at_end():
                hint = value.take(width)
                if len(hints) < _MAX_HINTS:
                    hints.append(hint)
    return target, hints


def _read_name(cursor: Cursor, names: _Names) -> str:
    """Read a name (RFC 1035 4.1.4): labels up to the root or to one compression pointer."""
    data, end = cursor.data, cursor.end
    start = pos = cursor.pos
    labels = []
    while True:
        if pos >= end:
            raise WireError("name cut short")
        size = data[pos]
        if not size:
            cursor.pos = pos + 1
            tail, total = "", 1
            break
        if size <= _MAX_LABEL:
            following = pos + 1 + size
            if following > end:
                raise WireError("label cut short")
            labels.append(data[pos + 1 : following])
            pos = following
        elif size < _POINTER:
            raise WireError("label type is reserved")
        elif pos + 2 > end:
            raise WireError("compression pointer cut short")
        else:
            cursor.pos = pos + 2
            target = (size & 0x3F) << 8 | data[pos + 1]
            tail, total = names.get(target) or _resolve(target, start, data, names)
            break
    if not labels:
        return tail
    total += pos - start
    if total > _MAX_NAME:
        raise WireError("name is longer than 255 bytes")
    text = hostname.from_labels(labels)
    if tail:
        text = f"{text}.{tail}"
    names[start] = text, total
    return text


def _resolve(target: int, start: int, data: bytes, names: _Names) -> tuple[str, int]:
    """Name at ``target``, which a pointer in a name that begins at ``start`` leads to.

    Remembers the name at each label on the way, so that no sequence of pointers makes this
    walk the same labels twice.
    """
    walked: list[tuple[int, bytes]] = []
    jumps = 0
    total = 1
    while True:
        if not _HEADER_SIZE <= target < start:
            raise WireError("compression pointer does not lead backwards")
        start = pos = target
        while True:
            if pos in names:
                text, size = names[pos]
                return _remember(walked, text, size, names)
            if pos >= len(data):
                raise WireError("name cut short")
            size = data[pos]
            if not size:
                return _remember(walked, "", 1, names)
            if size > _MAX_LABEL:
                break
            total += size + 1
            if pos + 1 + size > len(data) or total > _MAX_NAME:
                raise WireError("name is cut short or longer than 255 bytes")
            walked.append((pos, data[pos + 1 : pos + 1 + size]))
            pos += 1 + size
        if size < _POINTER or pos + 1 >= len(data):
            raise WireError("label type is reserved or pointer cut short")
        jumps += 1
        if jumps > _MAX_JUMPS:
            raise WireError("too many compression pointers in a row")
        walked.append((pos, b""))
        target = (size & 0x3F) << 8 | data[pos + 1]


def _remember(walked: list[tuple[int, bytes]], text: str, size: int, names: _Names) -> tuple[str, int]:
    """Build the names that were walked through from their end, ``text`` of wire size ``size``."""
    for pos, label in reversed(walked):
        if label:
            head = hostname.from_labels([label])
            text = f"{head}.{text}" if text else head
            size += len(label) + 1
            if size > _MAX_NAME:
                raise WireError("name is longer than 255 bytes")
        names[pos] = text, size
    return text, size
