# SPDX-License-Identifier: GPL-2.0-or-later
"""Subscribes to spind's traffic and prints what came when: ``python -m bench.listener HOST PORT TOPIC``.

One JSON object a line: ``at`` (CLOCK_MONOTONIC, nanoseconds, as the message came out of the
socket) and ``message``; a line ``{"ready": true}`` first. Ends with its standard input.
"""

import json
import sys
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def main() -> None:
    """Listen until standard input ends."""
    host, port, topic = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)

    def on_connect(client: mqtt.Client, *_: Any) -> None:
        client.subscribe(topic)

    def on_subscribe(*_: Any) -> None:
        say({"ready": True})

    def on_message(_client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        at = time.monotonic_ns()
        try:
            say({"at": at, "message": json.loads(message.payload)})
        except ValueError:
            say({"at": at, "message": None})

    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.connect(host, port)
    client.loop_start()
    sys.stdin.read()
    client.loop_stop()
    client.disconnect()


def say(words: dict[str, Any]) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
