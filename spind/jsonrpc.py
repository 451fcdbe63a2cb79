# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON-RPC 2.0 over the table of methods: bytes in, bytes out; pure.

Owns the envelope (https://www.jsonrpc.org/specification): parsing, validation, batches,
notifications, error codes and the bounds of requests and replies. It must not know any
method, any transport or any framing. What differs from SPIN 1.0, and why, is in
docs/decisions/0003-json-rpc-and-spin-1.0.md.

``handle`` never raises: whatever the bytes are, the answer is a reply or silence.
"""

import json
import logging
import re
from collections.abc import Mapping
from math import isfinite
from typing import NoReturn, Protocol

from spind.calls import ApiError, Caller
from spind.text import inert

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
OTHER_ERROR = -1

MAX_REQUEST = 64 * 1024  # bytes; the longest sensible request (dots_signal) is some 2 KiB
MAX_REPLY = 256 * 1024  # bytes; API.md 1.2
MAX_BATCH = 20  # calls; one batch is answered without yielding the loop
MAX_DEPTH = 32  # nested containers; no method takes more than four
MAX_DIGITS = 20  # of an integer: any 64-bit number
MAX_ID = 64  # characters of a caller's id; a UUID has 36
MAX_MESSAGE = 400  # characters of an error's sentence, which may quote the request

# Bytes that every call of a batch has for sure, so that an error always fits: a sentence
# (4 bytes a character), an id (6, as an escape) and the envelope.
_RESERVE = 2100

log = logging.getLogger(__name__)


class Methods(Protocol):
    """What is needed of the table of methods (``spind.api.Api``)."""

    def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """The result of a method; ``ApiError`` where the call is refused."""


class _InvalidRequestError(ValueError):
    """The JSON is not a valid Request object (-32600)."""


def handle(api: Methods, data: bytes, caller: Caller) -> bytes | None:
    """The reply to one JSON text, without a line end, or ``None`` where none is due.

    ``data`` is a request, a notification or a batch of them. The reply is UTF-8, on one
    line, at most ``MAX_REPLY`` bytes.
    """
    try:
        request = parse(data)
    except _InvalidRequestError as error:
        return _error(None, INVALID_REQUEST, str(error))
    except (ValueError, RecursionError) as error:
        return _error(None, PARSE_ERROR, f"not valid JSON: {error}")
    if isinstance(request, list):
        return _batch(api, request, caller)
    return _single(api, request, caller, MAX_REPLY)


def refusal(sentence: str) -> bytes:
    """The reply to bytes that a transport could not make a request of."""
    return _error(None, INVALID_REQUEST, sentence)


def _batch(api: Methods, requests: list[object], caller: Caller) -> bytes | None:
    if not requests:
        return _error(None, INVALID_REQUEST, "a batch must hold at least one request")
    if len(requests) > MAX_BATCH:
        sentence = f"a batch holds at most {MAX_BATCH} requests, not {len(requests)}"
        return _error(None, INVALID_REQUEST, sentence)
    replies = []
    spare = MAX_REPLY - 2 - _RESERVE * len(requests)
    for request in requests:
        reply = _single(api, request, caller, spare + _RESERVE - 1)
        if reply is not None:
            replies.append(reply)
            spare -= max(0, len(reply) + 1 - _RESERVE)
    return b"[" + b",".join(replies) + b"]" if replies else None


def _single(api: Methods, request: object, caller: Caller, room: int) -> bytes | None:
    """The reply to one request, of at most ``room`` bytes (an error is always let through)."""
    if not isinstance(request, dict):
        return _error(None, INVALID_REQUEST, "a request must be an object")
    ident = request.get("id")
    if isinstance(ident, bool) or not isinstance(ident, str | int | float | None):
        return _error(None, INVALID_REQUEST, "id must be a string, a number or null")
    if isinstance(ident, str) and len(ident) > MAX_ID:
        return _error(None, INVALID_REQUEST, f"id must have at most {MAX_ID} characters")
    if request.get("jsonrpc") != "2.0":
        return _error(ident, INVALID_REQUEST, 'jsonrpc must be "2.0"')
    method = request.get("method")
    if not isinstance(method, str):
        return _error(ident, INVALID_REQUEST, "method must be a string")
    params = request.get("params", {})
    if not isinstance(params, dict | list):
        return _error(ident, INVALID_REQUEST, "params must be an object")
    reply = _call(api, method, params, caller, ident, room)
    return reply if "id" in request else None


def _call(
    api: Methods,
    method: str,
    params: dict[str, object] | list[object],
    caller: Caller,
    ident: object,
    room: int,
) -> bytes:
    if isinstance(params, list):
        return _error(ident, INVALID_PARAMS, "params must be an object with named arguments, not an array")
    try:
        result = api.call(method, params, caller)
        reply = _encode({"jsonrpc": "2.0", "id": ident, "result": result})
    except ApiError as error:
        return _error(ident, error.code, error.message)
    except Exception:
        # What went wrong inside is for the log; a caller learns only that it did.
        log.exception("method %.64r failed", method)
        return _error(ident, INTERNAL_ERROR, "internal error; the daemon's log has the details")
    if len(reply) > room:
        # A batch shares the room among its calls.
        sentence = f"the result has {len(reply)} bytes, more than a reply holds"
        return _error(ident, OTHER_ERROR, f"{sentence}: ask for less with limit and offset")
    return reply


def _error(ident: object, code: int, message: str) -> bytes:
    # A sentence may quote what the caller sent, and ends on a terminal or in a log.
    text = inert(message, MAX_MESSAGE)
    return _encode({"jsonrpc": "2.0", "id": ident, "error": {"code": code, "message": text}})


def _encode(value: object) -> bytes:
    """JSON as SPIN 1.0 wrote it: compact, UTF-8 (RFC 8259 section 8.1), never NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def parse(data: bytes) -> object:
    """The value of a JSON text; ``ValueError`` (or ``RecursionError``) where it is none, is not
    interoperable or is larger or deeper than a request may be.

    Stricter than RFC 8259 where parsers differ (RFC 7493): no duplicate names, no lone
    surrogates, no numbers beyond 64 bits or a double.
    """
    if len(data) > MAX_REQUEST:
        raise _InvalidRequestError(f"a request has at most {MAX_REQUEST} bytes, not {len(data)}")
    # Most requests have no long number, and are parsed without a Python call for each.
    decoder = _CAREFUL_DECODER if _LONG_NUMBER.search(data) else _DECODER
    value: object = decoder.decode(data.decode())
    # Counting is C-fast and bounds the depth from above: few requests need the exact look.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _InvalidRequestError(f"a request nests at most {MAX_DEPTH} deep")
    if b"\\u" in data:  # the only way for a surrogate into a text that was valid UTF-8
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a string holds a lone surrogate") from error
    return value


def _depth(value: object) -> int:
    """How deep ``value`` nests, or ``MAX_DEPTH + 1`` where it is deeper; without recursion."""
    depth = 0
    level = [value]
    while depth <= MAX_DEPTH:
        inside = [list(x.values()) if isinstance(x, dict) else x for x in level if isinstance(x, dict | list)]
        if not inside:
            break
        depth += 1
        level = [item for container in inside for item in container]
    return depth


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has two members of the same name")
    return members


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_real, parse_constant=_constant)
_CAREFUL_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_real, parse_constant=_constant
)
