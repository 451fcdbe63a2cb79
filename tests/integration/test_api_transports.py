# SPDX-License-Identifier: GPL-2.0-or-later
"""One suite of calls over every transport: direct, Unix socket, ubus, MQTT RPC, JSON-RPC and REST over HTTP.

Each call is made on a table of methods in the same state, so that whatever differs is the transport's doing.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import quote, urlencode

import pytest
from mosquitto_broker import Broker, Watcher, needs_mosquitto, until
from ubus_broker import RunningBus
from web_served import connected, served

from spind.api import Api, ApiError
from spind.calls import Caller
from spind.engine import Engine
from spind.events import ConnDelta, LocalAddresses, NeighbourSeen, Traffic
from spind.jsonrpc import handle
from spind.model import ConnKey, parse_address, parse_mac
from spind.mqtt_pub import MqttPublisher, MqttSettings
from spind.rpc_socket import RpcSocket
from spind.ubus.blob import decode_table
from spind.ubus.client import UbusClient, UbusError
from spind.ubus_api import UbusApi
from spind.web.rest import PREFIX, RESOURCES

T0 = 1_000_000.0
MAC = "02:00:00:00:08:11"

Outcome = tuple[str, object]
Transport = Callable[[str, dict], Awaitable[Outcome]]


def table() -> Api:
    """A home with a camera that has talked to one party, over IPv4."""
    engine = Engine()
    gateway = parse_address("192.168.8.1")
    prefix = (parse_address("192.168.8.0"), 24)
    engine.handle(
        LocalAddresses(frozenset({gateway}), frozenset({parse_mac("02:00:00:00:00:01")}), (prefix,)), T0
    )
    camera = parse_address("192.168.8.11")
    engine.handle(NeighbourSeen(camera, parse_mac(MAC)), T0)
    key = ConnKey(6, camera, 5000, parse_address("198.18.0.20"), 443)
    engine.handle(Traffic([ConnDelta(1, key, 1, 2**33, 1, 2**40, False)]), T0)
    return Api(engine, lambda: T0 + 5, lambda _commands: None)


def plain(error: object) -> str:
    """An error's sentence, without what only says where it came through."""
    return re.sub(r"\s+", " ", str(error))


async def direct(_stack: AsyncExitStack, api: Api, _path) -> Transport:
    async def call(method, params):
        try:
            return "result", json.loads(json.dumps(api.call(method, params, Caller("test", "owner"))))
        except ApiError as error:
            return "error", plain(error.message)

    return call


def outcome(reply: bytes) -> Outcome:
    message = json.loads(reply)
    if "error" in message:
        return "error", plain(message["error"]["message"])
    return "result", message.get("result")


async def unix_socket(stack: AsyncExitStack, api: Api, path) -> Transport:
    server = RpcSocket(api, str(path / "rpc.sock"))
    await server.start()
    stack.push_async_callback(server.stop)

    async def call(method, params):
        reader, writer = await asyncio.open_unix_connection(str(path / "rpc.sock"))
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        writer.write(json.dumps(request).encode() + b"\n")
        reply = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return outcome(reply)

    return call


async def ubus(stack: AsyncExitStack, api: Api, path) -> Transport:
    bus = stack.enter_context(RunningBus("stand-in", path))
    served = UbusApi(asyncio.get_running_loop(), api, bus.path)
    served.start()
    stack.push_async_callback(served.stop)
    client = UbusClient(asyncio.get_running_loop(), bus.path)
    client.start()
    stack.push_async_callback(client.stop)
    await until(lambda: served.connected and client.up)

    async def call(method, params):
        try:
            reply = await client.call("spin", method, params)
        except UbusError as error:
            said = decode_table(error.data)["error"]["message"] if error.data else error
            return "error", plain(said)
        # On ubus every reply is a table: what is none comes as "result", nothing as an empty one.
        return "result", reply.get("result", reply or None)

    return call


async def mqtt(stack: AsyncExitStack, api: Api, path) -> Transport:
    broker = stack.enter_context(Broker(path))
    settings = MqttSettings(host="127.0.0.1", port=broker.port, channel_traffic="SPIN/traffic", rpc=True)
    caller = Caller("mqtt", "owner")
    publisher = MqttPublisher(
        asyncio.get_running_loop(), settings, list, lambda request: handle(api, request, caller)
    )
    publisher.start()
    stack.push_async_callback(publisher.stop)
    await until(lambda: publisher.counters["connected"])
    watcher = stack.enter_context(Watcher(broker.port, "SPIN/jsonrpc/a"))

    async def call(method, params):
        before = len(watcher.messages)
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        watcher.client.publish("SPIN/jsonrpc/q", json.dumps(request))
        await until(lambda: len(watcher.messages) > before)
        return outcome(watcher.messages[-1][1])

    return call


async def http(stack: AsyncExitStack, api: Api, _path) -> Transport:
    web = await stack.enter_async_context(served(api=api))
    client = await stack.enter_async_context(connected(web.port))

    async def call(method, params):
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return outcome((await client.ask("POST", "/spin_api/jsonrpc", json.dumps(request).encode())).body)

    return call


def rest_request(method: str, params: dict) -> tuple[str, str, dict]:
    """Verb, target and body of a call: the resource whose path has most of the arguments."""
    fitting = [
        each
        for each in RESOURCES
        if method in each.methods and all(params.get(name) == value for name, value in each.fixed.items())
    ]
    if not fitting:
        return "GET", f"{PREFIX}/{method}", {}
    resource = fitting[0]
    names = re.findall(r"{(\w+)}", resource.path)
    path = resource.path
    for name in names:
        path = path.replace(f"{{{name}}}", quote(str(params.get(name, "")), safe=""))
    left = {name: value for name, value in params.items() if name not in (*names, *resource.fixed)}
    if resource.in_query and left:
        return resource.verb, f"{PREFIX}{path}?{urlencode(left)}", {}
    return resource.verb, PREFIX + path, left


def is_resource(method: str, params: dict) -> bool:
    """Whether a path and its query can say this call; what they can not is refused in words of their own."""
    resources = [each for each in RESOURCES if method in each.methods]
    if not resources:
        return False
    known = {arg.name for arg in table().methods[method].args}
    return params.keys() <= known and params.keys() >= set(re.findall(r"{(\w+)}", resources[0].path))


async def rest(stack: AsyncExitStack, api: Api, _path) -> Transport:
    web = await stack.enter_async_context(served(api=api))
    client = await stack.enter_async_context(connected(web.port))

    async def call(method, params):
        verb, target, given = rest_request(method, params)
        answer = await client.ask(verb, target, json.dumps(given).encode() if given else b"")
        if answer.status >= 400:
            return "error", plain(answer.json()["detail"])
        return "result", answer.json() if answer.body else None

    return call


TRANSPORTS = {
    "direct": direct,
    "socket": unix_socket,
    "ubus": ubus,
    "mqtt": mqtt,
    "http": http,
    "rest": rest,
}

CALLS: list[tuple[str, dict]] = [
    ("list_devices", {}),
    ("get_device_data", {"node": 1}),
    ("get_device_data", {"node": 99}),
    ("get_device_data", {}),
    ("get_device_data", {"node": 1, "colour": "red"}),
    ("list_device_flows", {"device": MAC}),
    ("list_device_flows", {"device": "02:00:00:00:00:99"}),
    ("list_flows", {"device": MAC, "limit": 10}),
    ("list_flows", {"limit": 0}),
    ("list_nodes", {"kind": "device"}),
    ("get_traffic", {"step": 60}),
    ("set_device_name", {"node": 1, "name": "Käse \U0001f9c0 'quoted' \\"}),
    ("set_device_name", {"node": 1, "name": "a\nb"}),
    ("list_nodes", {"query": "käse"}),
    ("add_rule", {"device": MAC, "domain": "ads.tracker.test", "action": "block", "port": 443}),
    ("add_rule", {"ip": "198.18.0.0/24", "action": "block", "comment": "; nft flush ruleset"}),
    ("add_rule", {"ip": "x", "action": "block"}),
    ("add_rule", {"action": "block"}),
    ("add_rule", {"domain": "a" * 300 + ".test", "action": "block"}),
    ("list_rules", {}),
    ("list_iplist", {"list": "block"}),
    ("remove_rule", {"id": 2}),
    ("remove_rule", {"id": 2}),
    ("add_iplist_node", {"list": "block", "node": 1}),
    ("list_iplist", {"list": "nope"}),
    ("set_device_profile", {"device": MAC, "profile": "quarantine"}),
    ("set_device_profile", {"device": MAC, "profile": "nope"}),
    ("set_profile", {"profile": "kids", "default": "block", "allow_domain": ["school.test"]}),
    ("list_profiles", {}),
    ("set_ignore", {"node": 1, "ignore": True}),
    ("set_flow_block", {"node1": 1, "node2": 2, "block": 1}),
    ("get_flow_block", {}),
    ("undo", {"id": 1}),
    ("undo", {"id": 1}),
    ("list_notifications", {}),
    ("dismiss_notification", {"id": 1}),
    ("reset_iplist_ignore", {}),
    ("list_rpc_methods", {}),
    ("no_such_method", {}),
]


async def answers(name: str, path) -> list[Outcome]:
    """What each of the calls, one after the other, is answered over a transport."""
    async with AsyncExitStack() as stack:
        call = await TRANSPORTS[name](stack, table(), path)
        return [await call(method, params) for method, params in CALLS]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> list[Outcome]:
    found = asyncio.run(answers("direct", tmp_path_factory.mktemp("direct")))
    kinds = [kind for kind, _ in found]
    assert kinds.count("error") >= 10
    assert kinds.count("result") >= 20
    return found


@pytest.mark.parametrize(
    "name", ["socket", "ubus", pytest.param("mqtt", marks=needs_mosquitto), "http", "rest"]
)
def test_every_transport_answers_alike(name: str, reference: list[Outcome], tmp_path) -> None:
    found = asyncio.run(asyncio.wait_for(answers(name, tmp_path), 60))
    for (method, params), ours, wanted in zip(CALLS, found, reference, strict=True):
        if name == "rest" and wanted[0] == "error" and not is_resource(method, params):
            assert ours[0] == "error"
            continue
        if method == "no_such_method" and name == "ubus":  # the bus says so by a status
            assert ours == ("error", "ubus: METHOD_NOT_FOUND")
            continue
        assert ours == wanted, (method, params)
