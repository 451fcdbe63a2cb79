# SPDX-License-Identifier: GPL-2.0-or-later
"""spind on OpenWrt's bus: the object ``spin``, with every method of the table, and its events.

Owns how calls and results look on ubus. It must not know what any method does.

Calls. Arguments are a method's own, all by name; ``ubus_rpc_session``, which uhttpd adds, is left
out. A result that is an object comes as it is, any other as ``{"result": ...}``, none as an empty
table. ``rpc`` is SPIN 1.0's only method: it takes ``method`` and ``params``, and replies what JSON-RPC
would, without ``jsonrpc`` and ``id``; its status is OK whatever the reply says, as it was then.

Refusals. The status is INVALID_ARGUMENT, METHOD_NOT_FOUND, NOT_FOUND, PERMISSION_DENIED or
UNKNOWN_ERROR. The sentence comes before it as ``{"error": {"code", "message"}}``: ``ubus call`` prints
that, uhttpd has it beside the status, and others, which look at the status first, lose nothing.

Callers are the owner: who is not root gets here only where ubusd's ACL says so, and is named in the
audit list.

Events, for ``ubus listen`` as for ``ubus subscribe spin``: ``spin.device``, ``spin.rule``,
``spin.notification`` (an item of ``list_notifications``). A device that changes while an event about it
waits is told once.
"""

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from spind import jsonrpc
from spind.api import Api
from spind.calls import (
    INVALID_ARGUMENTS,
    UNKNOWN_METHOD,
    ApiError,
    Arg,
    Caller,
    DeniedError,
    NotFoundError,
    UnavailableError,
)
from spind.changes import Change, RuleChange
from spind.commands import Command, Json, NodeChanged, NodeDeleted, NodeMerged, Notify, Save
from spind.rules import to_json
from spind.text import inert
from spind.ubus import blob
from spind.ubus.client import Call, Status, UbusClient, UbusObject
from spind.wire.errors import WireError

log = logging.getLogger(__name__)

OBJECT: Final = "spin"
RPC: Final = "rpc"
SESSION: Final = "ubus_rpc_session"

MAX_REQUEST: Final = jsonrpc.MAX_REQUEST
MAX_REPLY: Final = jsonrpc.MAX_REPLY

_TYPES: Final = {
    "string": blob.STRING,
    "integer": blob.INT32,  # larger ones come as INT64, and are taken, too
    "boolean": blob.INT8,
    "array": blob.ARRAY,
    "complex": blob.TABLE,
}

EVENT_PAUSE: Final = 0.2
"""Seconds for which events are gathered."""

_EVENTS_AT_ONCE: Final = 32  # encoded and sent in some 2 ms
_MAX_EVENTS: Final = 1024  # that wait; beyond it the oldest is dropped


class UbusApi:
    """The object and its events; all calls from the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, api: Api, socket_path: str) -> None:
        """``socket_path`` is ubusd's, which may come later, or never."""
        self._loop = loop
        self._api = api
        self._client = UbusClient(loop, socket_path)
        self._object = UbusObject(OBJECT, signature(api), self._called)
        self._client.add(self._object)
        # By id of the device, or a negative number.
        self._waiting: OrderedDict[int, tuple[str, Json]] = OrderedDict()
        self._order = 0
        self._timer: asyncio.TimerHandle | None = None
        self._devices: set[int] = set()  # that there are: as many as the engine has
        self._calls = self._refused = self._events = self._dropped = 0

    @property
    def client(self) -> UbusClient:
        """Our connection, for whoever calls others on the bus."""
        return self._client

    @property
    def connected(self) -> bool:
        """Whether the object is on the bus."""
        return self._client.up

    @property
    def counters(self) -> dict[str, int]:
        """For ``status``: calls, those refused, events sent and dropped, reconnects, connected (0, 1)."""
        return {
            "calls": self._calls,
            "refused": self._refused,
            "events": self._events,
            "dropped": self._dropped,
            "reconnects": max(0, self._client.connections - 1),
            "connected": int(self.connected),
        }

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._client.start()

    async def stop(self) -> None:
        """Send the events that wait, and leave the bus, within a second or two."""
        while self._waiting and not self._client.busy:
            self._flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        await self._client.stop()

    # -- calls ---------------------------------------------------------------------------

    def _called(self, call: Call) -> None:
        self._calls += 1
        try:
            call.reply(self._answer(call))
        except ApiError as error:
            self._refuse(call, status_of(error), error.code, error.message)
        except Exception:
            log.exception("method %.64r failed", call.method)
            sentence = "internal error; the daemon's log has the details"
            self._refuse(call, Status.UNKNOWN_ERROR, jsonrpc.INTERNAL_ERROR, sentence)
        else:
            call.done()

    def _answer(self, call: Call) -> bytes:
        if len(call.data) > MAX_REQUEST:
            raise ApiError(
                INVALID_ARGUMENTS, f"a request has at most {MAX_REQUEST} bytes, not {len(call.data)}"
            )
        try:
            arguments = call.arguments()
        except WireError as error:
            raise ApiError(INVALID_ARGUMENTS, f"the arguments cannot be read: {error}") from error
        arguments.pop(SESSION, None)
        caller = Caller("ubus" if call.user in ("", "root") else f"ubus, {inert(call.user, 32)}", "owner")
        if call.method == RPC:
            return self._rpc(arguments, caller)
        return encode_result(self._api.call(call.method, arguments, caller))

    def _rpc(self, arguments: dict[str, object], caller: Caller) -> bytes:
        """SPIN 1.0's method: a JSON-RPC request without the envelope (docs/decisions/0003)."""
        request = json.dumps({"jsonrpc": "2.0", "id": 0} | arguments).encode()
        reply = json.loads(jsonrpc.handle(self._api, request, caller) or b"{}")
        # "id" and "jsonrpc" belong to the envelope, given or not.
        encoded = blob.encode_table({name: reply[name] for name in ("result", "error") if name in reply})
        if len(encoded) > MAX_REPLY:
            error = {"code": jsonrpc.OTHER_ERROR, "message": _too_large(len(encoded))}
            encoded = blob.encode_table({"error": error})
        return encoded

    def _refuse(self, call: Call, status: Status, code: int, message: str) -> None:
        self._refused += 1
        text = inert(message, jsonrpc.MAX_MESSAGE)
        call.reply(blob.encode_table({"error": {"code": code, "message": text}}))
        call.done(status)

    # -- events --------------------------------------------------------------------------

    def publish(self, command: Command) -> None:
        """Tell of ``command``; commands that nobody on the bus hears of are none of its business."""
        if isinstance(command, NodeChanged):
            if "mac" in command.node:
                self._device_changed(command.node)
        elif isinstance(command, NodeDeleted | NodeMerged):
            self._device_gone(command)
        elif isinstance(command, Save) and isinstance(command.after, RuleChange):
            self._put(None, "spin.rule", _rule_event(command.before, command.after))
        elif isinstance(command, Notify):
            self._put(None, "spin.notification", command.notification)

    def _device_changed(self, device: Json) -> None:
        ident = int(str(device["id"]))
        before = self._waiting.get(ident)
        # Whoever listens has not heard of a device whose first event still waits.
        known = ident in self._devices and (before is None or before[1]["action"] != "add")
        self._devices.add(ident)
        self._put(
            ident, "spin.device", {"action": "change" if known else "add", "id": ident, "device": device}
        )

    def _device_gone(self, command: NodeDeleted | NodeMerged) -> None:
        if command.id not in self._devices:
            return
        self._devices.discard(command.id)
        before = self._waiting.pop(command.id, None)
        if before is None or before[1]["action"] != "add":
            members: Json = {"action": "delete", "id": command.id}
            if isinstance(command, NodeMerged):
                members["merged_to"] = command.merged_to
            self._put(command.id, "spin.device", members)

    def _put(self, device: int | None, kind: str, members: Json) -> None:
        """Have an event sent soon; of a device the latest counts."""
        if not self._client.up:
            return
        self._order += 1
        self._waiting[-self._order if device is None else device] = (kind, members)
        if len(self._waiting) > _MAX_EVENTS:
            self._waiting.popitem(last=False)
            self._dropped += 1
        if self._timer is None:
            self._timer = self._loop.call_later(EVENT_PAUSE, self._flush)

    def _flush(self) -> None:
        """Send some of the events that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._client.up:
            self._dropped += len(self._waiting)
            self._waiting.clear()
        for _ in range(min(_EVENTS_AT_ONCE, len(self._waiting))):
            if self._client.busy:
                break
            kind, members = self._waiting.popitem(last=False)[1]
            self._client.notify(self._object, kind, members)
            self._client.send_event(kind, members)
            self._events += 1
        if self._waiting:
            self._timer = self._loop.call_later(EVENT_PAUSE, self._flush)


def _rule_event(before: Change, after: RuleChange) -> Json:
    if after.rule is None:
        return {"action": "delete", "id": after.id}
    known = isinstance(before, RuleChange) and before.rule is not None
    return {"action": "change" if known else "add", "id": after.id, "rule": to_json(after.rule)}


def signature(api: Api) -> dict[str, dict[str, int]]:
    """The table's methods as ubus shows them: method -> argument -> blobmsg type."""
    methods = {name: _arguments(method.args) for name, method in sorted(api.methods.items())}
    return {**methods, RPC: {"method": blob.STRING, "params": blob.TABLE}}


def _arguments(args: tuple[Arg, ...]) -> dict[str, int]:
    return {arg.name: _TYPES[arg.type] for arg in args}


def status_of(error: ApiError) -> Status:
    """What ubus says of a refusal."""
    if error.code == UNKNOWN_METHOD:
        return Status.METHOD_NOT_FOUND
    if isinstance(error, NotFoundError):
        return Status.NOT_FOUND
    if isinstance(error, DeniedError):
        return Status.PERMISSION_DENIED
    if isinstance(error, UnavailableError):
        return Status.UNKNOWN_ERROR
    return Status.INVALID_ARGUMENT  # the sentence names the argument and what would be right


def encode_result(result: object) -> bytes:
    """A method's result as it goes over the bus, of at most ``MAX_REPLY`` bytes.

    A list, and the ``items`` of a page, end before they grow beyond it: as everywhere, a reader goes on at
    ``offset`` plus the number of items it got. ``UnavailableError`` where nothing can be left out.
    """
    members: Mapping[str, object]
    if isinstance(result, Mapping):
        members, name = result, "items"
    else:
        members, name = ({} if result is None else {"result": result}), "result"
    encoded = blob.encode_table(members)
    while len(encoded) > MAX_REPLY:
        items = members.get(name)
        if not isinstance(items, list) or len(items) < 2:
            raise UnavailableError(_too_large(len(encoded)))
        fewer = min(len(items) - 1, len(items) * MAX_REPLY // len(encoded))
        members = {**members, name: items[:fewer]}
        encoded = blob.encode_table(members)
    return encoded


def _too_large(size: int) -> str:
    return f"the result has {size} bytes, more than a reply holds: ask for less with limit and offset"
