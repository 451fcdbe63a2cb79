# SPDX-License-Identifier: GPL-2.0-or-later
"""Socket options whose buffer the kernel reads before it writes: iptables and ipset ask that way."""

import ctypes
import os
import socket

_LIBC = ctypes.CDLL(None, use_errno=True)


def get_option(sock: socket.socket, level: int, option: int, buffer: bytearray) -> int:
    """Call getsockopt(2) with a buffer that the kernel reads as well; bytes that it then holds.

    Python's own method passes an empty one.
    """
    size = ctypes.c_uint32(len(buffer))
    memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    if _LIBC.getsockopt(sock.fileno(), level, option, memory, ctypes.byref(size)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return size.value
