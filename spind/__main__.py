# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m spind`` is ``spind``."""

import sys

from spind.cli import main

if __name__ == "__main__":
    sys.exit(main())
