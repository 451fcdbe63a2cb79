# SPDX-License-Identifier: GPL-2.0-or-later
"""From a request to its response or stream: protection, who is asking, and which part answers. Pure.

Must not know any method of the table (that is ``rest``), any file of the page, or how a request came.
"""

import json
import logging
from collections.abc import AsyncIterator, Callable

from spind import __version__, jsonrpc
from spind.calls import ApiError, Caller
from spind.text import inert
from spind.web.messages import (
    EVENTS,
    JSON,
    Captures,
    Feed,
    Gate,
    Headers,
    Identity,
    RefusedError,
    Reply,
    Request,
    Response,
    Stream,
    WebError,
    json_response,
    problem,
)
from spind.web.openapi import describe
from spind.web.pages import Pages
from spind.web.protection import (
    SAFE_METHODS,
    Hosts,
    check_content_type,
    check_origin,
    forwarded,
    security_headers,
)
from spind.web.rest import PREFIX, Rest, Table, status_of

log = logging.getLogger(__name__)

COOKIE = "spin_session"
JSON_RPC = "/spin_api/jsonrpc"
SESSION = f"{PREFIX}/session"
EVENT_STREAM = f"{PREFIX}/events"
CAPTURES = f"{PREFIX}/captures/"
PCAP = ".pcap"
PCAP_TYPE = "application/vnd.tcpdump.pcap"  # as registered with IANA

OPENAPI = f"{PREFIX}/openapi.json"

RECHECK_SECONDS = 5.0
"""How often a stream looks whether its session is still there."""

MAX_CREDENTIAL = 256  # characters of a user's name, or of a password
_NO_STORE: Headers = (("Cache-Control", "no-store"),)


class WebApp:
    """Routes requests."""

    def __init__(
        self,
        api: Table,
        gate: Gate,
        feed: Feed,
        captures: Captures,
        hosts: Hosts,
        pages: Pages,
        clock: Callable[[], float],
    ) -> None:
        """``clock`` gives Unix seconds."""
        self._api = api
        self._gate = gate
        self._feed = feed
        self._captures = captures
        self._hosts = hosts
        self._pages = pages
        self._clock = clock
        self._rest = Rest(api)

    async def answer(self, request: Request) -> Reply:
        """What a request gets; never raises."""
        try:
            reply = await self._route(request)
        except WebError as error:
            reply = problem(error)
        except Exception:
            log.exception("%s %.100r failed", request.method, request.path)
            reply = problem(WebError(500, "internal error; the daemon's log has the details"))
        headers = (*reply.headers, *security_headers(secure=request.secure))
        if not any(name == "Cache-Control" for name, _ in headers):
            headers = (*headers, *_NO_STORE)
        return reply._replace(headers=headers)

    async def _route(self, request: Request) -> Reply:
        self._hosts.check(request)
        self._check_open(request)
        path = request.path
        if path == JSON_RPC or path.startswith("/api/"):
            check_origin(request)
            if path == SESSION:
                return await self._session(request)
            return self._called(request, self._identify(request))
        return self._pages.get(request)

    # -- who is asking -------------------------------------------------------------------

    def _check_open(self, request: Request) -> None:
        """``WebError`` where nobody has to log in on this machine and a proxy on it lets others in, too."""
        if self._gate.open and forwarded(request):
            identity = self._identity(request)
            if identity is None or identity.via != "token":
                raise WebError(
                    403,
                    "this request came through a proxy: without a password whoever can use that would control"
                    " the home. Set one on this machine with 'spind passwd NAME', or send a token",
                )

    def _identify(self, request: Request) -> Identity:
        identity = self._identity(request)
        if identity is None:
            raise WebError(
                401, "log in, or send a token (Authorization: Bearer)", (("WWW-Authenticate", "Bearer"),)
            )
        return identity

    def _identity(self, request: Request) -> Identity | None:
        return self._gate.identify(_cookie(request), _bearer(request), self._clock())

    async def _session(self, request: Request) -> Response:
        if request.method in {"GET", "HEAD"}:
            return json_response(self._told(self._identity(request)))
        if request.method == "POST":
            check_content_type(request)
            return await self._login(request)
        if request.method == "DELETE":
            self._gate.logout(_cookie(request))
            return Response(204, headers=(("Set-Cookie", _set_cookie("", 0, secure=request.secure)),))
        raise _wrong_method("GET, HEAD, POST, DELETE")

    def _told(self, identity: Identity | None) -> dict[str, object]:
        """What the page is told about its session."""
        return {
            "open": self._gate.open,
            "name": identity.name if identity else "",
            "role": identity.role if identity else "",
            "version": __version__ if identity else "",
            "login": not self._gate.open,
        }

    async def _login(self, request: Request) -> Response:
        try:
            given = json.loads(request.body)
            user, password = given["user"], given["password"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise WebError(400, 'send {"user": ..., "password": ...}') from error
        for text in (user, password):
            if not isinstance(text, str) or len(text) > MAX_CREDENTIAL:
                raise WebError(400, f"user and password are texts of at most {MAX_CREDENTIAL} characters")
        try:
            login = await self._gate.login(user, password, request.address, self._clock())
        except RefusedError as error:
            if error.retry_after:
                raise WebError(429, str(error), (("Retry-After", str(error.retry_after)),)) from error
            raise WebError(403, str(error)) from error
        cookie = _set_cookie(login.cookie, login.seconds, secure=request.secure)
        told = self._told(login.identity) | {"notice": login.notice}
        return json_response(told, headers=(("Set-Cookie", cookie),))

    # -- calls and streams ---------------------------------------------------------------

    def _called(self, request: Request, identity: Identity) -> Reply:
        name = inert(identity.name, 32)
        caller = Caller(f"web, {name}" if name else "web", identity.role)
        path = request.path
        if path == JSON_RPC:
            if request.method != "POST":
                raise _wrong_method("POST")
            _check_form(request, identity)
            reply = jsonrpc.handle(self._api, request.body, caller)
            return Response(204) if reply is None else Response(200, reply, JSON)
        if path == EVENT_STREAM:
            return self._events(request, identity)
        if path.startswith(CAPTURES) and path.endswith(PCAP):
            return self._pcap(request, identity.role)
        if path == OPENAPI:
            if request.method not in {"GET", "HEAD"}:
                raise _wrong_method("GET, HEAD")
            return json_response(describe(self._api.methods, self._rest.resources))
        if path.startswith(PREFIX + "/"):
            call = self._rest.find(request)
            _check_form(request, identity)
            return self._rest.answer(call, request, caller)
        raise WebError(404, "there is nothing at this path")

    def _events(self, request: Request, identity: Identity) -> Stream:
        if request.method != "GET":
            raise _wrong_method("GET")
        last = request.headers.get("last-event-id", "")[:64]
        try:
            subscriber = self._feed.subscribe(last, identity.name, identity.via)
        except RefusedError as error:
            raise WebError(503, str(error), (("Retry-After", "5"),)) from error

        def hook(abort: Callable[[], None]) -> None:
            subscriber.on_drop = abort

        source = self._while_allowed(request, identity.role, aiter(subscriber))
        return Stream(source, EVENTS, hook=hook, close=subscriber.close)

    def _pcap(self, request: Request, role: str) -> Stream:
        if request.method != "GET":
            raise _wrong_method("GET")
        number = request.path.removeprefix(CAPTURES).removesuffix(PCAP)
        if not (number.isascii() and number.isdigit() and len(number) < 16):
            raise WebError(404, "there is no such capture")
        try:
            download = self._captures.open(int(number), role)
        except ApiError as error:
            raise WebError(status_of(error), error.message) from error
        name = f'attachment; filename="spin-{number}.pcap"'
        source = self._while_allowed(request, role, download)
        return Stream(source, PCAP_TYPE, (("Content-Disposition", name),), close=download.close)

    async def _while_allowed(
        self, request: Request, role: str, source: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """``source``, which ends when the session or token does that it was asked for with, or when that has
        another role: who is a viewer now must not go on reading the owner's download."""
        cookie, bearer = _cookie(request), _bearer(request)
        asked = self._clock()
        async for item in source:
            now = self._clock()
            if not 0 <= now - asked < RECHECK_SECONDS:
                identity = self._gate.identify(cookie, bearer, now, touch=False)
                if identity is None or identity.role != role:
                    return
                asked = now
            yield item


def _check_form(request: Request, identity: Identity) -> None:
    """Browsers add a cookie by themselves, and come from where nobody has to log in; a token they do not."""
    if identity.via != "token" and request.method not in SAFE_METHODS:
        check_content_type(request)


def _wrong_method(allowed: str) -> WebError:
    return WebError(405, f"only {allowed} can be used here", (("Allow", allowed),))


def _cookie(request: Request) -> str:
    for item in request.headers.get("cookie", "").split(";"):
        name, _, value = item.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _set_cookie(value: str, seconds: int, *, secure: bool) -> str:
    flags = "; Secure" if secure else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{flags}"
