# SPDX-License-Identifier: GPL-2.0-or-later
"""The one exception type that parsers raise."""


class WireError(ValueError):
    """Input that no correct sender produces: wrong lengths, impossible values, loops."""
