# SPDX-License-Identifier: GPL-2.0-or-later
"""What spind costs and whether it counts right, measured in the home lab: ``python -m bench``."""
