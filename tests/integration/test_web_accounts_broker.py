# SPDX-License-Identifier: GPL-2.0-or-later
"""The password file that ``spind passwd`` writes, read by a real mosquitto."""

import threading

from mosquitto_broker import DEADLINE, Broker, needs_mosquitto
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from spind.web import accounts


def answer(port, user, password):
    """Whether the broker lets this user in."""
    heard, found = threading.Event(), []

    def connected(_client, _userdata, _flags, reason, _properties):
        found.append(not reason.is_failure)
        heard.set()

    client = Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set(user, password)
    client.on_connect = connected
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert heard.wait(DEADLINE)
    client.disconnect()
    client.loop_stop()
    return found[0]


@needs_mosquitto
def test_the_broker_can_use_the_same_file(tmp_path):
    data = accounts.put(b"", "alice", "correct horse", bytes(range(12)))
    data = accounts.put(data, "käse", "pässwörter", bytes(range(1, 13)))
    path = tmp_path / "passwd"
    path.write_bytes(data)
    path.chmod(0o600)
    with Broker(tmp_path, ("allow_anonymous false", f"password_file {path}")) as broker:
        assert answer(broker.port, "alice", "correct horse")
        assert answer(broker.port, "käse", "pässwörter")
        assert not answer(broker.port, "alice", "correct mouse")
        assert not answer(broker.port, "nobody", "correct horse")
