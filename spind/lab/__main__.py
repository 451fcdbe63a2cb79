# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m spind.lab``: as ``spind lab``."""

import sys

from spind.lab.cli import main

sys.exit(main())
