# SPDX-License-Identifier: GPL-2.0-or-later
"""Text that others chose, made harmless. Pure."""

import unicodedata

NAME_LENGTH = 64
"""Characters of a name that people give."""

_REFUSED = {
    "Cc": "control characters",
    "Cf": "invisible formatting characters",
    "Cs": "lone surrogates",
    "Zl": "line separators",
    "Zp": "paragraph separators",
    "Co": "private-use characters",
    "Cn": "unassigned characters",
}


def clean_name(text: str) -> str:
    """A name that people gave, with surrounding white space removed.

    ``ValueError`` says what is wrong: too long, or characters that do not show or that change how
    others show (Unicode categories C and Zl, Zp; bidirectional overrides are among them).
    """
    name = text.strip()
    if len(name) > NAME_LENGTH:
        raise ValueError(f"longer than {NAME_LENGTH} characters")
    for character in name:
        reason = _REFUSED.get(unicodedata.category(character))
        if reason is not None and character != "\u200d":  # joins emoji
            raise ValueError(f"contains {reason}")
    return name
