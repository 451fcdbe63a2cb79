# SPDX-License-Identifier: GPL-2.0-or-later
"""spind: a home gateway daemon that shows and controls what devices do on the network."""

__version__ = "2.0.0a1"
