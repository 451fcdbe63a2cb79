# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one command inside a virtual machine that boots Debian's stock kernel on this machine's own files.

Owns the virtual machine's life: start, streamed output, deadline, end. Its exit status is the command's; 124
when the time is up, 125 when the machine could not be had or ended without a word from the command. The
machine has no network device. It sees this machine's files read-only; what it writes stays in memory, but for
the exchange folder, which is made for the run and removed after it.
"""

from __future__ import annotations

import argparse
import os
import platform
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from initramfs import build_initramfs
from kernel import Kernel, LaneError, ensure_kernel

if TYPE_CHECKING:
    from types import FrameType

CHECKOUT = Path(__file__).resolve().parent.parent.parent
QEMU = "qemu-system-x86_64"
TIMED_OUT = 124
NO_VERDICT = 125

# Emulated processors are some 10 to 15 times slower than real ones; tests multiply their deadlines by this.
SLOWNESS = 20

# mitigations, init_on_alloc, audit, apparmor: defences that cost time and defend nothing here.
# rcu_expedited: removing namespaces and rules waits for grace periods, which are long on idle processors.
# panic=-1 together with -no-reboot: a panic ends the run at once.
KERNEL_OPTIONS = (
    "console=ttyS0 loglevel=5 panic=-1 nokaslr mitigations=off init_on_alloc=0 audit=0 apparmor=0 "
    "tsc=reliable random.trust_cpu=on rcupdate.rcu_expedited=1"
)

# Where tests marked "vm" are. To collect the other suites too would take half a minute under emulation.
SUITES = ("tests/lab", "tests/vm")

_CONSOLE_LINES = 40
_CHUNK = 65536


def default_command(pytest_arguments: list[str]) -> list[str]:
    """Return the command for the tests marked ``vm``: all, or those of the paths among the arguments."""
    named = [argument for argument in pytest_arguments if not argument.startswith("-")]
    chosen = any((CHECKOUT / argument.split("::")[0]).exists() for argument in named)
    pytest = [".venv/bin/python", "-m", "pytest", "-m", "vm", "-o", "faulthandler_timeout=600"]
    return [*pytest, *([] if chosen else SUITES), *pytest_arguments]


def command_file(command: list[str], slowness: float) -> str:
    """Return the shell script that the guest's second stage runs."""
    return "\n".join(
        [
            f"cd {shlex.quote(str(CHECKOUT))} || exit 125",
            f"export SPIND_VM=1 SPIND_TEST_SLOW={slowness:g}",
            f"exec {shlex.join(command)}",
            "",
        ]
    )


def qemu_arguments(kernel: Kernel, scratch: Path, memory: str) -> list[str]:
    """Return qemu's command line for a run whose files are in ``scratch``."""
    options = f"{KERNEL_OPTIONS} spind.checkout={CHECKOUT} spind.modules={kernel.modules}"
    share = "security_model=none,multidevs=remap"
    return [
        QEMU,
        *("-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", memory),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-kernel", str(kernel.image), "-initrd", str(scratch / "initramfs"), "-append", options),
        *("-serial", f"file:{scratch / 'console.log'}"),
        *("-device", "virtio-serial-pci", "-chardev", "file,id=output,path=/dev/stdout"),
        *("-device", "virtserialport,chardev=output,name=output", "-device", "virtio-rng-pci"),
        *(
            "-fsdev",
            f"local,id=root,path=/,readonly=on,{share}",
            "-device",
            "virtio-9p-pci,fsdev=root,mount_tag=root",
        ),
        *("-fsdev", f"local,id=exchange,path={scratch / 'exchange'},{share}"),
        *("-device", "virtio-9p-pci,fsdev=exchange,mount_tag=exchange"),
    ]


def stream(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Copy the machine's output to ours until it ends; False when ``deadline`` (monotonic) came first."""
    if process.stdout is None:
        raise LaneError("qemu was started without a pipe for its output")
    source = process.stdout.fileno()
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([source], [], [], left)[0]:
            return False
        data = os.read(source, _CHUNK)
        if not data:
            return True
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    return False


def run_machine(arguments: list[str], seconds: float) -> bool:
    """Run qemu to its end; False when ``seconds`` were over before. It never outlives this call."""
    with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            finished = stream(process, time.monotonic() + seconds)
            if finished:
                process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            finished = False
        finally:
            if process.poll() is None:
                process.kill()
    return finished


def verdict(scratch: Path, *, finished: bool, seconds: float) -> int:
    """Return the command's exit status, or say why there is none and show the end of the kernel's console."""
    status = scratch / "exchange" / "status"
    if finished and status.is_file() and (text := status.read_text().strip()).isdigit():
        return int(text)
    if finished:
        say("the virtual machine ended without reporting how the command went")
    else:
        say(f"still running after {seconds:g} s, so the virtual machine was ended (see --timeout)")
    console = scratch / "console.log"
    lines = console.read_text(errors="replace").splitlines() if console.is_file() else []
    say(f"the last {min(len(lines), _CONSOLE_LINES)} lines of its kernel's console:")
    for line in lines[-_CONSOLE_LINES:]:
        print(f"  | {line}", file=sys.stderr)
    return NO_VERDICT if finished else TIMED_OUT


def say(text: str) -> None:
    """Print one line for the person who watches; standard output belongs to the command."""
    print(f"test-vm: {text}", file=sys.stderr, flush=True)


def _on_terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)  # the way out that ends the virtual machine


def run_command(options: argparse.Namespace, command: list[str]) -> int:
    """Run ``command`` in a fresh virtual machine; return the exit status for this process."""
    if platform.machine() != "x86_64":
        raise LaneError(f"the lane runs this machine's own programs on x86_64; this is {platform.machine()}")
    if shutil.which(QEMU) is None:
        raise LaneError(f"{QEMU} is not installed; scripts/setup --vm installs it (qemu-system-x86)")
    if any(character.isspace() or character == "," for character in str(CHECKOUT)):
        raise LaneError(f"qemu's options cannot carry a path with a space or a comma: {CHECKOUT}")
    cache = CHECKOUT / "var" / "vm"
    kernel = ensure_kernel(cache, refresh=options.refresh_kernel)
    with tempfile.TemporaryDirectory(dir=cache, prefix="run-") as name:
        scratch = Path(name)
        (scratch / "exchange").mkdir()
        (scratch / "exchange" / "command").write_text(command_file(command, options.slowness))
        (scratch / "initramfs").write_bytes(build_initramfs(kernel, Path(__file__).with_name("init")))
        say(f"booting Linux {kernel.release} under emulation for: {shlex.join(command)}")
        started = time.monotonic()
        finished = run_machine(qemu_arguments(kernel, scratch, options.memory), options.timeout)
        status = verdict(scratch, finished=finished, seconds=options.timeout)
        if options.console:
            shutil.copyfile(scratch / "console.log", options.console)
        say(f"exit status {status} after {time.monotonic() - started:.0f} s")
        return status


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return the options and the command to run inside."""
    parser = argparse.ArgumentParser(
        prog="test-vm",
        description="Boot Debian's stock kernel in a virtual machine on this machine's own files (read-only,"
        " no network) and run the tests marked 'vm' there, or another command.",
        usage="test-vm [options] [PYTEST ARGUMENT ...] | test-vm [options] -- COMMAND [ARGUMENT ...]",
    )
    parser.add_argument(
        "--timeout", type=float, default=900, metavar="S", help="give up after S seconds (%(default)s)"
    )
    parser.add_argument("--memory", default="2G", help="memory of the virtual machine (%(default)s)")
    parser.add_argument(
        "--slowness",
        type=float,
        default=SLOWNESS,
        metavar="F",
        help="SPIND_TEST_SLOW inside: tests multiply deadlines by it (%(default)s)",
    )
    parser.add_argument(
        "--refresh-kernel", action="store_true", help="fetch Debian's current kernel even if one is cached"
    )
    parser.add_argument("--console", metavar="FILE", help="keep the kernel's console output in FILE")
    arguments = sys.argv[1:]
    command: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, command = arguments[:split], arguments[split + 1 :]
        if not command:
            parser.error("no command after --")
        return parser.parse_args(arguments), command
    options, for_pytest = parser.parse_known_args(arguments)
    return options, default_command(for_pytest)


def main() -> int:
    """Run the lane; return the exit status."""
    signal.signal(signal.SIGTERM, _on_terminate)
    options, command = parse_arguments()
    try:
        return run_command(options, command)
    except LaneError as error:
        say(str(error))
        return NO_VERDICT
    except KeyboardInterrupt as reason:
        say(f"interrupted by {str(reason) or 'SIGINT'}; the virtual machine was ended")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
