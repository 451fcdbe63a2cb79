# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation and the shipped file say what the table of options says.

Both files are made from the table: run this file with Python to write them anew.
"""

import re
import textwrap
from pathlib import Path

import pytest

from spind.config import OPTIONS, Config, load
from spind.config_options import OBSOLETE, SECTIONS
from spind.profiles import BUILTIN
from spind.rules import to_options
from spind.uci import parse, quote

ROOT = Path(__file__).parent.parent.parent
SHIPPED = ROOT / "openwrt" / "files" / "spin.uci"
DOCUMENT = ROOT / "docs" / "configuration.md"

ACTIVE = {"enabled", "mode", "lan"}
"""Options that the shipped file sets; the others stand there as comments with their defaults, so
that an update can bring better ones."""

EXAMPLES = {
    ("site", "name"): "Weather",
    ("profile", "name"): "Children",
    "mac": "02:00:00:00:00:01",
    "device": "02:00:00:00:00:01",
    "name": "Printer",
    "profile": "children",
    "ignore": "1",
    "domain": "example.org",
    "node": "example.org",
    "ip": "192.0.2.1",
    "port": "443",
    "protocol": "tcp",
    "action": "block",
    "until": "1893456000",
    "schedule": "mon-fri 20:00-07:00, sat,sun 22:00-08:00",
    "comment": "no screens at night",
    "author": "owner",
    "created": "1767225600",
    "description": "What children may reach",
    "default": "block",
    "allow_domain": "example.org",
    "block_domain": "example.net",
    "allow_ip": "192.0.2.0/24",
    "block_ip": "2001:db8::/32",
}

ABOUT_SECTIONS = {
    "device": "What people decided about a device. The daemon writes these itself when somebody names or "
    "ignores a device in one of its interfaces.",
    "site": "The same for a remote party, by its domain or its address.",
    "rule": "What is blocked or allowed: for a device or all of them, everything or what the rule names. A "
    "section called rule<number> is the rule with that id. A rule with an option that is wrong is left "
    "out, or stays as it was while the daemon knows that.",
    "profile": "What a device may reach: a set of allowed or blocked parties, and what holds for all others. "
    "The word home stands for the home's own addresses, internet for all that are not private. Shipped "
    f"profiles are {', '.join(list(BUILTIN)[:-1])} and {list(BUILTIN)[-1]}; a section of such a name "
    "replaces one.",
}

SECTION_NAMES = {"profile": " 'children'"}
"""Sections whose names matter, in the shipped file."""

INSTEAD = {("rule", "node"), ("rule", "ip"), ("site", "ip")}
"""Options that can only stand in another one's place."""

ABOUT_RULES = """\

### Which rule decides

Of all rules that match a packet, the one that comes first by these criteria, in this order, decides:

1. author: owner; provider; detector; profile;
2. device and *what* (any of node, domain, ip, port, protocol): both; a device alone, allowed; what alone;
   a device alone, blocked;
3. form: party (node, domain or ip) and port; party and protocol; party; port; protocol;
4. party: names, and of these the one with more labels; addresses, and of these the longer prefix. A node
   that is a device counts as a single address;
5. action: allow; block.

So what is more specific wins, and at equal specificity allow wins; a rule for one device is as specific
as a rule for one party, so that between these two allow wins. What the owner decides holds against the
provider, whatever either says. Where no rule matches, traffic passes.

At most one of node, domain and ip can be set; port goes with protocol tcp, udp or none. A rule without
device, node, domain, ip, port and protocol is refused, as are domains of one label and public suffixes
such as com or co.uk, and prefixes of length 0.

### Schedules

Entries apart by commas, each made of days and times: `mon-fri 22:00-06:30, sat,sun 23:00-08:00`. Days
are `mon` to `sun` (or whole names), ranges of them, or `daily`, which also holds where there are none at the
beginning. Times that end before they begin go over midnight and belong to the day on which they begin;
`24:00` is the end of the day. Times are those of the clock on the wall, whatever its changes.
"""

ABOUT_PROFILES = """\

### Shipped profiles

| profile | what people read | meaning |
|---|---|---|
"""

FILE_HEAD = """\
# Configuration of spind. What each option means and which values it takes stands above it.
# Options with a # before them have the value that is shown, as if they were not there.
# Check what is in force with: spind status. After a change: /etc/init.d/spin reload
"""

DOCUMENT_HEAD = """\
# Configuration

<!-- Made from the table of options in spind/config_options.py by tests/unit/test_config_docs.py. -->

The daemon reads one file in UCI syntax, `/etc/config/spin` (`spind run -c FILE` for another one). On
OpenWrt it can be changed with `uci` as well as with an editor:

    uci set spin.spind.pubsub_host='192.168.1.10'
    uci commit spin
    /etc/init.d/spin reload

`uci commit` writes the whole file anew and drops its comments; the daemon, when it keeps a name or an
ignored address, changes only the lines that it must and keeps all others as they are.

A value that is not allowed is named in the log, with its line and with what is allowed; what was in
force before (at start: the default) stays in force, and the rest of the file applies. An unknown option
is named and ignored. A file that is no UCI at all is refused as a whole, and the daemon goes on with the
last good one.

For 0 and 1, the words no and yes, off and on, false and true, disabled and enabled do as well. A list is
written as one `list` line for each entry, or as one `option` with commas or spaces between them.

Everything below stands in section `config spind 'spind'`, unless another section is named.
"""


def _defaults(option):
    """Texts of an option's default, one for each entry of a list."""
    values = option.default if option.kind.most else [option.default]
    return [option.kind.show(value) for value in values] or [""]


def markdown():
    parts = [DOCUMENT_HEAD]
    for group in dict.fromkeys(option.group for option in OPTIONS.values()):
        parts.append(f"\n## {group}\n\n| option | default | allowed | meaning |\n|---|---|---|---|\n")
        for option in OPTIONS.values():
            if option.group == group:
                default = " ".join(f"`{text}`" for text in _defaults(option) if text)
                kind = "list: " if option.kind.most else ""
                parts.append(
                    f"| `{option.name}` | {default} | {kind}{option.kind.allowed} | {option.doc} |\n"
                )
    for section, options in SECTIONS.items():
        parts.append(f"\n## Sections `config {section}`\n\n{ABOUT_SECTIONS[section]}\n")
        parts.append("\n| option | meaning |\n|---|---|\n")
        parts += [f"| `{name}` | {doc} |\n" for name, doc in options.items()]
        if section == "rule":
            parts.append(ABOUT_RULES)
        elif section == "profile":
            parts.append(ABOUT_PROFILES)
            parts += [f"| `{p.name}` | {p.title} | {p.description} |\n" for p in BUILTIN.values()]
    parts.append("\n## Options of SPIN 1.0 that are ignored\n\n| option | why |\n|---|---|\n")
    parts += [f"| `{name}` | {why} |\n" for name, why in OBSOLETE.items()]
    return "".join(parts)


def shipped():
    parts = [FILE_HEAD, "\nconfig spind 'spind'\n"]
    group = ""
    for option in OPTIONS.values():
        if option.group != group:
            group = option.group
            parts.append(f"\n\t# --- {group} ---\n")
        parts.append("\n" + _comment(f"{option.doc} Allowed: {option.kind.allowed}.", "\t# "))
        mark = "" if option.name in ACTIVE else "#"
        word = "list" if option.kind.most else "option"
        parts += [f"\t{mark}{word} {option.name} {quote(text)}\n" for text in _defaults(option)]
    for section, options in SECTIONS.items():
        parts.append(
            "\n\n"
            + _comment(ABOUT_SECTIONS[section], "# ")
            + f"\n#config {section}{SECTION_NAMES.get(section, '')}\n"
        )
        for name, doc in options.items():
            word = "list" if doc.startswith("List of") else "option"
            mark = "# or: " if (section, name) in INSTEAD else "#"
            example = quote(EXAMPLES.get((section, name), EXAMPLES[name]))
            parts.append(f"\t# {doc}\n\t{mark}{word} {name} {example}\n")
    return "".join(parts)


def _comment(text, prefix):
    lines = textwrap.wrap(text, 96, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{prefix}{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("path", "made"), [(SHIPPED, shipped), (DOCUMENT, markdown)], ids=["shipped", "document"]
)
def test_file_agrees_with_the_table(path, made):
    assert path.read_text() == made()


def test_shipped_file_is_the_defaults():
    config, problems = load(SHIPPED.read_text())
    assert problems == []
    assert config == Config()


def test_shipped_file_explains_every_option_where_it_stands():
    lines = SHIPPED.read_text().splitlines()
    for name in OPTIONS:
        at = next(i for i, line in enumerate(lines) if re.fullmatch(rf"\t#?(option|list) {name} '.*'", line))
        assert lines[at - 1].startswith("\t# ")


def test_shipped_file_with_every_comment_taken_off_is_good_too():
    text = re.sub(r"^(\t?)#(?=config |option |list )", r"\1", SHIPPED.read_text(), flags=re.MULTILINE)
    config, problems = load(text)
    assert problems == []
    assert config.limits == Config().limits
    shown = {name for name, option in OPTIONS.items() if option.kind.most or any(_defaults(option))}
    assert set(parse(text).sections[0].options) == shown
    assert [device.name for device in config.devices] == ["Printer"]
    assert [site.key for site in config.sites] == ["example.org"]
    assert config.devices[0].profile == "children"
    (rule,) = config.rules
    assert to_options(rule) == {
        name: EXAMPLES[name] for name in SECTIONS["rule"] if ("rule", name) not in INSTEAD
    }
    (profile,) = config.profiles
    assert (profile.name, profile.title, profile.default) == ("children", "Children", "block")
    assert (profile.allow_domain, profile.block_ip) == (("example.org",), ("2001:db8::/32",))


if __name__ == "__main__":
    SHIPPED.write_text(shipped())
    DOCUMENT.write_text(markdown())
