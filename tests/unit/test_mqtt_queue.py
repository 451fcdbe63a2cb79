# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue before the broker: order, replacement, bounds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from spind.mqtt_messages import Message
from spind.mqtt_queue import OutQueue


def kept(topic, payload=b"x"):
    return Message(topic, payload, retain=True)


def passing(payload):
    return Message("t", payload, retain=False)


def drain(queue):
    messages = []
    while (message := queue.get()) is not None:
        messages.append(message)
    return messages


def test_order():
    queue = OutQueue()
    messages = [kept("a"), passing(b"1"), kept("b"), passing(b"2")]
    messages += [kept("a", b""), passing(b"3"), kept("c", b"")]
    for message in messages:
        queue.put(message)
    assert len(queue) == 7
    assert drain(queue) == messages
    assert (len(queue), queue.size, queue.dropped) == (0, 0, 0)


def test_a_newer_retained_message_takes_the_place_of_the_older():
    queue = OutQueue()
    for message in (kept("a", b"old"), passing(b"mentions a"), kept("a", b"newer"), kept("a", b"newest")):
        queue.put(message)
    assert drain(queue) == [kept("a", b"newest"), passing(b"mentions a")]
    assert queue.dropped == 0


def test_a_removal_stays_behind_what_mentions_the_node():
    queue = OutQueue()
    for message in (kept("a"), passing(b"mentions a"), kept("a", b""), kept("a", b"")):
        queue.put(message)
    assert drain(queue) == [kept("a"), passing(b"mentions a"), kept("a", b"")]


def test_an_announcement_after_a_removal_undoes_it():
    queue = OutQueue()
    for message in (kept("a", b""), kept("a", b"again")):
        queue.put(message)
    assert drain(queue) == [kept("a", b"again")]


def test_the_oldest_passing_message_goes_first():
    queue = OutQueue(max_messages=4)
    for number in range(10):
        queue.put(passing(b"%d" % number))
        queue.put(kept("a", b"%d" % number))
    assert drain(queue) == [kept("a", b"9"), passing(b"7"), passing(b"8"), passing(b"9")]
    assert queue.dropped == 7
    assert not queue.lost_state


def test_bytes_are_bounded():
    queue = OutQueue(max_bytes=10_000)
    for _ in range(100):
        queue.put(passing(b"x" * 1000))
        assert queue.size <= 10_000
    assert len(queue) == 8
    assert queue.dropped == 92


def test_a_message_larger_than_all_room_is_dropped():
    queue = OutQueue(max_bytes=10_000)
    queue.put(passing(b"x" * 20_000))
    assert (len(queue), queue.size, queue.dropped) == (0, 0, 1)


def test_too_many_retained_messages_are_all_given_up():
    queue = OutQueue(max_messages=5)
    for number in range(6):
        queue.put(kept(f"a{number}"))
    assert queue.lost_state
    assert (len(queue), queue.size, queue.dropped) == (0, 0, 0)
    queue.put(kept("b"))
    assert drain(queue) == [kept("b")]


MESSAGES = st.builds(
    Message,
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from([b"", b"1", b"22", b"x" * 3000]),
    st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(MESSAGES | st.none(), max_size=60))
def test_bounds_hold_and_the_last_word_on_a_topic_is_kept(steps):
    queue = OutQueue(max_messages=8, max_bytes=8000)
    broker = {}
    want = {}
    for step in steps:
        if step is None:
            message = queue.get()
            if message is not None and message.retain:
                broker[message.topic] = message.payload
        else:
            queue.put(step)
            if step.retain:
                want[step.topic] = step.payload
        assert 0 <= len(queue) <= 8
        assert 0 <= queue.size <= 8000
    for message in drain(queue):
        if message.retain:
            broker[message.topic] = message.payload
    assert queue.size == 0
    if not queue.lost_state:
        assert broker == want
