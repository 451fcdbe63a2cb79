# SPDX-License-Identifier: GPL-2.0-or-later
"""The one exception that the lab raises on purpose."""


class LabError(Exception):
    """The lab could not do what was asked; the sentence says what and names the command or file."""
