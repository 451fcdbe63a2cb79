# SPDX-License-Identifier: GPL-2.0-or-later
"""What a capture wants, said twice: tcpdump's expression and our program let the same packets through."""

import shutil
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind.pcap_filter import MAX_ADDRESSES, SNAPLEN, Wanted, expression, program

MACS = [bytes([2, 0, 0, 0, 0, i]) for i in range(4)]
V4 = [bytes([192, 0, 2, i]) for i in range(4)]
V6 = [bytes.fromhex("20010db8") + bytes(11) + bytes([i]) for i in range(4)]


def run(code: bytes, packet: bytes) -> int:
    """Classic BPF as the kernel runs it, of the operations that a filter here or tcpdump's uses."""
    instructions = list(struct.iter_unpack("=HBBI", code))
    accumulator = index = 0
    for _ in range(len(instructions)):  # no jump goes back
        operation, if_true, if_false, value = instructions[index]
        index += 1
        if operation in (0x20, 0x28):
            size = 4 if operation == 0x20 else 2
            if value + size > len(packet):
                return 0
            accumulator = int.from_bytes(packet[value : value + size], "big")
        elif operation == 0x15:
            index += if_true if accumulator == value else if_false
        elif operation == 0x05:
            index += value
        elif operation == 0x06:
            return value
        else:
            raise AssertionError(hex(operation))
    raise AssertionError("it ran off the end")


def frame(source: bytes, target: bytes, ethertype: int, first: bytes, second: bytes) -> bytes:
    head = target + source + struct.pack("!H", ethertype)
    if ethertype == 0x0800:
        return head + b"\x45" + bytes(11) + first + second + b"payload"
    if ethertype == 0x86DD:
        return head + b"\x60" + bytes(7) + first + second + b"payload"
    if ethertype == 0x0806:
        return head + bytes.fromhex("0001080006040001") + source + first + target + second
    return head + b"something else entirely, long enough for any offset that is looked at"


def is_wanted(wanted: Wanted, source: bytes, target: bytes, ends: set[bytes]) -> bool:
    """The meaning, in plain words."""
    if wanted.mac is not None and wanted.mac not in (source, target):
        return False
    if wanted.peer is None and not wanted.addresses:
        return True
    return wanted.peer in (source, target) or bool(ends & set(wanted.addresses))


wishes = st.builds(
    Wanted,
    st.none() | st.sampled_from(MACS),
    st.none() | st.sampled_from(MACS),
    st.lists(st.sampled_from(V4 + V6), max_size=6, unique=True).map(tuple),
).filter(lambda wanted: wanted != Wanted())


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, set[bytes]]:
    source, target = draw(st.sampled_from(MACS)), draw(st.sampled_from(MACS))
    kind = draw(st.sampled_from([0x0800, 0x86DD, 0x0806, 0x88CC]))
    pool = V6 if kind == 0x86DD else V4
    first, second = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
    ends = set() if kind == 0x88CC else {first, second}
    return frame(source, target, kind, first, second), source, target, ends


@given(wishes, frames())
def test_the_program_means_what_it_should(wanted, packet):
    data, source, target, ends = packet
    assert run(program(wanted), data) == (SNAPLEN if is_wanted(wanted, source, target, ends) else 0)


@given(wishes, st.binary(max_size=60))
def test_short_and_odd_packets_end_it(wanted, data):
    assert run(program(wanted), data) in (0, SNAPLEN)


TCPDUMP = shutil.which("tcpdump", path="/usr/sbin:/usr/bin:/sbin:/bin")


@pytest.mark.skipif(TCPDUMP is None, reason="no tcpdump here")
@settings(max_examples=25, deadline=None)
@given(wishes, st.lists(frames(), min_size=8, max_size=8))
def test_tcpdumps_expression_means_the_same(wanted, packets):
    text = subprocess.run(
        [TCPDUMP, "-y", "EN10MB", "-s", str(SNAPLEN), "-ddd", expression(wanted)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = b"".join(struct.pack("=HBBI", *map(int, line.split())) for line in text.splitlines()[1:])
    for data, *_ in packets:
        assert bool(run(theirs, data)) == bool(run(program(wanted), data))


def test_the_most_addresses_fit_the_kernels_bound():
    many = tuple(bytes.fromhex("20010db8") + bytes(11) + bytes([i]) for i in range(MAX_ADDRESSES))
    wanted = Wanted(MACS[0], MACS[1], many)
    assert len(program(wanted)) // 8 < 4096  # BPF_MAXINSNS
    assert run(program(wanted), frame(MACS[0], MACS[2], 0x86DD, many[-1], V6[0]))
    with pytest.raises(ValueError, match="64"):
        program(Wanted(addresses=(*many, V4[0])))


@pytest.mark.parametrize(
    "bad", [Wanted(), Wanted(b"short"), Wanted(addresses=(b"12345",)), Wanted(MACS[0], b"")]
)
def test_what_cannot_be_a_filter_is_none(bad):
    for make in (expression, program):
        with pytest.raises(ValueError):
            make(bad)


def test_the_expression_holds_addresses_and_words_of_pcap_filter_only():
    assert expression(Wanted(MACS[1])) == "ether host 02:00:00:00:00:01"
    assert expression(Wanted(None, None, (V4[1], V6[1]))) == "host 192.0.2.1 or host 2001:db8::1"
    assert (
        expression(Wanted(MACS[1], MACS[2], (V4[1],)))
        == "ether host 02:00:00:00:00:01 and (ether host 02:00:00:00:00:02 or host 192.0.2.1)"
    )
