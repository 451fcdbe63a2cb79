# SPDX-License-Identifier: GPL-2.0-or-later
"""The publisher against a real mosquitto on loopback."""

import asyncio
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time

import pytest
from mosquitto_broker import Broker, Watcher, free_port, needs_mosquitto, poll, retained, until

from spind.commands import DnsQuerySeen, NodeChanged, NodeDeleted, TrafficReport
from spind.mqtt_messages import Message
from spind.mqtt_pub import MqttPublisher, MqttSettings
from spind.mqtt_queue import OutQueue

pytestmark = needs_mosquitto


def node(ident, **more):
    return NodeChanged({"id": ident, "lastseen": 1, "ips": [f"192.0.2.{ident % 256}"], "domains": [], **more})


def soon(_low, _high):
    """Back-off without jitter and a tenth as long, to keep tests short."""
    return 0.1


def publisher(port, state=(), **options):
    names = [name for name in options if name in MqttSettings.__dataclass_fields__]
    settings = {name: options.pop(name) for name in names}
    snapshot = state if callable(state) else lambda: list(state)
    return MqttPublisher(
        asyncio.get_running_loop(), MqttSettings(port=port, **settings), snapshot, backoff=soon, **options
    )


def run(scenario, *args):
    asyncio.run(asyncio.wait_for(scenario(*args), 180))


@pytest.fixture
def broker(tmp_path):
    with Broker(tmp_path) as running:
        yield running


def online(pub):
    return pub.counters["connected"] and pub._state.name == "ONLINE" and pub._drained


def test_state_is_retained_and_events_are_not(broker):
    async def scenario():
        pub = publisher(broker.port, [node(1), node(2, name="Küche", mac="02:00:00:00:00:02")])
        with Watcher(broker.port) as watcher:
            pub.start()
            await until(lambda: online(pub))
            pub.publish(node(3))
            pub.publish(DnsQuerySeen(2, 3, "www.example.test."))
            pub.publish(TrafficReport([], 5, 0, 0))
            pub.publish(NodeDeleted(1))
            await until(lambda: b"" in watcher.payloads("SPIN/traffic/node/1"))
            kept = retained(broker.port)
            await pub.stop()
            await until(lambda: b"offline" in watcher.payloads("SPIN/status"))
            seen = watcher.messages
        assert sorted(kept) == ["SPIN/status", "SPIN/traffic/node/2", "SPIN/traffic/node/3"]
        assert json.loads(kept["SPIN/traffic/node/2"])["result"]["name"] == "Küche"
        assert kept["SPIN/status"] == b"online"
        assert retained(broker.port)["SPIN/status"] == b"offline"
        assert [topic.removeprefix("SPIN/") for topic, _, _ in seen] == [
            "status",
            "traffic",
            "traffic/node/1",
            "traffic/node/2",
            "traffic/node/3",
            "traffic",
            "traffic",
            "traffic/admin",
            "traffic/node/1",
            "status",
        ]
        assert seen[1][1] == b'{"command":"serverRestart"}'
        assert pub.counters == {"published": 10, "dropped": 0, "queued": 0, "reconnects": 0, "connected": 0}

    run(scenario)


def test_another_prefix(broker):
    async def scenario():
        pub = publisher(broker.port, [node(1)], channel_traffic="homes/7/SPIN/traffic")
        pub.start()
        await until(lambda: online(pub))
        assert sorted(retained(broker.port)) == ["homes/7/SPIN/status", "homes/7/SPIN/traffic/node/1"]
        await pub.stop()

    run(scenario)


def test_nodes_of_an_earlier_run_are_removed(broker):
    with Watcher(broker.port, "#") as other:
        foreign = ["SPIN/traffic/node/x", "SPIN/traffic/node/007", "SPIN/traffic/node/5/sub", "other/node/5"]
        for topic in [*foreign, *(f"SPIN/traffic/node/{ident}" for ident in range(1, 501))]:
            other.client.publish(topic, b'{"command":"nodeInfo","result":{}}', retain=True)
        other.client.publish("SPIN/end", b"x")
        poll(lambda: "SPIN/end" in other.topics())

    async def scenario():
        pub = publisher(broker.port, [node(3), node(600)])
        with Watcher(broker.port, "SPIN/traffic") as watcher:
            pub.start()
            await until(lambda: online(pub))
            await until(lambda: watcher.payloads("SPIN/traffic") == [b'{"command":"serverRestart"}'])
        kept = retained(broker.port)
        await pub.stop()
        assert sorted(kept) == sorted(
            [*foreign, "SPIN/status", "SPIN/traffic/node/3", "SPIN/traffic/node/600"]
        )
        assert json.loads(kept["SPIN/traffic/node/3"])["result"]["id"] == 3

    run(scenario)


VICTIM = """
import asyncio, sys
from spind.mqtt_pub import MqttPublisher, MqttSettings
async def main():
    pub = MqttPublisher(asyncio.get_running_loop(), MqttSettings(port=int(sys.argv[1])), list)
    pub.start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_last_will_after_kill_9(broker):
    with Watcher(broker.port) as watcher:
        victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(broker.port)])
        try:
            poll(lambda: watcher.payloads("SPIN/status") == [b"online"])
        finally:
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait(10)
        poll(lambda: watcher.payloads("SPIN/status") == [b"online", b"offline"])
        assert retained(broker.port)["SPIN/status"] == b"offline"


def test_broker_absent_at_start_and_restarted_later(tmp_path):
    broker = Broker(tmp_path)

    async def scenario():
        state = {1: node(1)}
        pub = publisher(broker.port, lambda: list(state.values()))
        pub.start()
        await until(lambda: pub._attempts >= 2)
        pub.publish(DnsQuerySeen(1, 2, "early.test."))
        broker.start()
        with Watcher(broker.port) as watcher:
            await until(lambda: online(pub))
            await until(lambda: b"early.test." in b"".join(watcher.payloads("SPIN/traffic")))
        broker.stop()
        await until(lambda: not pub.counters["connected"])
        state[2] = node(2)
        pub.publish(state[2])
        state[2] = node(2, name="later")
        pub.publish(state[2])
        pub.publish(DnsQuerySeen(1, 2, "meanwhile.test."))
        broker.start()
        with Watcher(broker.port) as watcher:
            await until(lambda: b"meanwhile" in b"".join(watcher.payloads("SPIN/traffic")))
            topics = [topic for topic, _, _ in watcher.messages]
            assert b"serverRestart" not in b"".join(watcher.payloads("SPIN/traffic"))
            assert topics.index("SPIN/traffic/node/2") < topics.index("SPIN/traffic")
        kept = retained(broker.port)
        assert sorted(kept) == ["SPIN/status", "SPIN/traffic/node/1", "SPIN/traffic/node/2"]
        assert json.loads(kept["SPIN/traffic/node/2"])["result"]["name"] == "later"
        assert pub.counters["reconnects"] == 1
        assert pub.counters["dropped"] == 0
        await pub.stop()

    try:
        run(scenario)
    finally:
        broker.stop()


def test_stuck_broker_bounds_memory_and_never_holds_the_loop(broker):
    async def scenario():
        state = {ident: node(ident) for ident in range(1, 51)}
        queue = OutQueue(max_messages=300, max_bytes=200_000)
        pub = publisher(broker.port, lambda: list(state.values()), queue=queue)
        pub.start()
        await until(lambda: online(pub))
        broker.freeze()
        stall = 0.0
        text = "x" * 200 + ".test."
        count = 0
        # The kernel takes some hundred kilobytes before anything waits here.
        while count < 20_000 and pub.counters["dropped"] < 2000:
            for _ in range(50):
                pub.publish(DnsQuerySeen(1, 2, text))
                count += 1
            last = time.monotonic()
            await asyncio.sleep(0)
            stall = max(stall, time.monotonic() - last)
            assert len(queue) <= 300
            assert queue.size <= 200_000
        assert pub.counters["dropped"] >= 2000
        # The broker sleeps all this time: a send that blocks would not have come back at all.
        # What is left of the bound is for other programs on the machine.
        assert stall < 10
        for ident in range(51, 1051):  # more retained messages than the queue holds
            state[ident] = node(ident)
            pub.publish(state[ident])
        assert len(queue) <= 300
        assert queue.lost_state
        broker.thaw()
        await until(lambda: online(pub) and not queue.lost_state and not pub.counters["queued"])
        kept = retained(broker.port)
        assert len([topic for topic in kept if "/node/" in topic]) == 1050
        assert pub.counters["reconnects"] == 0
        await pub.stop()

    run(scenario)


def test_stop_with_a_stuck_broker_ends(broker):
    async def scenario():
        pub = publisher(broker.port, [node(1)])
        pub.start()
        await until(lambda: online(pub))
        broker.freeze()
        for _ in range(5000):
            pub.publish(DnsQuerySeen(1, 2, "x" * 200))
        begin = time.monotonic()
        await pub.stop()
        assert time.monotonic() - begin < 15  # two seconds, on a machine that does nothing else

    run(scenario)
    broker.thaw()


def test_a_frozen_broker_is_noticed_and_replaced(broker):
    async def scenario():
        pub = publisher(broker.port, [node(1)], keepalive=1)
        pub.start()
        await until(lambda: online(pub))
        broker.freeze()
        await until(lambda: not pub.counters["connected"])
        broker.thaw()
        await until(lambda: online(pub))
        assert pub.counters["reconnects"] == 1
        await pub.stop()

    run(scenario)


def test_start_and_stop_without_a_broker():
    async def scenario():
        pub = publisher(free_port())
        pub.start()
        await pub.stop()
        pub = publisher(free_port())
        pub.start()
        await until(lambda: pub._attempts == 1)
        await pub.stop()
        assert pub.counters["connected"] == 0

    run(scenario)


def answer(data):
    request = json.loads(data)
    return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": []}, separators=(",", ":")).encode()


def test_requests_are_answered_only_where_enabled(broker):
    async def scenario():
        requests = []

        def on_request(data):
            requests.append(data)
            return answer(data)

        with Watcher(broker.port, "SPIN/jsonrpc/a") as watcher:
            retained_request = b'{"jsonrpc":"2.0","id":1,"method":"retained"}'
            watcher.client.publish("SPIN/jsonrpc/q", retained_request, retain=True)
            off = publisher(broker.port, on_request=on_request)
            off.start()
            await until(lambda: online(off))
            watcher.client.publish("SPIN/jsonrpc/q", b'{"jsonrpc":"2.0","id":6,"method":"get_flow_block"}')
            with Watcher(broker.port, "SPIN/jsonrpc/q") as echo:
                echo.client.publish("SPIN/jsonrpc/q", b"{}")
                await until(lambda: b"{}" in echo.payloads("SPIN/jsonrpc/q"))
            await off.stop()
            assert requests == []
            on = publisher(broker.port, on_request=on_request, rpc=True)
            on.start()
            await until(lambda: online(on))
            watcher.client.publish("SPIN/jsonrpc/q", b"not json")  # must not hurt
            recorded = b'{"jsonrpc": "2.0", "id": 7, "method": "get_flow_block"}'
            watcher.client.publish("SPIN/jsonrpc/q", recorded)
            reply = b'{"jsonrpc":"2.0","id":7,"result":[]}'
            await until(lambda: watcher.payloads("SPIN/jsonrpc/a") == [reply])
            assert requests == [b"not json", recorded]
            await on.stop()

    run(scenario)


def test_a_giant_request_does_not_reach_us(broker):
    async def scenario():
        sizes = []

        def on_request(data):
            sizes.append(len(data))
            return answer(b'{"id":1}')

        pub = publisher(broker.port, on_request=on_request, rpc=True)
        with Watcher(broker.port, "SPIN/jsonrpc/a") as watcher:
            pub.start()
            await until(lambda: online(pub))
            watcher.client.publish("SPIN/jsonrpc/q", b"x" * 20_000_000)
            watcher.client.publish("SPIN/jsonrpc/q", b"{}")
            await until(lambda: watcher.payloads("SPIN/jsonrpc/a"))
            assert sizes == [2]
            assert pub.counters["reconnects"] == 0
        await pub.stop()

    run(scenario)


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A CA, a broker's certificate for 127.0.0.1 from it, and a CA of someone else."""
    place = tmp_path_factory.mktemp("ca")
    for name in ("ca", "other"):
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{place}/{name}.key", "-out", f"{place}/{name}.pem",
        )  # fmt: skip
    openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=broker",
        "-keyout", f"{place}/broker.key", "-out", f"{place}/broker.csr",
    )  # fmt: skip
    (place / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "x509", "-req", "-in", f"{place}/broker.csr", "-CA", f"{place}/ca.pem", "-CAkey", f"{place}/ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", f"{place}/ext", "-out", f"{place}/broker.pem",
    )  # fmt: skip
    return place


@pytest.fixture
def tls_broker(tmp_path, certificates):
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    command = ["mosquitto_passwd", "-b", str(passwords), "spin", "s3cret"]
    subprocess.run(command, check=True, capture_output=True)
    lines = [
        "allow_anonymous false",
        f"password_file {passwords}",
        f"cafile {certificates}/ca.pem",
        f"certfile {certificates}/broker.pem",
        f"keyfile {certificates}/broker.key",
    ]
    with Broker(tmp_path, lines) as running:
        yield running


def test_tls_with_own_ca_and_password(tls_broker, certificates):
    ca = f"{certificates}/ca.pem"

    def setup(client):
        client.tls_set(ca)
        client.username_pw_set("spin", "s3cret")

    async def scenario():
        options = {"user": "spin", "password": "s3cret", "tls_ca_file": ca}
        state = [node(ident, name="x" * 500) for ident in range(1, 301)]
        pub = publisher(tls_broker.port, state, on_request=answer, rpc=True, **options)
        pub.start()
        await until(lambda: online(pub))
        kept = await asyncio.to_thread(retained, tls_broker.port, setup)
        assert len(kept) == 301
        with Watcher(tls_broker.port, "SPIN/jsonrpc/a", setup) as watcher:
            # Several packets in one TLS record, more than one read takes.
            for ident in range(200):
                watcher.client.publish("SPIN/jsonrpc/q", json.dumps({"id": ident, "pad": "x" * 50}))
            await until(lambda: len(watcher.messages) == 200)
        await pub.stop()
        again = publisher(tls_broker.port, state[:10], **options)  # gathers 300 retained ones over TLS
        again.start()
        await until(lambda: online(again))
        assert len(await asyncio.to_thread(retained, tls_broker.port, setup)) == 11
        await again.stop()

    run(scenario)


# paho gives no hand on the socket of a TLS handshake that failed; it is closed when collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tls_ca_file": "other.pem", "user": "spin", "password": "s3cret"}, "certificate is refused"),
        ({"tls_ca_file": "ca.pem", "user": "spin", "password": "wrong"}, "(?i)not authori[sz]ed|bad user"),
        ({"tls_ca_file": "absent.pem"}, "No such file"),
        ({"tls_ca_file": "ca.pem", "host": "localhost"}, "certificate is refused"),
        ({}, "connection lost|reset|does not answer"),
    ],
)
def test_tls_refusals_are_told_once_without_the_password(tls_broker, certificates, options, sentence, caplog):
    if "tls_ca_file" in options:
        options = {**options, "tls_ca_file": f"{certificates}/{options['tls_ca_file']}"}

    async def scenario():
        pub = publisher(tls_broker.port, **options)
        pub.start()
        await until(lambda: pub._attempts >= 3)
        assert pub.counters["connected"] == 0
        await pub.stop()

    run(scenario)
    assert re.search(sentence, caplog.text)
    assert caplog.text.count("trying again") == 1
    assert "s3cret" not in caplog.text
    assert "wrong" not in caplog.text


def test_settings_do_not_show_the_password():
    assert "s3cret" not in repr(MqttSettings(password="s3cret"))


class OldBroker(asyncio.Protocol):
    """Speaks just enough MQTT 3.1.1 to refuse 5, and to send what mosquitto would not.

    ``polite`` brokers say what they refuse; ``greeting`` follows CONNACK; ``burst`` follows the
    answer to the first subscription in the same write, and then no other is answered.
    """

    def __init__(self, log, *, polite=True, greeting=b"", burst=b""):
        self.log = log
        self.polite = polite
        self.bursting = bool(burst)
        self.greeting = greeting
        self.burst = burst
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        while len(self.buffer) >= 2:
            length, shift, offset = 0, 0, 1
            while True:
                if offset >= len(self.buffer):
                    return
                byte = self.buffer[offset]
                length |= (byte & 127) << shift
                shift += 7
                offset += 1
                if not byte & 128:
                    break
            if len(self.buffer) < offset + length:
                return
            self.packet(self.buffer[0], self.buffer[offset : offset + length])
            self.buffer = self.buffer[offset + length :]

    def packet(self, first, body):
        if first == 0x10:
            version = body[6]
            self.log.append(version)
            if version == 5:
                if self.polite:
                    self.transport.write(b"\x20\x02\x00\x01")
                self.transport.close()
            else:
                self.transport.write(b"\x20\x02\x00\x00" + self.greeting)
        elif first == 0x82 and (self.burst or not self.bursting):
            self.transport.write(b"\x90\x03" + body[:2] + b"\x00" + self.burst)
            self.burst = b""
        elif first & 0xF0 == 0x30:
            size = int.from_bytes(body[:2], "big")
            self.log.append(Message(body[2 : 2 + size].decode(), body[2 + size :], retain=bool(first & 1)))


@pytest.mark.parametrize("kind", ["polite", "rude", "giant"])
def test_a_broker_that_knows_only_mqtt_3(kind):
    async def scenario():
        log = []
        loop = asyncio.get_running_loop()
        options = {"polite": kind != "rude"}
        if kind == "giant":
            options["greeting"] = b"\x30\xff\xff\xff\x7f" + b"x" * 50_000
        server = await loop.create_server(lambda: OldBroker(log, **options), "127.0.0.1", 0)
        pub = publisher(server.sockets[0].getsockname()[1], [node(1)])
        pub.start()
        if kind == "giant":
            await until(lambda: pub.counters["reconnects"] >= 1)  # cut, and tried again
        else:
            await until(lambda: online(pub))
            await until(lambda: any(isinstance(m, Message) and m.topic == "SPIN/traffic/node/1" for m in log))
        assert log[:2] == [5, 4]
        await pub.stop()
        server.close()
        await server.wait_closed()

    run(scenario)


def test_several_packets_in_one_tls_record(certificates):
    """What TLS has decrypted already does not make the socket readable."""

    async def scenario():
        log = []
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(f"{certificates}/broker.pem", f"{certificates}/broker.key")
        body = b"\x00\x0eSPIN/jsonrpc/q" + b'{"id":1}'
        burst = (b"\x30" + bytes([len(body)]) + body) * 5
        server = await loop.create_server(
            lambda: OldBroker(log, burst=burst), "127.0.0.1", 0, ssl=context
        )
        port = server.sockets[0].getsockname()[1]
        pub = publisher(port, on_request=answer, rpc=True, tls_ca_file=f"{certificates}/ca.pem")
        pub.start()
        await until(lambda: [m.topic for m in log if isinstance(m, Message)].count("SPIN/jsonrpc/a") == 5, 20)
        await pub.stop()
        server.close()
        await server.wait_closed()

    run(scenario)
