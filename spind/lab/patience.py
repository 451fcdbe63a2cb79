# SPDX-License-Identifier: GPL-2.0-or-later
"""How patient the lab is: deadlines are stretched on machines that are known to be slow.

``SPIND_TEST_SLOW`` in the environment is the factor; an emulated processor is some 20 times
slower than a real one. Only limits grow: nothing waits longer than what it waits for.
"""

import os


def patient(seconds: float) -> float:
    """``seconds``, multiplied by the factor (at least 1; 1 where it is not set or not a number)."""
    try:
        factor = float(os.environ.get("SPIND_TEST_SLOW", "1"))
    except ValueError:
        factor = 1.0
    return seconds * max(1.0, factor)
