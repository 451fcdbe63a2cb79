# SPDX-License-Identifier: GPL-2.0-or-later
"""Packs the first stage of the virtual machine: busybox, modules that reach the shared root, an init script.

Owns the archive's format (a "newc" cpio: the kernel's driver-api/early-userspace/buffer-format.rst) and the
list of modules. What the init script does is in ``init``; nothing here starts anything.
"""

from __future__ import annotations

import lzma
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from kernel import LaneError, run_tool

if TYPE_CHECKING:
    from kernel import Kernel

# Everything else is loaded later, on demand, as on a real machine: what does not load on demand must show.
BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")

_FOLDERS = ("bin", "dev", "lower", "modules", "new", "proc", "sys", "upper")


class _Cpio:
    """Collects entries of a newc archive; ``finish`` returns it."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._inode = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self._out += b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (path, data):
            self._out += part
            self._out += bytes(-len(self._out) % 4)

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self._out)


def _module_files(kernel: Kernel) -> list[Path]:
    """Return the files of the boot modules and of what they need, in an order in which they load."""
    files: list[Path] = []
    for module in BOOT_MODULES:
        shown = run_tool(
            ["modprobe", "-d", str(kernel.root), "-S", kernel.release, "--show-depends", module],
        )
        for line in shown.splitlines():
            action, _, rest = line.strip().partition(" ")
            if action == "insmod" and (path := Path(rest.split()[0])) not in files:
                files.append(path)  # the other action is "builtin": nothing to load
    return files


def _module_code(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".ko":
        return data
    raise LaneError(f"{path.name}: kernel modules in this packing are not understood")


def build_initramfs(kernel: Kernel, init: Path) -> bytes:
    """Return the uncompressed archive with ``init`` as its init script."""
    cpio = _Cpio()
    for folder in _FOLDERS:
        cpio.add(folder, stat.S_IFDIR | 0o755)
    cpio.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    cpio.add("bin/busybox", stat.S_IFREG | 0o755, kernel.busybox.read_bytes())
    cpio.add("init", stat.S_IFREG | 0o755, init.read_bytes())
    order = []
    for path in _module_files(kernel):
        order.append(path.name.split(".")[0] + ".ko")
        cpio.add(f"modules/{order[-1]}", stat.S_IFREG | 0o644, _module_code(path))
    cpio.add("modules/order", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in order).encode())
    return cpio.finish()
