# SPDX-License-Identifier: GPL-2.0-or-later
"""What a call is: methods with typed arguments, callers with roles, errors with a sentence. Pure."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

UNKNOWN_METHOD = -32601
INVALID_ARGUMENTS = -32602
REFUSED = -1


class ApiError(Exception):
    """A call that was refused: a JSON-RPC ``code`` and a sentence for people."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class NotFoundError(ApiError):
    """What an argument names is not there."""

    def __init__(self, message: str) -> None:
        super().__init__(REFUSED, message)


class DeniedError(ApiError):
    """The caller's role does not allow it."""

    def __init__(self, message: str) -> None:
        super().__init__(REFUSED, message)


class NotInForceError(ApiError):
    """A decision is kept, and the kernel does not enforce it yet: it is tried again."""

    def __init__(self, problem: str) -> None:
        super().__init__(REFUSED, f"kept, but not in force yet: {problem}")


class UnavailableError(ApiError):
    """Nothing is wrong with the call, but it can not be done now."""

    def __init__(self, message: str) -> None:
        super().__init__(REFUSED, message)


class Caller(NamedTuple):
    """Through which interface a call came, and in what role."""

    interface: str
    role: str


class Arg(NamedTuple):
    """An argument: ``type`` is one of string, integer, boolean, array (of strings), complex (JSON object)."""

    name: str
    type: str
    doc: str
    optional: bool = False


class Method(NamedTuple):
    """One method. ``writes`` says that it needs more than the role viewer."""

    name: str
    doc: str
    args: tuple[Arg, ...]
    result: str
    writes: bool
    handler: Callable[..., object]


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool, int),
    "array": (list,),
    "complex": (dict,),
}


def check_arguments(method: Method, params: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a call, as its method declares them; ``ApiError`` says what is wrong."""
    known = {arg.name: arg for arg in method.args}
    for name in params:
        if name not in known:
            expected = ", ".join(known) or "none"
            raise ApiError(
                INVALID_ARGUMENTS, f"{method.name} has no argument {name!r:.80} (arguments: {expected})"
            )
    for arg in method.args:
        if arg.name not in params:
            if not arg.optional:
                raise ApiError(INVALID_ARGUMENTS, f"{method.name} needs the argument {arg.name} ({arg.type})")
            continue
        value = params[arg.name]
        if not isinstance(value, _TYPES[arg.type]) or (arg.type == "integer" and isinstance(value, bool)):
            raise ApiError(INVALID_ARGUMENTS, f"{arg.name} must be of type {arg.type}")
        if arg.type == "array" and not all(isinstance(item, str) for item in list(value)):  # type: ignore[call-overload]
            raise ApiError(INVALID_ARGUMENTS, f"{arg.name} must be an array of strings")
        if arg.type == "integer" and not -(2**53) < int(str(value)) < 2**53:
            raise ApiError(INVALID_ARGUMENTS, f"{arg.name} is out of range")
    return dict(params)
