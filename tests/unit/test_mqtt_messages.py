# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands as messages: byte for byte the recorded shapes."""

import json
from pathlib import Path

import pytest

from spind.commands import (
    BlockedReport,
    CounterChanged,
    DnsQuerySeen,
    ListChanged,
    NodeChanged,
    NodeDeleted,
    NodeMerged,
    Notice,
    TrafficReport,
    Verdict,
)
from spind.mqtt_messages import Message, Topics

GOLDEN = Path(__file__).parents[1] / "golden/mqtt/messages.json"
SAMPLES = Path(__file__).parents[3] / "shared/contract/spin-samples"


def test_golden_messages():
    topics = Topics()
    node = {
        "id": 4,
        "name": "Küche 📺",
        "mac": "02:00:00:00:08:12",
        "lastseen": 1795547175,
        "ips": ["192.168.8.12"],
        "domains": [],
    }
    flow = {"from": 7, "to": 9, "protocol": 6, "from_port": 25574, "to_port": 80, "size": 743, "count": 8}
    got = [
        *topics.messages(TrafficReport([flow], 1795547174, 743, 8)),
        *topics.messages(DnsQuerySeen(7, 10, "api.vendor.test.")),
        *topics.messages(ListChanged("ignore", ["192.168.8.13", "fe80::ff:fe00:813"])),
        *topics.messages(ListChanged("block", [])),
        *topics.messages(BlockedReport(flow | {"size": 52, "count": 1})),
        topics.restarted(),
        *topics.messages(NodeChanged(node)),
        *topics.messages(NodeDeleted(9)),
        *topics.messages(NodeMerged(10, 9)),
        *topics.messages(CounterChanged("pubsub", "chan-publish", "total", 123456789012, 7)),
        topics.online(up=True),
        topics.online(up=False),
    ]
    golden = json.loads(GOLDEN.read_text())
    assert got == [Message(m["topic"], m["payload"].encode(), m["retain"]) for m in golden]


def command_of(topic, payload):
    """The command that the recorded message tells of."""
    if not payload:
        return NodeDeleted(int(topic.rpartition("/")[2]))
    message = json.loads(payload)
    result = message.get("result")
    match message["command"]:
        case "traffic":
            return TrafficReport(
                result["flows"], result["timestamp"], result["total_size"], result["total_count"]
            )
        case "blocked":
            return BlockedReport(result)
        case "dnsquery":
            return DnsQuerySeen(result["from"], result["queriednode"], result["query"])
        case "nodeInfo":
            return NodeChanged(result)
        case "nodeMerged":
            return NodeMerged(result["id"], result["merged-to"])
        case "block" | "allow" | "ignore" as name:
            return ListChanged(name, result)
    return None


def recorded():
    if not SAMPLES.exists():
        return [pytest.param("", marks=pytest.mark.skip(reason="the recorded samples are not here"))]
    return sorted(path.name for path in SAMPLES.glob("mqtt-*.json"))


@pytest.mark.parametrize("name", recorded())
def test_recorded_messages_byte_for_byte(name):
    if name == "mqtt-jsonrpc.json":
        pytest.skip("requests and replies: see test_jsonrpc_samples")
    messages = json.loads((SAMPLES / name).read_text())
    # SPIN 1.0 said "blocked" of nothing, too, where it did not know the nodes.
    messages = [message for message in messages if message["payload"] != '{"command":"blocked"}']
    assert messages
    topics = Topics()
    for message in messages:
        ours = topics.messages(command_of(message["topic"], message["payload"]))
        # Where SPIN 1.0 said it in two messages, each is one of ours.
        assert (message["topic"], message["payload"].encode()) in [(m.topic, m.payload) for m in ours]


def test_commands_of_others_are_none_of_mqtts_business():
    assert Topics().messages(Verdict(accept=True, done=True)) == []
    assert Topics().messages(Notice(10, "x")) == []


def test_a_name_that_cannot_be_encoded_does_not_silence_its_node():
    (message,) = Topics().messages(NodeChanged({"id": 1, "name": "\ud800"}))
    assert json.loads(message.payload)["result"] == {"id": 1, "name": "?"}


@pytest.mark.parametrize(
    ("channel", "status", "node"),
    [
        ("SPIN/traffic", "SPIN/status", "SPIN/traffic/node/5"),
        ("a/b/c", "a/b/status", "a/b/c/node/5"),
        ("traffic", "traffic/status", "traffic/node/5"),
        ("/traffic", "/status", "/traffic/node/5"),
        ("Zuhause/Verkehr é", "Zuhause/status", "Zuhause/Verkehr é/node/5"),
    ],
)
def test_topics(channel, status, node):
    topics = Topics(channel)
    assert (topics.status, topics.node(5)) == (status, node)
    assert topics.node_id(node) == 5


@pytest.mark.parametrize("channel", ["", "a/#", "+/x", "a\0b", "a\nb", "x" * 201, "é" * 101])
def test_what_is_no_topic(channel):
    with pytest.raises(ValueError, match="pubsub_channel_traffic"):
        Topics(channel)


@pytest.mark.parametrize(
    "topic",
    [
        "SPIN/traffic",
        "SPIN/traffic/node/",
        "SPIN/traffic/node/x",
        "SPIN/traffic/node/-1",
        "SPIN/traffic/node/05",
        "SPIN/traffic/node/٣",
        "SPIN/traffic/node/²",
        "SPIN/traffic/node/5/6",
        "SPIN/traffic/node/" + "9" * 5000,
        "SPIN/traffic/xxxx/5",
    ],
)
def test_what_is_no_topic_of_a_node(topic):
    assert Topics().node_id(topic) is None
