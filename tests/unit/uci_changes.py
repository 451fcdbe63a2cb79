# SPDX-License-Identifier: GPL-2.0-or-later
"""Random changes of UCI text for tests, and what they mean, said in another way than the editor's."""

import random

from spind.uci import Package, Section
from spind.uci_edit import AddSection, Change, RemoveOption, RemoveSection, SetList, SetOption

VALUES = ["x", "a b", "it's", '"q"', "é", "\udc80", "two\nlines", "#", ";", "\\", "b", "foo", " ", "q r"]


def random_changes(rng: random.Random, package: Package) -> list[Change]:
    """One to three changes that ``package`` allows, in order."""
    changes = []
    for _ in range(rng.randint(1, 3)):
        changes.append(random_change(rng, package))
        apply(package, changes[-1])
    return changes


def random_change(rng: random.Random, package: Package) -> Change:
    if not package.sections or rng.random() < 0.15:
        free = [name for name in ("", "new1", "new2") if package.named(name) is None]
        options = {"mac": rng.choice(VALUES), "l": [rng.choice(VALUES), rng.choice(VALUES)]}
        return AddSection(rng.choice(["device", "it's", "a#b"]), rng.choice(free), options)
    section = rng.choice(package.sections)
    section = package.named(section.name)
    option = rng.choice([*section.options, "mac", "name", "x", "new"])
    old = section.options.get(option)
    items = list(old) if isinstance(old, list) else [rng.choice(VALUES)]
    match rng.randrange(8):
        case 0 | 1 | 2:
            return SetOption(section.name, option, rng.choice(VALUES))
        case 3:
            return SetList(section.name, option, [rng.choice(VALUES) for _ in range(rng.randint(0, 4))])
        case 4:
            items.insert(rng.randrange(len(items) + 1), rng.choice(VALUES))
            return SetList(section.name, option, items)
        case 5:
            rng.shuffle(items)
            return SetList(section.name, option, items[1:])
        case 6:
            return RemoveOption(section.name, option)
        case _:
            return RemoveSection(section.name)


def apply(package: Package, change: Change) -> None:
    """Make the change in the parsed package; anonymous names are put right as a parser would."""
    if isinstance(change, AddSection):
        options = {k: v if isinstance(v, str) else list(v) for k, v in change.options.items()}
        package.sections.append(Section(change.type, change.name, not change.name, 0, options))
    else:
        at = next(i for i, section in enumerate(package.sections) if section.name == change.section)
        options = package.sections[at].options
        match change:
            case SetOption(_, option, value):
                options[option] = value
            case SetList(_, option, values) if values:
                options[option] = list(values)
            case SetList(_, option, _) | RemoveOption(_, option):
                options.pop(option, None)
            case _:
                del package.sections[at]
    for count, section in enumerate(package.sections, 1):
        if section.anonymous:
            digest = 5381
            for char in section.type:
                digest = digest * 33 + ord(char)
            section.name = f"cfg{count:02x}{digest % 0x10000:04x}"
