# SPDX-License-Identifier: GPL-2.0-or-later
"""What opkg is told about the package: control fields, configuration files, scripts.

Owns the list of what spind needs on OpenWrt. ``openwrt/spind/Makefile`` says the same to the SDK;
``tests/unit/test_openwrt_feed.py`` compares them, and sees that the parts of Python are those that are
really imported.
"""

import re
from typing import NamedTuple

RELEASE = 1
"""Of the package, where the version of spind stays the same."""

CONFFILES = ("/etc/config/spin",)

_NEEDED = (
    "python3-light",
    "python3-asyncio",
    "python3-codecs",
    "python3-ctypes",
    "python3-logging",
    "python3-openssl",
    "python3-urllib",
    "python3-netfilterqueue",
    "python3-paho-mqtt (>= 2.1.0)",
    "python3-publicsuffixlist",
    "python3-tornado (>= 6.5)",
    "kmod-nf-conntrack-netlink",
    "kmod-nfnetlink-log",
)
_NFTABLES = ("kmod-nft-bridge", "kmod-nft-queue", "nftables-json")
_IPTABLES = (
    "python3-iptables",
    "iptables-mod-conntrack-extra",
    "iptables-mod-ipopt",
    "iptables-mod-nfqueue",
    "kmod-ip6tables",
    "kmod-ipt-conntrack-extra",
    "kmod-ipt-ipopt",
    "kmod-ipt-ipset",
    "kmod-ipt-nflog",
    "kmod-ipt-nfqueue",
)


class Variant(NamedTuple):
    """One of the packages that hold the same files."""

    name: str
    depends: tuple[str, ...]
    conflicts: tuple[str, ...]
    provides: tuple[str, ...]
    description: str


_DESCRIPTION = "Shows and controls what the devices in a home do on the network"

VARIANTS = (
    Variant("spind", (*_NEEDED, *_NFTABLES), ("spind-iptables",), (), f"{_DESCRIPTION}."),
    Variant(
        "spind-iptables",
        (*_NEEDED, *_IPTABLES),
        (),
        ("spind",),
        f"{_DESCRIPTION}. For routers whose firewall is iptables.",
    ),
)

# What OpenWrt's build gives every package: they enable, start, stop and disable the service.
_POSTINST = """\
#!/bin/sh
[ "${IPKG_NO_SCRIPT}" = "1" ] && exit 0
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_postinst $0 $@
"""
_PRERM = """\
#!/bin/sh
[ -s ${IPKG_INSTROOT}/lib/functions.sh ] || exit 0
. ${IPKG_INSTROOT}/lib/functions.sh
default_prerm $0 $@
"""
# Read by default_prerm. Nobody would be there to take back what is blocked. In an upgrade the rules stay.
_PRERM_PKG = """\
#!/bin/sh
[ -n "${IPKG_INSTROOT}" ] || [ "${PKG_UPGRADE}" = "1" ] || /etc/init.d/spin purge
true
"""

_PRE_RELEASE = re.compile(r"(?<=\d)(a|b|rc|\.dev)(?=\d)")


def package_version(version: str) -> str:
    """The version as opkg orders it: a pre-release before the release (``2.0.0~a1-r1``)."""
    return f"{_PRE_RELEASE.sub(lambda found: '~' + found[1].strip('.'), version)}-r{RELEASE}"


def control_files(
    variant: Variant, version: str, python: str, installed_size: int, epoch: int
) -> dict[str, tuple[str, int]]:
    """Files of ``control.tar.gz`` with their modes. ``python`` is such as ``3.11``, sizes are in bytes.

    The byte-code is for that Python alone, so the package depends on its library, whose name says so.
    """
    fields = {
        "Package": variant.name,
        "Version": package_version(version),
        "Depends": ", ".join((f"libpython3-{python}", *variant.depends)),
        "Conflicts": ", ".join(variant.conflicts),
        "Provides": ", ".join(variant.provides),
        "Source": "openwrt/spind",
        "SourceName": "spind",
        "License": "GPL-2.0-or-later",
        "LicenseFiles": "LICENSE",
        "Section": "net",
        "SourceDateEpoch": str(epoch),
        "Architecture": "all",
        "Installed-Size": str(installed_size),
        "Description": variant.description,
    }
    control = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    return {
        "conffiles": ("".join(f"{path}\n" for path in CONFFILES), 0o644),
        "control": (control, 0o644),
        "postinst": (_POSTINST, 0o755),
        "prerm": (_PRERM, 0o755),
        "prerm-pkg": (_PRERM_PKG, 0o755),
    }
