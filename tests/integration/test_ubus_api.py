# SPDX-License-Identifier: GPL-2.0-or-later
"""The object ``spin`` on a bus: the whole table of methods, by the client and by OpenWrt's own ``ubus``."""

import asyncio
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ubus_broker import KINDS, RunningBus, needs_ubus, until

from spind.api import Api
from spind.calls import (
    INVALID_ARGUMENTS,
    REFUSED,
    UNKNOWN_METHOD,
    ApiError,
    Caller,
    DeniedError,
    NotFoundError,
    UnavailableError,
)
from spind.commands import NodeChanged, NodeDeleted, NodeMerged, Notice, Notify, Save
from spind.engine import Engine
from spind.events import ConnDelta, LocalAddresses, NeighbourSeen, Traffic
from spind.model import ConnKey, parse_address, parse_mac
from spind.shapes import node_shape
from spind.ubus import blob, messages
from spind.ubus.client import Status, UbusClient, UbusError, UbusObject
from spind.ubus_api import MAX_REPLY, MAX_REQUEST, UbusApi, encode_result, status_of

T0 = 1_000_000.0
MAC = "02:00:00:00:08:11"
OWNER = Caller("socket", "owner")
SESSION = {"ubus_rpc_session": "0123456789abcdef0123456789abcdef"}


def run(scenario, *args):
    asyncio.run(asyncio.wait_for(scenario(*args), 240))


@pytest.fixture(params=KINDS)
def bus(request, tmp_path):
    with RunningBus(request.param, tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_is_forgotten(caplog):
    yield
    gc.collect()
    left = [record.message for record in caplog.records if record.name == "asyncio" and record.levelno > 20]
    assert not left


class Home:
    """A table of methods on an engine that has seen a camera, and its place on the bus."""

    def __init__(self, path):
        self.path = path
        self.engine = Engine()
        home = (parse_address("192.168.8.0"), 24)
        gateway = parse_address("192.168.8.1")
        self.engine.handle(
            LocalAddresses(frozenset({gateway}), frozenset({parse_mac("02:00:00:00:00:01")}), (home,)), T0
        )
        camera = parse_address("192.168.8.11")
        self.engine.handle(NeighbourSeen(camera, parse_mac(MAC)), T0)
        key = ConnKey(6, camera, 5000, parse_address("198.18.0.20"), 443)
        self.engine.handle(Traffic([ConnDelta(1, key, 1, 2**33, 1, 2**40, False)]), T0)
        self.engine.notify(T0, "daemon", "daemon.trouble", ("something",))
        self.commands = []
        self.api = Api(self.engine, lambda: T0 + 5, self.commands.extend)
        self.ubus = UbusApi(asyncio.get_running_loop(), self.api, path)
        self.others = []

    async def __aenter__(self):
        self.ubus.start()
        await until(lambda: self.ubus.connected)
        return self

    async def __aexit__(self, *_):
        for other in self.others:
            await other.stop()
        await self.ubus.stop()
        assert not self.ubus.connected

    async def client(self, *objects):
        client = UbusClient(asyncio.get_running_loop(), self.path)
        for each in objects:
            client.add(each)
        client.start()
        self.others.append(client)
        await until(lambda: client.up)
        return client

    @property
    def camera(self):
        return self.engine.nodes.devices[parse_mac(MAC)].id

    @property
    def site(self):
        return next(node.id for node in self.engine.nodes if node.mac is None)

    async def program(self, *words, user=None):
        """OpenWrt's ``ubus``: (exit status, what it printed, errors)."""
        process = await asyncio.create_subprocess_exec(
            "ubus",
            "-s",
            self.path,
            *words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        out, errors = await process.communicate()
        return process.returncode, out.decode(), errors.decode()


def calls(home):
    """Every method of the table at least once with all arguments and once with the least."""
    camera, site = home.camera, home.site
    dots = {
        "ietf-dots-signal-channel:mitigation-scope": {
            "scope": [{"target-prefix": ["198.18.0.20/32"], "lifetime": 600}]
        }
    }
    profile = {
        "profile": "quiet",
        "name": "Quiet",
        "description": "Says little.",
        "default": "block",
        "allow_domain": ["vendor.test"],
        "block_domain": [],
        "allow_ip": ["home"],
        "block_ip": ["192.0.2.0/24"],
    }
    rule = {
        "device": MAC,
        "node": site,
        "port": 443,
        "protocol": "tcp",
        "action": "block",
        "until": int(T0) + 10**9,
        "schedule": "mon-fri 22:00-06:30",
        "comment": "at night",
    }
    return [
        ("list_devices", {}),
        ("list_device_flows", {"device": MAC}),
        ("get_device_data", {"node": camera}),
        ("set_device_name", {"node": camera, "name": "Küche"}),
        ("node_add_ip", {"node": 0, "ipaddr": "198.18.0.99"}),
        ("add_iplist_node", {"list": "ignore", "node": site}),
        ("remove_iplist_node", {"list": "ignore", "node": site}),
        ("add_iplist_ip", {"list": "block", "ip": "192.0.2.0/24"}),
        ("list_iplist", {"list": "block"}),
        ("remove_iplist_ip", {"list": "block", "ip": "192.0.2.0/24"}),
        ("reset_iplist_ignore", {}),
        ("set_flow_block", {"node1": camera, "node2": site, "block": 1}),
        ("get_flow_block", {}),
        ("set_device_flow_block", {"device": MAC, "node": site, "block": 0}),
        ("dots_signal", {"dots_signal": dots}),
        ("list_rpc_methods", {}),
        ("status", {}),
        ("list_nodes", {}),
        ("list_nodes", {"kind": "device", "query": "192.168", "limit": 5, "offset": 0}),
        ("list_flows", {}),
        ("list_flows", {"device": MAC, "node": site, "since": 1, "limit": 5, "offset": 0}),
        ("get_traffic", {}),
        ("get_traffic", {"since": int(T0) - 100, "step": 60, "device": MAC, "node": site}),
        ("set_ignore", {"node": site, "ignore": True}),
        ("set_ignore", {"node": site, "ignore": False}),
        ("add_rule", {"action": "block", "domain": "ads.test"}),
        ("add_rule", rule),
        ("add_rule", {"action": "allow", "ip": "198.18.0.1"}),
        ("list_rules", {}),
        ("list_rules", {"limit": 1, "offset": 1}),
        ("remove_rule", {"id": 4}),
        ("list_profiles", {}),
        ("set_profile", profile),
        ("set_profile", {"profile": "quiet"}),
        ("set_device_profile", {"device": MAC, "profile": "quiet"}),
        ("set_device_profile", {"device": MAC, "profile": ""}),
        ("remove_profile", {"profile": "quiet"}),
        ("list_notifications", {}),
        ("list_notifications", {"since": 1, "limit": 3, "offset": 0}),
        ("dismiss_notification", {"id": 1}),
        ("start_capture", {"device": MAC}),
        ("stop_capture", {"id": 1}),
        ("list_captures", {}),
        ("list_audit", {}),
        ("list_audit", {"since": 1, "limit": 3, "offset": 1}),
        ("undo", {"id": 1}),
    ]


REFUSED_HERE = {
    "dots_signal",  # it is not enabled in the configuration
    "start_capture",  # there is no live network
    "stop_capture",
}


def wrapped(result):
    """A result as ubus has it."""
    return result if isinstance(result, dict) else {} if result is None else {"result": result}


def expected(twin, method, arguments):
    """What a direct call of another table of the same home says: (status, table)."""
    try:
        return Status.OK, wrapped(twin.api.call(method, arguments, Caller("ubus", "owner")))
    except ApiError as error:
        return status_of(error), {"error": {"code": error.code, "message": error.message}}


async def answer(client, method, arguments):
    try:
        return Status.OK, await client.call("spin", method, arguments)
    except UbusError as error:
        return error.status, blob.decode_table(error.data or b"")


def test_every_method_is_as_called_directly(bus):
    async def scenario():
        async with Home(bus.path) as home:
            twin = Home(bus.path)
            client = await home.client()
            called = set()
            for method, arguments in calls(home):
                called.add(method)
                got = await answer(client, method, arguments | SESSION)
                assert got == expected(twin, method, arguments), method
                assert (got[0] == Status.OK) is (method not in REFUSED_HERE), (method, got)
            assert called == set(home.api.methods)
            counters = home.ubus.counters
            assert (counters["calls"], counters["refused"]) == (len(calls(home)), len(REFUSED_HERE))

    run(scenario)


@pytest.mark.parametrize(
    ("method", "arguments", "status", "words"),
    [
        ("nothing", {}, Status.METHOD_NOT_FOUND, None),
        ("get_device_data", {}, Status.INVALID_ARGUMENT, "needs the argument node"),
        ("get_device_data", {"node": "x"}, Status.INVALID_ARGUMENT, "of type integer"),
        ("get_device_data", {"node": None}, Status.INVALID_ARGUMENT, "of type integer"),
        ("get_device_data", {"node": 1.0}, Status.INVALID_ARGUMENT, "of type integer"),
        ("get_device_data", {"node": True}, Status.INVALID_ARGUMENT, "of type integer"),
        ("get_device_data", {"node": 2**62}, Status.INVALID_ARGUMENT, "out of range"),
        ("get_device_data", {"node": 1, "x": 1}, Status.INVALID_ARGUMENT, "no argument 'x'"),
        ("get_device_data", {"node": 4242}, Status.NOT_FOUND, "Unknown node id"),
        ("list_device_flows", {"device": "02:00:00:00:00:99"}, Status.NOT_FOUND, "Device not found"),
        ("remove_rule", {"id": 77}, Status.NOT_FOUND, "no rule 77"),
        ("undo", {"id": 77}, Status.NOT_FOUND, "no entry 77"),
        ("set_device_profile", {"device": MAC, "profile": "?"}, Status.NOT_FOUND, "no profile"),
        ("add_iplist_ip", {"list": "block", "ip": "x"}, Status.INVALID_ARGUMENT, "Invalid IP address"),
        ("list_flows", {"limit": 0}, Status.INVALID_ARGUMENT, "limit must be"),
        ("dots_signal", {"dots_signal": {}}, Status.UNKNOWN_ERROR, "not enabled"),
        ("set_device_name", {"node": 1, "name": "x" * MAX_REQUEST}, Status.INVALID_ARGUMENT, "at most 65536"),
        ("dots_signal", {"dots_signal": {"x": [0] * 5000}}, Status.INVALID_ARGUMENT, "too many values"),
    ],
)
def test_refusals(bus, method, arguments, status, words):
    async def scenario():
        async with Home(bus.path) as home:
            got, table = await answer(await home.client(), method, arguments)
            assert got == status
            if words is not None:
                assert words in table["error"]["message"]
                assert table["error"]["code"] in (REFUSED, INVALID_ARGUMENTS)
            assert not home.commands

    run(scenario)


def test_statuses():
    assert status_of(ApiError(UNKNOWN_METHOD, "")) == Status.METHOD_NOT_FOUND
    assert status_of(ApiError(INVALID_ARGUMENTS, "")) == Status.INVALID_ARGUMENT
    assert status_of(ApiError(REFUSED, "")) == Status.INVALID_ARGUMENT
    assert status_of(NotFoundError("")) == Status.NOT_FOUND
    assert status_of(DeniedError("")) == Status.PERMISSION_DENIED
    assert status_of(UnavailableError("")) == Status.UNKNOWN_ERROR


def test_malformed_arguments_are_refused(bus):
    """ubusd passes on whatever it gets."""

    async def scenario():
        async with Home(bus.path) as home:
            client = await home.client()
            ident = home.ubus._object.id
            for data in (b"\0", b"\0\0\0\3", b"\x83\0\0\x0c\0\1a\0abcd", blob.encode_table({"a": 1})[:-1]):
                for method in ("list_devices", "rpc"):
                    with pytest.raises(UbusError) as caught:
                        await client._request(
                            messages.INVOKE, ident, messages.invocation(ident, method, data)
                        )
                    assert caught.value.status == Status.INVALID_ARGUMENT
                    assert "cannot be read" in str(blob.decode_table(caught.value.data))

    run(scenario)


def test_a_method_that_fails_inside(bus, caplog):
    async def scenario():
        async with Home(bus.path) as home:
            client = await home.client()
            for wrong in (float("nan"), 2**64, {"": 1}, object()):
                home.api.methods["status"] = home.api.methods["status"]._replace(handler=lambda w=wrong: w)
                status, table = await answer(client, "status", {})
                assert status == Status.UNKNOWN_ERROR
                assert table["error"]["code"] == -32603
            assert (await answer(client, "list_devices", {}))[0] == Status.OK

    run(scenario)
    assert caplog.text.count("method 'status' failed") == 4


def test_spin_1_0_callers(bus):
    async def scenario():
        async with Home(bus.path) as home:
            client = await home.client()

            async def rpc(**request):
                return await client.call("spin", "rpc", request)

            devices = home.api.call("list_devices", {}, OWNER)
            assert await rpc(method="list_devices") == {"result": devices}
            assert await rpc(method="list_devices", params={}, **SESSION) == {"result": devices}
            whole = {"jsonrpc": "2.0", "id": 17, "method": "list_devices"}
            assert await rpc(**whole) == {"result": devices}
            assert await rpc(method="set_device_name", params={"node": home.camera, "name": "x"}) == {
                "result": None
            }
            for request, code in [
                ({"method": "nothing"}, UNKNOWN_METHOD),
                ({"method": "get_device_data", "params": {"node": 999}}, REFUSED),
                ({"method": "get_device_data"}, INVALID_ARGUMENTS),
                ({"method": "get_device_data", "params": [1]}, INVALID_ARGUMENTS),
                ({"method": 7}, -32600),
                ({}, -32600),
            ]:
                reply = await rpc(**request)
                assert list(reply) == ["error"]
                assert reply["error"]["code"] == code
                assert reply["error"]["message"]

    run(scenario)


def test_results_that_grow_are_cut_to_what_fits(bus):
    async def scenario():
        async with Home(bus.path) as home:
            client = await home.client()
            items = [{"ips": [f"10.{n // 256}.{n % 256}.{k}" for k in range(64)]} for n in range(400)]
            for result in (items, {"total": 400, "items": items}):
                home.api.methods["status"] = home.api.methods["status"]._replace(handler=lambda r=result: r)
                got = await client.call("spin", "status")
                some = got["result" if result is items else "items"]
                assert 20 < len(some) < 400
                assert some == items[: len(some)]
                size = len(encode_result(result))
                assert MAX_REPLY * 0.95 < size <= MAX_REPLY
            home.api.methods["status"] = home.api.methods["status"]._replace(
                handler=lambda: {"x": "y" * MAX_REPLY}
            )
            status, table = await answer(client, "status", {})
            assert status == Status.UNKNOWN_ERROR
            assert "limit and offset" in table["error"]["message"]
            reply = await client.call("spin", "rpc", {"method": "status"})
            assert "limit and offset" in reply["error"]["message"]

    run(scenario)


# Events


class Heard:
    """What comes by ``listen`` and by ``subscribe``."""

    def __init__(self):
        self.events, self.notices = [], []
        self.listener = UbusObject("", {}, lambda call: self.events.append((call.method, call.arguments())))
        self.subscriber = UbusObject(
            "", {}, lambda call: self.notices.append((call.method, call.arguments()))
        )

    async def start(self, home):
        client = await home.client(self.listener, self.subscriber)
        await client.listen(self.listener, "spin.*")
        await client.subscribe(self.subscriber, "spin")
        await until(lambda: home.ubus._object.has_subscribers)

    async def both(self, count):
        await until(lambda: len(self.events) >= count and len(self.notices) >= count)
        assert self.events == self.notices
        assert len(self.events) == count
        heard = list(self.events)
        self.events.clear()
        self.notices.clear()
        return heard


def device(ident, **more):
    return NodeChanged({"id": ident, "mac": f"02:00:00:00:00:{ident:02x}", "ips": [], **more})


def test_events_of_devices(bus):
    async def scenario():
        async with Home(bus.path) as home:
            heard = Heard()
            await heard.start(home)
            publish = home.ubus.publish
            shape = node_shape(home.engine.nodes.devices[parse_mac(MAC)])
            publish(NodeChanged({"id": 9, "ips": [], "domains": ["x."]}))  # a site: nobody's business
            publish(NodeChanged(shape))
            assert await heard.both(1) == [
                ("spin.device", {"action": "add", "id": home.camera, "device": shape})
            ]
            for name in "abc":  # only the last is told
                publish(device(3, name=name))
                publish(device(4, name=name))
            publish(NodeMerged(4, 3))  # and of this nobody has heard
            publish(NodeChanged(shape))
            publish(NodeDeleted(77))
            assert await heard.both(2) == [
                ("spin.device", {"action": "add", "id": 3, "device": device(3, name="c").node}),
                ("spin.device", {"action": "change", "id": home.camera, "device": shape}),
            ]
            publish(device(3))
            publish(NodeDeleted(3))
            publish(device(5))
            assert [event[1]["action"] for event in await heard.both(2)] == ["delete", "add"]
            publish(NodeMerged(5, home.camera))
            assert await heard.both(1) == [
                ("spin.device", {"action": "delete", "id": 5, "merged_to": home.camera})
            ]
            assert home.ubus.counters["events"] == 6

    run(scenario)


def test_events_of_rules_and_notices(bus):
    async def scenario():
        async with Home(bus.path) as home:
            heard = Heard()
            await heard.start(home)
            client = await home.client()

            async def events_of(method, count, **arguments):
                home.commands.clear()
                await client.call("spin", method, arguments)
                for command in home.commands:
                    home.ubus.publish(command)
                return await heard.both(count)

            ((kind, told),) = await events_of("add_rule", 1, action="block", domain="ads.test", until=2**33)
            assert kind == "spin.rule"
            rule = told["rule"]
            assert (told["action"], told["id"]) == ("add", 1)
            assert (rule["domain"], rule["until"], rule["author"]) == ("ads.test", 2**33, "owner")
            assert await events_of("remove_rule", 1, id=1) == [("spin.rule", {"action": "delete", "id": 1})]
            assert any(isinstance(command, Save) for command in home.commands)
            home.ubus.publish(Notice(logging.WARNING, "for the log"))
            (notify,) = home.engine.notify(1e6, "daemon", "daemon.trouble", ("something\0",))
            home.ubus.publish(notify)
            ((kind, told),) = await heard.both(1)
            assert kind == "spin.notification"
            assert told == notify.notification
            assert told["message"] == "something\N{REPLACEMENT CHARACTER}"
            assert (told["kind"], told["time"], told["message_args"]) == (
                "daemon",
                1000000,
                ["something\N{REPLACEMENT CHARACTER}"],
            )

    run(scenario)


def test_many_events_are_bounded_and_none_is_kept_for_a_bus_that_is_not_there(bus):
    async def scenario():
        async with Home(bus.path) as home:
            heard = Heard()
            await heard.start(home)
            for _ in range(1500):
                home.ubus.publish(Notify({"message": "again"}))
            assert len(home.ubus._waiting) == 1024
            assert home.ubus.counters["dropped"] == 1500 - 1024
            await until(lambda: len(heard.events) > 60)
            bus.kill()
            await until(lambda: not home.ubus.connected)
            home.ubus.publish(Notify({"message": "unheard"}))
            await until(lambda: not home.ubus._waiting)
            home.ubus.publish(device(3))
            bus.start()
            await until(lambda: home.ubus.connected)
            heard = Heard()
            await heard.start(home)
            home.ubus.publish(NodeDeleted(3))  # known, though nobody was told
            assert [event[1]["action"] for event in await heard.both(1)] == ["delete"]
            home.ubus.publish(Notify({"message": "the last"}))
            await home.ubus.stop()  # sends what waits
            await until(lambda: heard.events and heard.events[-1][1]["message"] == "the last")

    run(scenario)


# OpenWrt's own program


@needs_ubus
def test_ubus_lists_every_method(bus):
    async def scenario():
        async with Home(bus.path) as home:
            status, out, _ = await home.program("-v", "list", "spin")
            assert status == 0
            lines = dict(line.strip().split(":", 1) for line in out.splitlines()[1:])
            listed = {name.strip('"'): json.loads(args) for name, args in lines.items()}
            words = {
                "string": "String",
                "integer": "Integer",
                "boolean": "Boolean",
                "array": "Array",
                "complex": "Table",
            }
            wanted = {
                name: {arg.name: words[arg.type] for arg in method.args}
                for name, method in home.api.methods.items()
            }
            assert listed == {**wanted, "rpc": {"method": "String", "params": "Table"}}

    run(scenario)


@needs_ubus
def test_ubus_calls_every_method(bus):
    async def scenario():
        async with Home(bus.path) as home:
            twin = Home(bus.path)
            for method, arguments in calls(home):
                words = [json.dumps(arguments | SESSION)] if arguments else []
                status, out, errors = await home.program("call", "spin", method, *words)
                want, table = expected(twin, method, arguments)
                assert (status == 0) is (want == Status.OK), (method, errors)
                assert json.loads(out or "{}") == table, method
            status, out, errors = await home.program("call", "spin", "get_device_data", '{"node":4242}')
            assert status != 0
            assert json.loads(out) == {"error": {"code": REFUSED, "message": "Unknown node id"}}
            assert "Not found" in errors
            status, out, _ = await home.program(
                "call", "spin", "rpc", '{"method":"get_device_data","params":{"node":4242}}'
            )
            assert (status, json.loads(out)["error"]["code"]) == (0, REFUSED)

    run(scenario)


@needs_ubus
def test_ubus_listens_and_subscribes(bus):
    async def scenario():
        async with Home(bus.path) as home:
            processes = [
                await asyncio.create_subprocess_exec(
                    "ubus", "-s", bus.path, *words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
                for words in (["listen", "spin.*"], ["subscribe", "spin"])
            ]
            await until(lambda: home.ubus._object.has_subscribers)
            readers = [asyncio.create_task(process.stdout.readline()) for process in processes]
            while not all(reader.done() for reader in readers):  # the listener is ready at some time
                home.ubus.publish(device(3, name="Küche"))
                home.ubus.publish(Notify({"message": "x"}))
                await asyncio.sleep(0.05)
            for reader in readers:
                event = json.loads(await reader)
                assert event["spin.device"]["device"]["name"] == "Küche"
            for process in processes:
                process.kill()
                await process.wait()

    run(scenario)


@needs_ubus
@pytest.mark.skipif(shutil.which("ubusd") is None, reason="OpenWrt's ubusd is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_who_is_not_root_needs_an_acl():
    nobody = 65534

    async def scenario(path):
        async with Home(path) as home:
            assert (await home.program("list", user=nobody))[1] == "spin\n"
            status, out, _ = await home.program("call", "spin", "list_devices", user=nobody)
            assert status == 0
            assert json.loads(out)["result"][0]["mac"] == MAC
            words = ("call", "spin", "set_device_name", json.dumps({"node": home.camera, "name": "x"}))
            status, out, errors = await home.program(*words, user=nobody)
            assert (status != 0, out) == (True, "")
            assert "Permission denied" in errors
            assert not home.commands
            for kind in ("rpc", "status"):
                assert (await home.program("call", "spin", kind, user=nobody))[0] != 0
            words = ("call", "spin", "set_ignore", json.dumps({"node": home.camera, "ignore": True}))
            assert (await home.program(*words, user=nobody))[0] == 0
            entry = home.api.call("list_audit", {}, OWNER)["items"][0]
            assert entry["interface"] == "ubus, nobody"

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # for nobody to reach the socket
        rights = {"user": "nobody", "access": {"spin": {"methods": ["list_devices", "set_ignore"]}}}
        acl = directory / "acl"
        acl.mkdir()
        (acl / "nobody.json").write_text(json.dumps(rights))
        (acl / "nobody.json").chmod(0o644)
        with RunningBus("ubusd", directory, "-A", str(acl)) as running:
            run(scenario, running.path)


THIRD_PARTY = """
import sys, json, ubus
ubus.connect(sys.argv[1])
print(json.dumps([ubus.objects("spin")["spin"]["get_device_data"],
    ubus.call("spin", "list_devices", {}), ubus.call("spin", "set_ignore", {"node": 1, "ignore": True})]))
"""


def test_python_ubus_as_a_client(bus):
    """Bindings of libubus that others use (see docs/decisions/0009)."""
    if subprocess.run([sys.executable, "-c", "import ubus"], capture_output=True, check=False).returncode:
        pytest.skip("python-ubus is not installed")

    async def scenario():
        async with Home(bus.path) as home:
            devices = home.api.call("list_devices", {}, OWNER)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", THIRD_PARTY, bus.path, stdout=subprocess.PIPE
            )
            out, _ = await process.communicate()
            assert json.loads(out) == [{"node": blob.INT32}, [{"result": devices}], [{}]]

    run(scenario)


def test_four_callers_at_a_time(bus):
    count = int(os.environ.get("SPIND_UBUS_CALLS", "2000"))

    async def scenario():
        async with Home(bus.path) as home:
            clients = [await home.client() for _ in range(4)]
            ident = home.ubus._object.id
            want = wrapped(home.api.call("list_devices", {}, OWNER))
            times = []

            async def some(client):
                for _ in range(count // 4):
                    before = time.perf_counter()
                    assert await client.call(ident, "list_devices") == want
                    times.append(time.perf_counter() - before)

            started = time.perf_counter()
            await asyncio.gather(*map(some, clients))
            rate = count / (time.perf_counter() - started)
            times.sort()
            print(
                f"{count} calls: {rate:.0f}/s, p99 {times[count * 99 // 100] * 1000:.2f} ms, callers included"
            )
            assert home.ubus.counters["calls"] == count

    run(scenario)
