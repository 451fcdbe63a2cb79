# SPDX-License-Identifier: GPL-2.0-or-later
"""From a host name to the party behind it: the registrable domain. Pure, apart from one data file.

The public suffix list comes with the ``publicsuffixlist`` package (38 ms and 4 MB to load), so it
is loaded when the first name is asked for: whoever cannot wait then asks once before.
"""

from functools import lru_cache

from publicsuffixlist import PublicSuffixList


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


@lru_cache(maxsize=4096)
def registrable_domain(name: str) -> str:
    """The registrable domain of a host name: ``a.b.example.co.uk`` -> ``example.co.uk``.

    A name that is itself a public suffix, or has one label, is its own site.
    """
    return _suffixes().privatesuffix(name) or name
