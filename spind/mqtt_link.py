# SPDX-License-Identifier: GPL-2.0-or-later
"""One connection to an MQTT broker, from the attempt to its end, driven by the asyncio loop.

Owns paho's client, its socket and its timers. paho connects blocking (name, TCP, TLS), so
that part runs in a thread of its own that ends with the attempt; from then on only the loop
touches the client. It must not decide what to publish, nor when to try again: that is
``mqtt_pub``, which makes a new link for each attempt, so no state of a lost connection lives
on in paho.

MQTT 5 is spoken where the broker can, because only it lets a client say how large a packet
it takes (section 3.1.2.11.4); with MQTT 3.1.1 a link is cut when a packet turns out larger.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from spind.lean_import import without
from spind.mqtt_messages import Message

with without("dns"):  # dnspython: for SRV records, which we do not ask for; 4 MB (measured)
    from paho.mqtt.client import Client, MQTTMessage
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode
    from paho.mqtt.subscribeoptions import SubscribeOptions

MAX_PACKET = 96 * 1024  # bytes that a broker may send at once: a request of 64 KiB and its topic
CONNECT_TIMEOUT = 5.0  # seconds for each of the broker's addresses
CONNACK_TIMEOUT = 10.0  # seconds; a stopped broker still accepts connections
_MISC_INTERVAL = 1.0  # seconds between paho's looks at its keep-alive clock

# The kernel would hold some megabytes for a broker that does not read. What waits is better
# kept in our own queue, which knows what to give up.
_SEND_BUFFER = 256 * 1024
_RECEIVE_BUFFER = 128 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """How to reach the broker, and the topic of ``pubsub_channel_traffic``.

    ``keepalive`` is in seconds. TLS is used where ``tls_ca_file`` is not empty; the broker's
    certificate must then be signed by it and carry the name or address ``host``. ``rpc``
    opens the methods to every client of the broker.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    channel_traffic: str = "SPIN/traffic"
    keepalive: int = 60
    user: str = ""
    password: str = field(default="", repr=False)
    tls_ca_file: str = ""
    rpc: bool = False


class LinkOwner(Protocol):
    """Who is told what happens on a link; always from the loop, never from inside a call."""

    def link_up(self, link: "MqttLink") -> None:
        """The broker has accepted us."""

    def link_down(self, link: "MqttLink") -> None:
        """The link is over, for ``link.reason``; told once."""

    def link_granted(self, link: "MqttLink", mid: int) -> None:
        """The broker has answered subscription ``mid``."""

    def link_message(self, link: "MqttLink", message: Message) -> None:
        """A message came on a subscribed topic; ``retain`` where the broker had kept it."""

    def link_ready(self, link: "MqttLink") -> None:
        """Everything that was published has been handed to the kernel."""


class MqttLink:
    """See the module. ``up`` from CONNACK to the end; ``reason`` says why it ended.

    ``answered`` tells that the broker sent CONNACK, ``reached`` that TCP and TLS worked;
    ``wrong_version`` that it does not speak MQTT 5. ``max_packet`` is what it takes, in bytes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: LinkOwner,
        settings: MqttSettings,
        client_id: str,
        will: Message,
        *,
        version5: bool,
    ) -> None:
        self.up = self.answered = self.reached = self.wrong_version = False
        self.reason = ""
        self.max_packet = 256 * 1024 * 1024  # MQTT's own bound
        self._loop = loop
        self._owner = owner
        self._settings = settings
        self._version5 = version5
        self._sock: Any = None  # a socket, or an SSL one
        self._over = False
        self._writing = False
        self._read_again: asyncio.Handle | None = None
        self._misc_timer: asyncio.TimerHandle | None = None
        self._connack_timer: asyncio.TimerHandle | None = None
        version = MQTTProtocolVersion.MQTTv5 if version5 else MQTTProtocolVersion.MQTTv311
        client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=version, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_TIMEOUT
        client.will_set(will.topic, will.payload, qos=0, retain=will.retain)
        if settings.user:
            client.username_pw_set(settings.user, settings.password or None)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.on_socket_close = self._on_socket_close
        # Having this callback keeps paho from writing inside publish(): see flush().
        client.on_socket_register_write = lambda *_: None
        self._client = client

    def open(self) -> None:
        """Begin the attempt; ``link_up`` or ``link_down`` follows."""
        threading.Thread(target=self._connect, name="mqtt-connect", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether packets wait inside paho for the broker to read."""
        return self._client.want_write()

    def publish(self, message: Message) -> None:
        """Hand a message to paho; ``flush`` sends it. ``ValueError`` where it cannot be sent."""
        self._client.publish(message.topic, message.payload, qos=0, retain=message.retain)

    def subscribe(self, topic: str) -> int:
        """Ask for ``topic``, of others only where MQTT 5 allows it; returns the mid to wait for."""
        if self._version5:
            _, mid = self._client.subscribe(topic, options=SubscribeOptions(qos=0, noLocal=True))
        else:
            _, mid = self._client.subscribe(topic, qos=0)
        return mid or 0

    def unsubscribe(self, topic: str) -> None:
        """Ask no longer."""
        self._client.unsubscribe(topic)

    def flush(self) -> None:
        """Send what waits, as far as the broker takes it; ``link_ready`` follows if not at once."""
        self._drive(self._client.loop_write)

    def disconnect(self) -> None:
        """Leave in order, so that the broker does not publish the will; ``link_down`` follows."""
        self._drive(self._client.disconnect)
        self.flush()

    def abort(self, reason: str) -> None:
        """End the link at once."""
        if self._over:
            return
        sock = self._sock
        self._finish(reason)
        if sock is not None:
            sock.close()

    # The attempt, in its thread

    def _connect(self) -> None:
        settings = self._settings
        keepalive = min(max(settings.keepalive, 1), 65535)
        properties = None
        try:
            if settings.tls_ca_file:
                self._client.tls_set_context(ssl.create_default_context(cafile=settings.tls_ca_file))
            if self._version5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.MaximumPacketSize = MAX_PACKET
            self._client.connect(settings.host, settings.port, keepalive, properties=properties)
        except Exception as error:
            self._tell_loop(self.abort, _reason(error))
        else:
            self._tell_loop(self._adopt)

    def _tell_loop(self, callback: Callable[..., None], *args: str) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop has ended meanwhile
            sock: Any = self._client.socket()
            if sock is not None:
                sock.close()

    # Afterwards, in the loop

    def _adopt(self) -> None:
        sock: Any = self._client.socket()
        if self._over or sock is None:
            if sock is not None:
                sock.close()
            return
        self._sock = sock
        self.reached = True
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._connack_timer = self._loop.call_later(CONNACK_TIMEOUT, self.abort, "it does not answer")
        self._misc_timer = self._loop.call_later(_MISC_INTERVAL, self._misc)
        self._loop.add_reader(sock, self._readable)
        self.flush()

    def _readable(self) -> None:
        self._read_again = None
        self._drive(self._client.loop_read)
        if self._over:
            return
        if not self._version5 and _announced_length(self._client) > MAX_PACKET:
            self.abort(f"it sent a packet of more than {MAX_PACKET} bytes")
            return
        # TLS: bytes that are decrypted already wait where the selector does not see them.
        pending = getattr(self._sock, "pending", None)
        if pending is not None and pending() and self._read_again is None:
            self._read_again = self._loop.call_soon(self._readable)

    def _writable(self) -> None:
        self.flush()
        if not self._over and not self.busy:
            self._owner.link_ready(self)

    def _misc(self) -> None:
        self._misc_timer = self._loop.call_later(_MISC_INTERVAL, self._misc)
        self._drive(self._client.loop_misc)

    def _drive(self, step: Callable[[], object]) -> None:
        """Let paho do one step, and watch for writability as long as it has more to write."""
        if self._over or self._sock is None:
            return
        try:
            step()
        except Exception as error:
            log.exception("MQTT client failed")
            self.abort(_reason(error))
        if self._sock is not None and self.busy is not self._writing:
            self._writing = self.busy
            if self._writing:
                self._loop.add_writer(self._sock, self._writable)
            else:
                self._loop.remove_writer(self._sock)

    def _finish(self, reason: str) -> None:
        self._over = True
        self.up = False
        self.reason = self.reason or reason
        self._leave_loop()
        for handle in (self._read_again, self._misc_timer, self._connack_timer):
            if handle is not None:
                handle.cancel()
        self._read_again = self._misc_timer = self._connack_timer = None
        self._loop.call_soon(self._owner.link_down, self)

    def _leave_loop(self) -> None:
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock = None
            self._writing = False

    # paho's callbacks

    def _on_connect(
        self, _c: Client, _u: object, _f: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self.answered = True
        if reason.is_failure:
            self.reason = str(reason)
            # MQTT 5 section 3.2.2.2; a 3.1.1 broker's own code is mapped to it by paho.
            self.wrong_version = reason.getName() == "Unsupported protocol version"
            return
        self.max_packet = min(self.max_packet, getattr(properties, "MaximumPacketSize", self.max_packet))
        self.up = True
        if self._connack_timer is not None:
            self._connack_timer.cancel()
        self._loop.call_soon(self._owner.link_up, self)

    def _on_disconnect(self, _c: Client, _u: object, _f: object, reason: ReasonCode, _p: object) -> None:
        if not self._over:
            self._finish(f"connection lost ({reason})")

    def _on_socket_close(self, *_: object) -> None:
        self._leave_loop()

    def _on_subscribe(self, _c: Client, _u: object, mid: int, _codes: object, _p: object) -> None:
        self._loop.call_soon(self._owner.link_granted, self, mid)

    def _on_message(self, _c: Client, _u: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._owner.link_message(self, Message(topic, bytes(message.payload), retain=bool(message.retain)))


def _announced_length(client: Client) -> int:
    """How long the packet is that is being received, in bytes; 0 where paho does not tell.

    Its public interface has no bound on what a broker may send. Where a later paho names
    this otherwise, MQTT 3.1.1 is served without the bound.
    """
    packet = getattr(client, "_in_packet", None)
    length = packet.get("remaining_length", 0) if isinstance(packet, dict) else 0
    return length if isinstance(length, int) else 0


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        name = f" ({error.filename})" if error.filename else ""
        return error.strerror + name
    return str(error) or type(error).__name__
