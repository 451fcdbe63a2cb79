# SPDX-License-Identifier: GPL-2.0-or-later
"""Capture in a process of its own, to be stopped and killed: ``capture_process.py BACKEND [watched]``.

With ``inspect`` there is a third queue, for inspection, of 16 packets as the others. Prints ``ready``,
then a line for each packet: protocol, destination port, payload length. Ends with its standard input.
"""

import asyncio
import sys

from capture_net import CUT, INSPECT, MARK

from spind.capture import Capture
from spind.capture_backend import CaptureRules
from spind.capture_rules import CaptureSpec
from spind.commands import Verdict
from spind.events import PacketSeen


async def main() -> None:
    backend = sys.argv[1]
    loop = asyncio.get_running_loop()

    def on_packet(event: PacketSeen) -> Verdict:
        packet = event.packet
        print(packet.proto, packet.dport, len(packet.payload), flush=True)
        return Verdict(accept=True, done=False)

    queues = [
        Capture(loop, number, on_packet, lambda _index: True, done_mark=MARK, queue_length=16)
        for number in (1, 2)
    ]
    spec = CaptureSpec("router", ("lan",), 1, 2, MARK, watched="watched" in sys.argv)
    if "inspect" in sys.argv:
        spec = spec._replace(queue_inspect=3, cut_mark=CUT, inspect_mark=INSPECT)
        queues.append(
            Capture(
                loop, 3, on_packet, lambda _index: True,
                done_mark=MARK, cut_mark=CUT, inspect_mark=INSPECT, inspect=True, queue_length=16,
            )
        )  # fmt: skip
    for queue in queues:
        queue.start()
        assert queue.fail_open == (queue in queues[:2])
    rules = CaptureRules(loop, backend, spec)
    rules.start()
    print("ready", flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: sys.stdin.read(1) or ended.set())
    await ended.wait()
    loop.remove_reader(sys.stdin.fileno())
    for queue in queues:
        queue.stop()
    rules.stop()


asyncio.run(main())
