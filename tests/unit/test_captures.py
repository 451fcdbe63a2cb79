# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures with a program in tcpdump's place: bounds, readers, ends, and that no process is left."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from spind import captures as captures_module
from spind import pcap_capture, pcap_source
from spind.calls import ApiError, DeniedError, NotFoundError, UnavailableError
from spind.capfile import read_bytes
from spind.captures import Captures
from spind.deeds_captures import CaptureRequest
from spind.limits import CaptureLimits
from spind.pcap_filter import Wanted
from spind.pcap_source import command

WANTED = Wanted(b"\x02\0\0\0\0\x01")
PATIENCE = 20.0

INTERPRETER = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
"""The program runs as another user, who may have no access to ours."""

HEAD = r"""
import os, signal, struct, sys, time
out = sys.stdout.buffer
def head(linktype=1):
    out.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, linktype)); out.flush()
def packet(size=84, fill=b"x"):
    out.write(struct.pack("=IIII", 1, 2, size, size) + fill * size); out.flush()
def wait():
    while True: signal.pause()
"""


@pytest.fixture
def program() -> Iterator[Callable[[str], str]]:
    """Writes a program that stands for tcpdump; it may run as another user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)

        def make(body: str) -> str:
            path = Path(folder) / f"program{len([*Path(folder).iterdir()])}"
            path.write_text(f"#!{INTERPRETER} -S\n{HEAD}\n{body}\n")
            path.chmod(0o755)
            return str(path)

        yield make


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


async def read(source: object) -> bytes:
    return b"".join([chunk async for chunk in source])  # type: ignore[attr-defined]


def request(seconds: int = 60, max_bytes: int = 100_000) -> CaptureRequest:
    return CaptureRequest(WANTED, seconds, max_bytes, "02:00:00:00:00:01", 0, "camera")


def serve(
    tcpdump: str,
    scene: Callable[[Captures], Awaitable[None]],
    *,
    interfaces: tuple[str, ...] = ("lan",),
    on_change: Callable[[], None] = lambda: None,
    **limits: int,
) -> None:
    """Run a scene; afterwards nothing is left of it."""

    async def run() -> None:
        all_of_them = Captures(
            asyncio.get_running_loop(),
            lambda: interfaces,
            CaptureLimits(**limits),
            on_change,
            tcpdump=tcpdump,
        )
        before = descriptors(), children()
        try:
            async with asyncio.timeout(PATIENCE * 2):
                await scene(all_of_them)
        finally:
            await all_of_them.stop_all()
        await until(lambda: (descriptors(), children()) == before, "descriptors or processes are left")
        assert all_of_them.list() == []

    asyncio.run(run())


def test_a_capture_ends_by_time_and_is_whole(program):
    async def scene(all_of_them: Captures) -> None:
        begun = time.monotonic()
        first = all_of_them.start(request(seconds=1))
        assert first["state"] == "starting"
        assert first["url"] == "/api/v1/captures/1.pcap"
        data = await read(all_of_them.open(1, "owner"))
        assert 0.9 < time.monotonic() - begun < PATIENCE
        (told,) = all_of_them.list()
        await until(lambda: all_of_them.list()[0]["state"] == "ended", "its end")
        (told,) = all_of_them.list()
        assert told["reason"] == "time"
        assert (told["packets"], told["bytes"], told["seconds_left"]) == (3, len(data), 0)
        assert told["device"] == "02:00:00:00:00:01"
        assert "node" not in told
        assert told["dropped"] == 7
        assert len(read_bytes(data)) == 3

    serve(
        program(
            "def bye(*_):\n"
            "    sys.stderr.write('3 packets captured\\n7 packets dropped by kernel\\n'); sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, bye)\n"
            "head(); packet(); packet(); packet(); wait()"
        ),
        scene,
    )


def test_size_is_a_bound_to_the_byte_and_the_last_record_is_whole(program):
    async def scene(all_of_them: Captures) -> None:
        for bound, packets in ((24 + 100 * 50, 50), (24 + 100 * 51 - 1, 50)):
            number = int(str(all_of_them.start(request(max_bytes=bound))["id"]))
            data = await read(all_of_them.open(number, "owner"))
            assert len(data) == 24 + 100 * packets <= bound
            assert len(read_bytes(data)) == packets
            assert all_of_them.list()[0]["reason"] == "size"

    serve(program("head()\nwhile True: packet()"), scene)


def test_readers_early_late_and_slow_get_the_same(program):
    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request(max_bytes=1_000_000))
        early = asyncio.create_task(read(all_of_them.open(1, "owner")))
        slow = all_of_them.open(1, "owner")
        first = await anext(slow)
        assert first
        await until(lambda: int(str(all_of_them.list()[0]["bytes"])) > 300_000, "some bytes")
        late = asyncio.create_task(read(all_of_them.open(1, "owner")))
        left = all_of_them.open(1, "owner")
        assert await anext(left)
        await left.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(left)
        assert all_of_them.stop(1)["state"] in ("stopping", "ended")
        one, two = await asyncio.gather(early, late)
        three = first + await read(slow)
        assert one == two == three
        assert len(one) > 300_000
        assert len(read_bytes(one)) == all_of_them.list()[0]["packets"]
        assert all_of_them.list()[0]["reason"] == "stopped"

    serve(program("head()\nwhile True:\n    packet(1400); time.sleep(0.001)"), scene)


def test_half_a_record_is_not_seen(program):
    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request())
        data = await anext(all_of_them.open(1, "owner"))
        await until(lambda: all_of_them.list()[0]["packets"] == 1, "the first packet")
        data = await anext(all_of_them.open(1, "owner"))
        assert len(data) == 24 + 16 + 84
        all_of_them.stop(1)
        assert await read(all_of_them.open(1, "owner")) == data

    half = "out.write(struct.pack('=IIII', 1, 2, 84, 84) + b'x' * 83); out.flush()"
    serve(program(f"head(); packet(); {half}; wait()"), scene)


def test_a_failing_program_says_why(program):
    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request())
        data = await read(all_of_them.open(1, "owner"))
        assert read_bytes(data) == []
        (told,) = all_of_them.list()
        assert told["reason"] == "error: lan: tcpdump: lan: No such device �[0m exists"
        assert told["state"] == "ended"

    serve(
        program(
            "sys.stderr.write('x' * 100000 + '\\ntcpdump: lan: No such device \\x1b[0m exists\\n');"
            "sys.stderr.write('0 packets captured\\n'); sys.exit(1)"
        ),
        scene,
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("out.write(b'GET / HTTP/1.1' * 9); out.flush(); wait()", "no pcap"),
        ("head(); out.write(b'\\xff' * 64); out.flush(); wait()", "which cannot be"),
        ("head(); packet(); sys.exit(0)", "ended (status 0)"),
        ("head(); os.kill(os.getpid(), 9)", "ended (status -9)"),
    ],
)
def test_a_program_that_lies_or_dies_ends_the_capture(program, body, reason):
    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request())
        data = await read(all_of_them.open(1, "owner"))
        (told,) = all_of_them.list()
        assert str(told["reason"]).startswith("error: ")
        assert reason in str(told["reason"])
        assert len(read_bytes(data)) == told["packets"]

    serve(program(body), scene)


def test_a_program_that_says_nothing_or_does_not_end_is_ended(program, monkeypatch):
    monkeypatch.setattr(pcap_capture, "START_SECONDS", 1.0)
    monkeypatch.setattr(pcap_source, "GRACE_SECONDS", 0.2)

    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request())
        await until(lambda: all_of_them.list()[0]["state"] == "ended", "its end")
        assert all_of_them.list()[0]["reason"] == "error: it could not begin in time"

    serve(program("signal.signal(signal.SIGTERM, signal.SIG_IGN); wait()"), scene)


def test_a_program_that_cannot_be_run_is_an_error(program):
    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request())
        await until(lambda: all_of_them.list()[0]["state"] == "ended", "its end")
        assert "cannot run /nowhere/tcpdump" in str(all_of_them.list()[0]["reason"])

    serve("/nowhere/tcpdump", scene)


def test_several_interfaces_come_into_one_file(program):
    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request(max_bytes=1_000_000))
        await until(lambda: all_of_them.list()[0]["packets"] == 20, "packets of both")
        assert all_of_them.list()[0]["interfaces"] == ["lan", "guest"]
        all_of_them.stop(1)
        packets = read_bytes(await read(all_of_them.open(1, "owner")))
        assert sorted(packet.data[:1] for packet in packets) == [b"g"] * 10 + [b"l"] * 10

    body = "head()\nname = sys.argv[sys.argv.index('-i') + 1]\n"
    body += "for _ in range(10): packet(fill=name[0].encode())\nwait()"
    serve(program(body), scene, interfaces=("lan", "guest"))


def test_an_interface_of_another_kind_ends_it_with_a_reason(program):
    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request())
        data = await read(all_of_them.open(1, "owner"))
        assert "of another kind" in str(all_of_them.list()[0]["reason"])
        assert read_bytes(data) == []

    serve(
        program("head(len(sys.argv[sys.argv.index('-i') + 1])); wait()"), scene, interfaces=("lan", "guest")
    )


def test_the_number_is_bounded_and_ended_ones_make_room(program):
    async def scene(all_of_them: Captures) -> None:
        for _ in range(3):
            all_of_them.start(request())
        with pytest.raises(UnavailableError, match="limit_captures"):
            all_of_them.start(request())
        await until(lambda: all(c["state"] == "running" for c in all_of_them.list()), "all of them run")
        for number in (2, 1):
            all_of_them.stop(number)
        await until(lambda: all_of_them.list()[-1]["state"] == "ended", "the end of the first")
        await until(lambda: all_of_them.list()[-2]["state"] == "ended", "the end of the second")
        oldest = min((1, 2), key=lambda n: all_of_them._captures[n].ended)
        reader = all_of_them.open(oldest, "owner")
        all_of_them.start(request())
        assert {c["id"] for c in all_of_them.list()} == {4, 3, oldest}, "what is read stays as long as it can"
        all_of_them.start(request())
        assert [c["id"] for c in all_of_them.list()] == [5, 4, 3]
        with pytest.raises(NotFoundError):
            await anext(reader)
        with pytest.raises(NotFoundError):
            all_of_them.open(oldest, "owner")
        with pytest.raises(NotFoundError):
            all_of_them.stop(99)

    serve(program("head(); wait()"), scene, captures=3)


def test_what_has_ended_is_given_up_after_a_while(program, monkeypatch):
    monkeypatch.setattr(captures_module, "KEEP_SECONDS", 0.5)

    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request())
        all_of_them.stop(1)
        await until(lambda: all_of_them.list()[0]["state"] == "ended", "its end")
        await until(lambda: not all_of_them.list(), "that it is given up")

    serve(program("head(); wait()"), scene)


def test_news_come_at_once_and_then_once_a_second(program):
    told: list[float] = []

    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request(seconds=2, max_bytes=10_000_000))
        await read(all_of_them.open(1, "owner"))
        await until(lambda: all_of_them.list()[0]["state"] == "ended", "its end")

    serve(
        program("head()\nwhile True:\n    packet(); time.sleep(0.005)"),
        scene,
        on_change=lambda: told.append(time.monotonic()),
    )
    # starting, ended, and one for each second that something changed in
    assert 3 <= len(told) <= 2 + (told[-1] - told[0]) + 1


def test_only_the_owner_downloads(program):
    async def scene(all_of_them: Captures) -> None:
        all_of_them.start(request())
        for role in ("viewer", "provider", ""):
            with pytest.raises(DeniedError):
                all_of_them.open(1, role)
        readers = [all_of_them.open(1, "owner") for _ in range(captures_module.MAX_READERS)]
        with pytest.raises(UnavailableError, match="being read"):
            all_of_them.open(1, "owner")
        readers[0].close()
        all_of_them.open(1, "owner")

    serve(program("head(); wait()"), scene)


def test_it_is_refused_where_it_cannot_be(program, monkeypatch):
    async def nowhere(all_of_them: Captures) -> None:
        with pytest.raises(UnavailableError, match="lan"):
            all_of_them.start(request())

    serve("", nowhere, interfaces=())

    async def odd(all_of_them: Captures) -> None:
        with pytest.raises(UnavailableError, match="no interface"):
            all_of_them.start(request())

    for name in ("-z", "a b", "x" * 16, "", "a/b"):
        serve("", odd, interfaces=(name,))

    async def short(all_of_them: Captures) -> None:
        with pytest.raises(UnavailableError, match="memory"):
            all_of_them.start(request(max_bytes=600))
        all_of_them.start(request(max_bytes=300))
        with pytest.raises(UnavailableError, match="memory"):
            all_of_them.start(request(max_bytes=300))
        await all_of_them.stop_all()
        with pytest.raises(ApiError, match="stopping"):
            all_of_them.start(request())

    monkeypatch.setattr(captures_module, "_free_memory", lambda: 1000)
    serve(program("head(); wait()"), short)


def test_the_free_memory_is_read():
    free = captures_module._free_memory()
    assert free is not None
    assert 1 << 20 < free < 1 << 50


def test_no_shell_and_no_names_in_the_argument_list():
    arguments = command("/usr/bin/tcpdump", "br-lan", WANTED)
    assert arguments[-1] == "ether host 02:00:00:00:00:01"
    assert arguments[arguments.index("-i") + 1] == "br-lan"
    assert "-p" in arguments
    assert arguments[0] == sys.executable
    own = command("", "br-lan", WANTED)
    assert own[-3:-1] == ["read", "br-lan"]
    assert len(bytes.fromhex(own[-1])) % 8 == 0


def test_a_killed_daemon_leaves_no_process(program):
    """A daemon that is killed: its capturing process ends, though no packet ever breaks its pipe."""
    script = """
import asyncio, sys
from spind.captures import Captures
from spind.deeds_captures import CaptureRequest
from spind.limits import CaptureLimits
from spind.pcap_filter import Wanted
async def main():
    c = Captures(asyncio.get_running_loop(), lambda: ("lan",), CaptureLimits(), tcpdump=sys.argv[1])
    c.start(CaptureRequest(Wanted(b"\\2\\0\\0\\0\\0\\1"), 60, 9999))
    while c.list()[0]["state"] != "running": await asyncio.sleep(0.01)
    print("up", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    path = program("head(); wait()")

    async def run() -> None:
        root = str(Path(captures_module.__file__).parents[1])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script,
            path,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"up\n"
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert path in Path(f"/proc/{child}/cmdline").read_text()
        process.kill()
        await process.wait()
        await until(lambda: not running(int(child)), "the end of the capturing process")

    def running(pid: int) -> bool:
        try:
            return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False

    asyncio.run(run())
