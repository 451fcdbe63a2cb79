# SPDX-License-Identifier: GPL-2.0-or-later
"""Every parser of input that others write, and what it may answer.

The targets are in the files ``fuzz_targets_*.py`` beside this one, each of which has a dict
``TARGETS``; another file there adds others.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple


class Target(NamedTuple):
    """A parser, ready to be called.

    ``parse`` returns ``None`` for "incomplete", anything else for "understood", or raises one of
    ``refusals``. Any other exception, or an answer that ``check`` does not accept (it is called
    with the input and the answer), is a bug. ``seeds`` are valid inputs, ``tokens`` what matters
    in the format.
    """

    parse: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes] = ()
    check: Callable[[bytes, Any], None] | None = None


@cache
def _registry() -> dict[str, Target]:
    registry: dict[str, Target] = {}
    for path in sorted(Path(__file__).parent.glob("fuzz_targets_*.py")):
        registry |= import_module(path.stem).TARGETS
    return registry


def names() -> list[str]:
    """Names of all targets."""
    return list(_registry())


def load(name: str) -> Target:
    """The target called ``name``; ``KeyError`` where there is none."""
    return _registry()[name]


def is_inert(text: str) -> bool:
    """Whether ``text`` is printable ASCII without spaces, as names from the network have to be."""
    return text.isascii() and text.isprintable() and " " not in text
