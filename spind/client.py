# SPDX-License-Identifier: GPL-2.0-or-later
"""A blocking JSON-RPC client on the daemon's Unix socket, for the command line.

Owns the connection and what can go wrong with it, in sentences that say what to do. It must
not know any method, and is not for use inside the daemon: it blocks.
"""

import json
import socket
from types import TracebackType
from typing import Any, Self

DEFAULT_SOCKET = "/var/run/spin_rpc.sock"
MAX_REPLY = 512 * 1024  # bytes; twice the daemon's own bound


class ClientError(Exception):
    """The daemon was not asked, or did not answer; the sentence says why."""


class CallError(Exception):
    """The daemon refused the call: JSON-RPC ``code``, and its sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """A connection to the daemon at ``path``, opened at once; use it with ``with``.

    ``timeout`` in seconds is for each step: connecting, and waiting for more of a reply.
    """

    def __init__(self, path: str = DEFAULT_SOCKET, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout
        self._buffer = b""
        self._ident = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
        except (OSError, ValueError) as error:
            self._socket.close()
            raise ClientError(self._cannot_connect(error)) from error

    def _cannot_connect(self, error: Exception) -> str:
        path = self._path
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return f"spind does not run: nothing answers on {path} (start it with: spind run)"
        if isinstance(error, PermissionError):
            return f"no permission for {path}: try as root"
        if isinstance(error, TimeoutError | BlockingIOError):
            return f"spind is busy: {path} does not accept a connection"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"cannot connect to {path}: {reason}"

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """The result of ``method``; ``CallError`` where it is refused, else ``ClientError``."""
        self._ident += 1
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": self._ident, "method": method}
        if params:
            request["params"] = params
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._read_line()
        except TimeoutError as error:
            raise ClientError(f"spind did not answer within {self._timeout:g} seconds") from error
        except OSError as error:
            raise ClientError(f"lost the connection to spind: {error.strerror or error}") from error
        return self._result(line)

    def _read_line(self) -> bytes:
        while b"\n" not in self._buffer:
            data = self._socket.recv(65536)
            if not data:
                raise ClientError("spind closed the connection without an answer")
            self._buffer += data
            if len(self._buffer) > MAX_REPLY:
                raise ClientError(f"the answer has more than {MAX_REPLY} bytes")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _result(self, line: bytes) -> Any:
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise ClientError(f"what answers on {self._path} is not spind: {error}") from error
        if not isinstance(reply, dict):
            raise ClientError(f"what answers on {self._path} is not spind")
        refusal = reply.get("error")
        if isinstance(refusal, dict):
            raise CallError(int(refusal.get("code", -1)), str(refusal.get("message", "")))
        if reply.get("id") != self._ident:
            raise ClientError(f"what answers on {self._path} is not spind")
        return reply.get("result")

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()
