# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes in and out of the web interface, whatever carries it. Pure.

Owns requests, responses, streams and problems (RFC 9457), and what is needed of the parts that the
daemon hands to the web interface. Must not know routes, methods or sockets.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl

from spind.jsonrpc import MAX_MESSAGE
from spind.text import inert

JSON = "application/json"
PROBLEM = "application/problem+json"
EVENTS = "text/event-stream"

MAX_QUERY_FIELDS = 32  # no method has more than ten arguments

Headers = tuple[tuple[str, str], ...]


class Request(NamedTuple):
    """A whole request.

    ``path`` is as it was sent, percent-encoded; ``headers`` have lower-case names, values of the same name
    are joined by commas; ``address`` is the peer's, ``local`` the one of ours that it connected to.
    """

    method: str
    path: str
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: bytes = b""
    address: str = ""
    secure: bool = False
    local: str = ""


class Response(NamedTuple):
    """A whole response; without ``body`` it has no ``content_type`` either."""

    status: int
    body: bytes = b""
    content_type: str = ""
    headers: Headers = ()


def _unhooked(_abort: Callable[[], None]) -> None:
    """Where nobody but the client ends a stream."""


class Stream(NamedTuple):
    """A response (200) whose end is not known yet.

    Each item of ``source`` is sent before the next one is asked for. ``hook`` is given a function that cuts
    the connection, for sources that know better than to wait for a client. ``close`` is called once, at the
    end, whatever ended it.
    """

    source: AsyncIterator[bytes]
    content_type: str
    headers: Headers = ()
    hook: Callable[[Callable[[], None]], None] = _unhooked
    close: Callable[[], None] = lambda: None


Reply = Response | Stream


class WebError(Exception):
    """A request that gets no more than a status and a sentence for people."""

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def problem(error: WebError) -> Response:
    """``error`` as RFC 9457 has it. Sentences may quote a request: nothing in them but prints."""
    body = {
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": inert(error.message, MAX_MESSAGE),
    }
    return Response(error.status, encode(body), PROBLEM, error.headers)


def json_response(value: object, status: int = 200, headers: Headers = ()) -> Response:
    """``value`` as JSON."""
    return Response(status, encode(value), JSON, headers)


def encode(value: object) -> bytes:
    """Compact JSON in UTF-8, never NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def parse_query(text: str) -> dict[str, str]:
    """The fields of a query; ``WebError`` where they are too many, come twice or are no UTF-8."""
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS, encoding="utf-8"
        )
    except ValueError as error:
        raise WebError(400, f"the query cannot be read: {error}") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise WebError(400, "the query has a field twice")
    return fields


# -- what the daemon hands in --------------------------------------------------------------


class Identity(Protocol):
    """Who is asking."""

    @property
    def name(self) -> str:
        """A user's or a token's name; empty where nobody has to log in."""

    @property
    def role(self) -> str:
        """viewer, owner or provider."""

    @property
    def via(self) -> str:
        """open, session or token."""


class Login(Protocol):
    """A session that has begun."""

    @property
    def cookie(self) -> str:
        """The cookie's value."""

    @property
    def identity(self) -> Identity:
        """Whose it is."""

    @property
    def seconds(self) -> int:
        """How long it lasts."""

    @property
    def notice(self) -> str:
        """A sentence for its user, or nothing."""


class Gate(Protocol):
    """Who may come in."""

    @property
    def open(self) -> bool:
        """Whether nobody has to log in."""

    def identify(self, cookie: str, bearer: str, now: float, *, touch: bool = True) -> Identity | None:
        """Whose cookie or bearer token this is, at ``now`` (Unix seconds); ``None`` where it is nobody's.
        Both are empty where a request has none: who that is is somebody only where nobody has to log in.
        ``touch`` counts as use of a session.
        """

    async def login(self, user: str, password: str, address: str, now: float) -> Login:
        """Begin a session; an exception with ``retry_after`` (seconds) where that is refused."""

    def logout(self, cookie: str) -> None:
        """End a session; nothing happens where there is none."""


class Subscriber(Protocol):
    """A stream of events: complete texts of server-sent events."""

    on_drop: Callable[[], None]
    """Called when the feed gives the subscriber up for being too slow."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Events as they come, until the subscriber is dropped or closed."""

    def close(self) -> None:
        """Have no more events; may be called at any time, and twice."""


class Feed(Protocol):
    """Live events."""

    def subscribe(self, last_event_id: str, name: str, via: str) -> Subscriber:
        """A new subscriber, going on after an event where that is still known; too many, in all or of one
        ``name`` (empty where nobody logs in) that came ``via`` the same, are refused by an exception."""


class Download(Protocol):
    """A file as it grows."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its bytes; an exception where it is given up before its end."""

    async def __anext__(self) -> bytes:
        """Some more of them."""

    def close(self) -> None:
        """Read no more; may be called at any time, and twice."""


class Captures(Protocol):
    """Captures of packets."""

    def open(self, number: int, role: str) -> Download:
        """A capture file from its beginning, then live to its end, for a caller in this role; ``ApiError``
        where there is none, or not for this role."""


class RefusedError(Exception):
    """What the parts above raise where they refuse for now; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
