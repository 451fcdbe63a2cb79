# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m bench``."""

import sys

from bench.cli import main

sys.exit(main())
