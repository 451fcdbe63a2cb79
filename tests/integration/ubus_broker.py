# SPDX-License-Identifier: GPL-2.0-or-later
"""A small stand-in for ubusd that speaks its wire format, and how tests run it or the real one.

As a program (``ubus_broker.py -s SOCKET``) it does what ubusd does for root: hello, ping, lookup,
objects, calls, subscriptions, events, and ubusd's bounds. It has no ACLs. It shares no code with
``spind.ubus``, so that a mistake there is not its own, too.
"""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

HELLO, STATUS, DATA, PING, LOOKUP, INVOKE, ADD, REMOVE, SUBSCRIBE, UNSUBSCRIBE, NOTIFY = range(11)
A_STATUS, A_PATH, A_ID, A_METHOD, A_TYPE, A_SIGNATURE, A_DATA, A_TARGET, A_ACTIVE, A_NO_REPLY = range(1, 11)
A_SUBSCRIBERS, A_USER, A_GROUP = 11, 12, 13
OK, INVALID_COMMAND, INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED = 0, 1, 2, 4, 6
EVENTS = 1
MAX_MESSAGE = 1 << 20


def pad(value):
    return value + bytes(-len(value) % 4)


def attribute(ident, value):
    return pad(struct.pack(">I", ident << 24 | len(value) + 4) + value)


def number(ident, value):
    return attribute(ident, struct.pack(">I", value))


def text(ident, value):
    return attribute(ident, value + b"\0")


def split(body):
    """Attributes as {id: value}."""
    found, at = {}, 0
    while at + 4 <= len(body):
        (head,) = struct.unpack_from(">I", body, at)
        size = head & 0xFFFFFF
        if size < 4 or at + size > len(body):
            break
        found[head >> 24 & 0x7F] = body[at + 4 : at + size]
        at += size + 3 & ~3
    return found


def members(body):
    """Members of a table as {name: (type, value)}."""
    found, at = {}, 0
    while at + 8 <= len(body):
        (head,) = struct.unpack_from(">I", body, at)
        size = head & 0xFFFFFF
        (length,) = struct.unpack_from(">H", body, at + 4)
        first = at + 4 + (length + 6 & ~3)
        found[body[at + 6 : at + 6 + length]] = (head >> 24 & 0x7F, body[first : at + size])
        at += size + 3 & ~3
    return found


def string(value):
    return value.split(b"\0")[0]


class Object:
    def __init__(self, client, path, signature):
        self.id = secrets.randbelow((1 << 32) - 1024) + 1024
        self.client, self.path, self.signature = client, path, signature
        self.subscribers, self.patterns = [], []


class Client(asyncio.Protocol):
    def __init__(self, bus):
        self.bus, self.buffer = bus, bytearray()
        self.id = secrets.randbelow((1 << 32) - 1024) + 1024

    def connection_made(self, transport):
        self.transport = transport
        self.bus.clients[self.id] = self
        self.send(HELLO, 0, self.id)

    def data_received(self, data):
        self.buffer += data
        while len(self.buffer) >= 12:
            _version, kind, seq, peer, head = struct.unpack_from(">BBHII", self.buffer)
            size = head & 0xFFFFFF
            if not 4 <= size <= MAX_MESSAGE:
                self.transport.abort()
                return
            if len(self.buffer) < 8 + size:
                return
            body = bytes(self.buffer[12 : 8 + size])
            del self.buffer[: 8 + size]
            status = self.bus.take(self, kind, seq, peer, body)
            if status is not None:
                self.send(STATUS, seq, peer, number(A_STATUS, status))

    def connection_lost(self, _error):
        del self.bus.clients[self.id]
        for each in [each for each in self.bus.objects.values() if each.client is self]:
            self.bus.remove(each)

    def send(self, kind, seq, peer, body=b""):
        if self.transport.get_write_buffer_size() + len(body) <= MAX_MESSAGE:  # as ubusd: else it is lost
            self.transport.write(struct.pack(">BBHII", 0, kind, seq, peer, len(body) + 4) + body)


class Bus:
    def __init__(self):
        self.clients, self.objects = {}, {}

    def take(self, client, kind, seq, peer, body):
        """Handle a message; the status to answer with, if any."""
        fields = split(body)
        ident = struct.unpack(">I", fields[A_ID])[0] if A_ID in fields else None
        target = self.objects.get(ident)
        if kind == PING:
            client.send(DATA, seq, peer, body)
            return OK
        if kind == LOOKUP:
            return self.lookup(client, seq, peer, string(fields.get(A_PATH, b"*")))
        if kind == ADD:
            return self.add(client, seq, peer, fields)
        if kind == INVOKE:
            return self.invoke(client, seq, ident, fields)
        if kind in (STATUS, DATA):
            caller = self.clients.get(peer)
            if target and target.client is client and caller:
                caller.send(kind, seq, ident, body)
            return None
        if kind == NOTIFY:
            if not target:
                return NOT_FOUND
            if target.client is not client:
                return PERMISSION_DENIED
            return self.notify(client, seq, peer, target, fields)
        if kind == REMOVE:
            if not target:
                return NOT_FOUND
            if target.client is not client:
                return PERMISSION_DENIED
            client.send(DATA, seq, peer, number(A_ID, ident))
            self.remove(target)
            return OK
        if kind in (SUBSCRIBE, UNSUBSCRIBE) and target and target.client is client:
            other = self.objects.get(struct.unpack(">I", fields[A_TARGET])[0])
            if not other:
                return NOT_FOUND
            if other.client is client:
                return INVALID_ARGUMENT
            self.watch(other, target, kind == SUBSCRIBE)
            return OK
        return INVALID_COMMAND

    def lookup(self, client, seq, peer, path):
        wanted = path[:-1] if path.endswith(b"*") else None
        found = [
            each
            for each in self.objects.values()
            if each.path and (each.path == path if wanted is None else each.path.startswith(wanted))
        ]
        for each in sorted(found, key=lambda each: each.path):
            reply = text(A_PATH, each.path) + number(A_ID, each.id) + number(A_TYPE, each.id)
            client.send(DATA, seq, peer, reply + attribute(A_SIGNATURE, each.signature))
        return OK if found or path == b"*" else NOT_FOUND

    def add(self, client, seq, peer, fields):
        path = string(fields.get(A_PATH, b""))
        if path and any(each.path == path for each in self.objects.values()):
            return INVALID_ARGUMENT
        new = Object(client, path, fields.get(A_SIGNATURE, b""))
        self.objects[new.id] = new
        if path:
            self.announce(b"ubus.object.add", new)
        kind = number(A_TYPE, new.id) if A_SIGNATURE in fields else b""
        client.send(DATA, seq, peer, number(A_ID, new.id) + kind)
        return OK

    def invoke(self, client, seq, ident, fields):
        if ident is None or A_METHOD not in fields:
            return INVALID_ARGUMENT
        if ident == EVENTS:
            return self.events(client, string(fields[A_METHOD]), members(fields.get(A_DATA, b"")))
        if ident not in self.objects:
            return NOT_FOUND
        self.forward(client, seq, self.objects[ident], fields)
        return None

    @staticmethod
    def forward(client, seq, target, fields, first=b""):
        body = first + number(A_ID, target.id) + attribute(A_METHOD, fields[A_METHOD])
        body += text(A_USER, b"root") + text(A_GROUP, b"root")
        if A_DATA in fields:
            body += attribute(A_DATA, fields[A_DATA])
        target.client.send(INVOKE, seq, client.id, body)

    def notify(self, client, seq, peer, source, fields):
        silent = fields.get(A_NO_REPLY, b"\0") != b"\0"
        if not silent:
            ids = b"".join(number(0, each.id) for each in source.subscribers)
            reply = number(A_ID, source.id) + attribute(A_SUBSCRIBERS, ids) + number(A_STATUS, 0)
            client.send(STATUS, seq, peer, reply)
        for each in source.subscribers:
            self.forward(client, seq, each, fields, attribute(A_NO_REPLY, b"\1") if silent else b"")

    def watch(self, source, subscriber, on):
        before = bool(source.subscribers)
        if on:
            source.subscribers.append(subscriber)
        elif subscriber in source.subscribers:
            source.subscribers.remove(subscriber)
        if before is not bool(source.subscribers):
            active = number(A_ID, source.id) + attribute(A_ACTIVE, b"\0" if before else b"\1")
            source.client.send(NOTIFY, 1, 0, active)

    def remove(self, old):
        del self.objects[old.id]
        for other in self.objects.values():
            if old in other.subscribers:
                self.watch(other, old, on=False)
        for each in old.subscribers:
            each.client.send(UNSUBSCRIBE, 1, 0, number(A_ID, each.id) + number(A_TARGET, old.id))
        if old.path:
            self.announce(b"ubus.object.remove", old)

    def events(self, client, method, found):
        if method == b"register":
            target = self.objects.get(struct.unpack(">I", found[b"object"][1])[0])
            if not target or target.client is not client:
                return NOT_FOUND
            target.patterns.append(string(found[b"pattern"][1]))
            return OK
        if method == b"send":
            name = string(found[b"id"][1])
            if name.startswith(b"ubus."):
                return PERMISSION_DENIED
            self.event(client, name, found[b"data"][1])
            return OK
        return INVALID_COMMAND

    def announce(self, name, which):
        def member(kind, label, value):
            head = pad(struct.pack(">H", len(label)) + label + b"\0")
            return attribute(0x80 | kind, head + value)

        table = member(5, b"id", struct.pack(">I", which.id)) + member(3, b"path", which.path + b"\0")
        self.event(None, name, table)

    def event(self, sender, name, table):
        for each in self.objects.values():
            hit = any(name.startswith(p[:-1]) if p.endswith(b"*") else name == p for p in each.patterns)
            if hit and each.client is not sender:
                body = number(A_ID, each.id) + text(A_METHOD, name) + attribute(A_DATA, table)
                each.client.send(INVOKE, 1, 0, body)


async def serve(path):
    Path(path).unlink(missing_ok=True)
    bus = Bus()
    server = await asyncio.get_running_loop().create_unix_server(lambda: Client(bus), path)
    async with server:
        await server.serve_forever()


# How tests run it, or the real one

DEADLINE = 60.0 * float(os.environ.get("SPIND_TEST_SLOW", "1"))

KINDS = [
    pytest.param("broker", id="broker"),
    pytest.param(
        "ubusd",
        id="ubusd",
        marks=pytest.mark.skipif(shutil.which("ubusd") is None, reason="OpenWrt's ubusd is not installed"),
    ),
]

needs_ubus = pytest.mark.skipif(shutil.which("ubus") is None, reason="OpenWrt's ubus is not installed")


class RunningBus:
    """The stand-in, or the real ubusd, on a socket of its own."""

    def __init__(self, kind, directory, *options):
        self.kind = kind
        self.path = str(directory / "ubus.sock")
        self.options = options
        self.process = None

    def start(self):
        program = ["ubusd"] if self.kind == "ubusd" else [sys.executable, __file__]
        self.process = subprocess.Popen(
            [*program, "-s", self.path, *self.options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        end = time.monotonic() + DEADLINE
        while not self._listens():
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.002)
        return self

    def _listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.path) == 0

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process is not None:
            self.kill()


async def until(condition, seconds=DEADLINE):
    """Wait for a condition while the loop runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[sys.argv.index("-s") + 1]))
