# SPDX-License-Identifier: GPL-2.0-or-later
"""The methods about captures: nodes become addresses, bounds are told, and who may."""

import pytest
from test_engine import CAMERA, CAMERA_V4, CDN, PHONE, T0, home, resolve

from spind.api import Api
from spind.calls import ApiError, Caller, DeniedError, NotFoundError, UnavailableError
from spind.commands import Notice
from spind.deeds_captures import CaptureRequest
from spind.limits import CaptureLimits
from spind.model import format_mac, parse_address
from spind.pcap_filter import MAX_ADDRESSES, Wanted, expression

OWNER = Caller("http", "owner")
CAMERA_MAC = format_mac(CAMERA)


class Port:
    """Captures that remember what they were asked for."""

    def __init__(self, limits: CaptureLimits) -> None:
        self.limits = limits
        self.asked: list[CaptureRequest] = []

    def start(self, request):
        self.asked.append(request)
        return {"id": len(self.asked), "state": "starting"}

    def stop(self, number):
        if number > len(self.asked):
            raise NotFoundError(f"there is no capture {number}")
        return {"id": number, "state": "stopping"}

    def list(self):
        return [{"id": number + 1} for number in range(len(self.asked))]


class Bench:
    def __init__(self, **limits: int) -> None:
        self.engine = home()
        resolve(self.engine, CAMERA, CAMERA_V4, "api.vendor.test", "198.18.0.20", T0)
        self.port = Port(CaptureLimits(**limits))
        self.commands = []
        self.api = Api(self.engine, lambda: T0, self.commands.extend, captures=self.port)
        self.camera = self.engine.nodes.devices[CAMERA]
        self.site = self.engine.nodes.find_domain("vendor.test")

    def __call__(self, method, caller=OWNER, **params):
        return self.api.call(method, params, caller)

    def start(self, **params) -> CaptureRequest:
        self("start_capture", **params)
        return self.port.asked[-1]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_device_is_captured_by_its_mac_however_it_is_named(bench):
    for params in ({"device": CAMERA_MAC}, {"node": bench.camera.id}, {"device": CAMERA_MAC.upper()}):
        request = bench.start(**params)
        assert request.wanted == Wanted(CAMERA)
        assert (request.label, request.device) == (bench.camera.label, CAMERA_MAC)
    assert bench.start(device=CAMERA_MAC, node=bench.camera.id).wanted == Wanted(CAMERA)


def test_a_site_is_captured_by_its_addresses(bench):
    request = bench.start(node=bench.site.id)
    assert request.wanted == Wanted(addresses=(CDN,))
    assert (request.node, request.device, request.left_out) == (bench.site.id, "", 0)


def test_a_pair_is_captured_by_both(bench):
    assert bench.start(device=CAMERA_MAC, node=bench.site.id).wanted == Wanted(CAMERA, None, (CDN,))
    phone = bench.engine.nodes.devices[PHONE]
    wanted = bench.start(device=CAMERA_MAC, node=phone.id).wanted
    assert (wanted.mac, wanted.peer) == (CAMERA, PHONE)
    assert set(wanted.addresses) == set(phone.addresses)


def test_of_many_addresses_the_newest_are_taken_and_it_is_said(bench):
    for i in range(100):
        bench.site.addresses[parse_address(f"198.18.7.{i}")] = T0 + i
    request = bench.start(node=bench.site.id)
    assert len(request.wanted.addresses) == MAX_ADDRESSES
    assert request.wanted.addresses[-1] == parse_address("198.18.7.99")
    assert request.left_out == 101 - MAX_ADDRESSES


def test_defaults_and_bounds(bench):
    request = bench.start(device=CAMERA_MAC)
    assert (request.seconds, request.max_bytes) == (60, 10 << 20)
    small = Bench(seconds=20, bytes=70_000)
    request = small.start(device=CAMERA_MAC)
    assert (request.seconds, request.max_bytes) == (20, 70_000)
    assert small.start(device=CAMERA_MAC, seconds=20, max_bytes=70_000)
    for params, word in (
        ({"seconds": 21}, "limit_capture_seconds"),
        ({"seconds": 0}, "seconds must be 1 to 20"),
        ({"seconds": -5}, "seconds"),
        ({"max_bytes": 70_001}, "limit_capture_bytes"),
        ({"max_bytes": 0}, "max_bytes"),
    ):
        with pytest.raises(ApiError, match=word):
            small.start(device=CAMERA_MAC, **params)
    assert len(small.port.asked) == 2


def test_refusals_start_nothing(bench):
    bare = bench.engine.nodes.find_domain("vendor.test")
    bare.addresses.clear()
    for params, error in (
        ({}, ApiError),
        ({"device": "02:00:00:00:99:99"}, NotFoundError),
        ({"device": "eth0 or 1=1"}, NotFoundError),
        ({"node": 4711}, NotFoundError),
        ({"node": -1}, NotFoundError),
        ({"node": bare.id}, UnavailableError),
        ({"device": CAMERA_MAC, "node": bare.id}, UnavailableError),
    ):
        with pytest.raises(error) as refused:
            bench.start(**params)
        assert refused.value.message.isprintable()
    assert not bench.port.asked
    assert not bench.commands


def test_names_never_reach_the_filter(bench):
    bench.camera.name = "'; or host 192.0.2.1 $(reboot)"
    request = bench.start(device=CAMERA_MAC, node=bench.site.id)
    assert "reboot" not in expression(request.wanted)


def test_who_may(bench):
    bench("start_capture", device=CAMERA_MAC)
    for method, params in (("start_capture", {"device": CAMERA_MAC}), ("stop_capture", {"id": 1})):
        for role in ("viewer", "provider"):
            with pytest.raises(DeniedError):
                bench(method, Caller("http", role), **params)
    with pytest.raises(DeniedError):
        bench("list_captures", Caller("ubus", "provider"))
    assert bench("list_captures", Caller("http", "viewer")) == [{"id": 1}]
    assert len(bench.port.asked) == 1


def test_the_log_says_who(bench):
    bench("start_capture", device=CAMERA_MAC, seconds=9)
    bench("stop_capture", id=1)
    said = [command.message for command in bench.commands if isinstance(command, Notice)]
    assert said == [
        f"capture 1 of {bench.camera.label} started, for at most 9 s, by the owner, http",
        "capture 1 stopped by the owner, http",
    ]
    with pytest.raises(NotFoundError):
        bench("stop_capture", id=2)


def test_without_a_network_nothing_is_captured():
    api = Api(home(), lambda: T0, lambda _commands: None)
    with pytest.raises(UnavailableError, match="no live network"):
        api.call("start_capture", {"device": CAMERA_MAC}, OWNER)
    assert api.call("list_captures", {}, OWNER) == []
