# SPDX-License-Identifier: GPL-2.0-or-later
"""Imports of libraries without what they would like to have and can do without.

Memory on a router is dear: where such an optional module happens to be installed, it would come along.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Make imports of these modules fail meanwhile, unless they have been imported already."""
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))  # None makes an import fail, as the import system defines
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]
