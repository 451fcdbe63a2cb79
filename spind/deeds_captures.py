# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods about packet captures: whose packets, how many, for how long, and who may. Pure.

They turn nodes into addresses; what captures gets nothing that people or strangers chose but numbers
and addresses. What devices say is the owner's only: a provider captures nothing.
"""

import logging
from typing import NamedTuple, Protocol

from spind.calls import REFUSED, ApiError, DeniedError, NotFoundError, UnavailableError
from spind.commands import Notice
from spind.desk import Desk
from spind.limits import CaptureLimits
from spind.model import format_mac
from spind.nodes import Node
from spind.pcap_filter import MAX_ADDRESSES, Wanted
from spind.shapes import Json

DEFAULT_SECONDS = 60
DEFAULT_BYTES = 10 * 1024 * 1024
MIN_BYTES = 4096


class CaptureRequest(NamedTuple):
    """What to capture. ``device`` is a MAC, or empty, ``node`` is as the caller gave it (0: none),
    ``left_out`` the number of addresses of the node that the filter has no room for."""

    wanted: Wanted
    seconds: int
    max_bytes: int
    device: str = ""
    node: int = 0
    label: str = ""
    left_out: int = 0


class CapturePort(Protocol):
    """Whoever captures. Each capture is told as ``start_capture`` returns it."""

    limits: CaptureLimits

    def start(self, request: CaptureRequest) -> Json:
        """Start one; ``ApiError`` where it cannot be."""

    def stop(self, number: int) -> Json:
        """End one, if it runs; ``NotFoundError`` where there is none."""

    def list(self) -> list[Json]:
        """All there are, the latest first."""


class CaptureDeeds:
    """Starts, stops and lists captures for the caller of the moment."""

    def __init__(self, desk: Desk, port: CapturePort | None) -> None:
        self._desk = desk
        self._port = port

    def start_capture(
        self,
        device: str = "",
        node: int = 0,
        seconds: int | None = None,
        max_bytes: int | None = None,
    ) -> Json:
        """Start a capture of a device, a node, or what the two exchange."""
        port = self._allowed()
        limits = port.limits
        if not device and not node:
            raise ApiError(REFUSED, "device or node must say whose packets to capture")
        wanted, label, left_out = self._wanted(device, node)
        request = CaptureRequest(
            wanted,
            _within("seconds", seconds, min(DEFAULT_SECONDS, limits.seconds), 1, limits.seconds),
            _within("max_bytes", max_bytes, min(DEFAULT_BYTES, limits.bytes), MIN_BYTES, limits.bytes),
            format_mac(wanted.mac) if wanted.mac is not None else "",
            node,
            label,
            left_out,
        )
        capture = port.start(request)
        self._tell(f"capture {capture['id']} of {label} started, for at most {request.seconds} s,")
        return capture

    def stop_capture(self, id: int) -> Json:  # noqa: A002
        """End a capture; what it has can still be downloaded."""
        capture = self._allowed().stop(id)
        self._tell(f"capture {id} stopped")
        return capture

    def list_captures(self) -> list[Json]:
        """All captures, the latest first."""
        if self._port is None:
            return []
        return self._allowed().list()

    def _allowed(self) -> CapturePort:
        refuse_provider(self._desk.caller.role)
        if self._port is None:
            raise UnavailableError("packets cannot be captured here: there is no live network")
        return self._port

    def _tell(self, what: str) -> None:
        caller = self._desk.caller
        self._desk.tell([Notice(logging.INFO, f"{what} by the {caller.role}, {caller.interface}")])

    def _wanted(self, device: str, node: int) -> tuple[Wanted, str, int]:
        views = self._desk.views
        first = views.device(device) if device else None
        second = views.node(node) if node else None
        if first is None and second is not None and second.mac is not None:
            first, second = second, None
        if first is None:
            if second is None:
                raise NotFoundError("Unknown node id")
            addresses, left_out = _newest(second)
            if not addresses:
                raise UnavailableError(f"node: {second.label!r:.80} has no address to capture by")
            return Wanted(addresses=addresses), second.label, left_out
        if second is None or second is first:
            return Wanted(first.mac), first.label, 0
        addresses, left_out = _newest(second)
        if not addresses and second.mac is None:
            raise UnavailableError(f"node: {second.label!r:.80} has no address to capture by")
        return Wanted(first.mac, second.mac, addresses), f"{first.label} and {second.label}", left_out


def refuse_provider(role: str) -> None:
    """``DeniedError`` for a provider: it may see who talks to whom, and not what they say."""
    if role == "provider":
        raise DeniedError("captures hold what devices say, which is the owner's only")


def refuse_all_but_owner(role: str) -> None:
    """``DeniedError`` for whoever may not have the packets themselves."""
    refuse_provider(role)
    if role != "owner":
        raise DeniedError(f"captures hold what devices say, and the role {role} may not read that")


def _newest(node: Node) -> tuple[tuple[bytes, ...], int]:
    addresses = tuple(node.addresses)
    return addresses[-MAX_ADDRESSES:], max(0, len(addresses) - MAX_ADDRESSES)


def _within(name: str, value: int | None, default: int, least: int, most: int) -> int:
    if value is None:
        return default
    if not least <= value <= most:
        raise ApiError(
            REFUSED, f"{name} must be {least} to {most} (limit_capture_{name.removeprefix('max_')})"
        )
    return value


def request_shape(request: CaptureRequest) -> Json:
    """What of a capture was asked for, as JSON."""
    shape: Json = {"seconds": request.seconds, "max_bytes": request.max_bytes, "label": request.label}
    if request.device:
        shape["device"] = request.device
    if request.node:
        shape["node"] = request.node
    if request.left_out:
        shape["addresses_left_out"] = request.left_out
    return shape
