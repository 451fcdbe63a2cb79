# SPDX-License-Identifier: GPL-2.0-or-later
"""A real mosquitto on loopback, and a client that watches it, for tests."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

needs_mosquitto = pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not installed")

DEADLINE = 60.0  # seconds; nothing here takes more than three on a machine that does nothing else


def poll(condition, seconds=DEADLINE):
    """Wait for a condition; the assertion fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


async def until(condition, seconds=DEADLINE):
    """Wait for a condition while the loop runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.01)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Broker:
    """mosquitto on a port of its own; ``lines`` are added to its configuration."""

    def __init__(self, directory, lines=("allow_anonymous true",)):
        self.port = free_port()
        self.config = directory / "mosquitto.conf"
        settings = [f"listener {self.port} 127.0.0.1", "user root", "persistence false", *lines]
        self.config.write_text("\n".join(settings) + "\n")
        self.log = directory / "mosquitto.log"
        self.process = None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["mosquitto", "-c", str(self.config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        poll(self._listens)
        return self

    def _listens(self):
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGCONT)
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


class Watcher:
    """Subscribes like any consumer; ``messages`` are (topic, payload, retained) in order."""

    def __init__(self, port, topic="SPIN/#", setup=None, will=None):
        self.messages = []
        self._ready = threading.Event()
        self._topic = topic
        self.client = Client(CallbackAPIVersion.VERSION2)
        if setup:
            setup(self.client)
        self.client.on_connect = lambda client, *_: client.subscribe(topic)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(DEADLINE)

    def _on_message(self, _client, _userdata, message):
        self.messages.append((message.topic, message.payload, bool(message.retain)))

    def payloads(self, topic):
        return [payload for found, payload, _ in self.messages if found == topic]

    def topics(self):
        return {topic for topic, _, _ in self.messages}

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def retained(port, setup=None):
    """What the broker retains: topic -> payload (a marker of our own tells when all has come)."""
    with Watcher(port, "#", setup) as watcher:
        watcher.client.publish("marker/end", b"x")
        poll(lambda: "marker/end" in watcher.topics())
        return {topic: payload for topic, payload, kept in watcher.messages if kept}
