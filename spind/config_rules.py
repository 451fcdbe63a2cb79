# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the sections ``config rule`` into typed rules with ids. Pure.

Owns which id a section's rule has, and what becomes of a rule with an option that is wrong: it must
never become wider than it was meant to be. What a rule may say is ``rules``'s.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

from spind.rule_fields import LATEST, FieldError, parse_number, parse_text, text_of
from spind.rules import FIELDS, Rule, parse_rule
from spind.uci import Section

Report = Callable[[Section, str, str, str, str], None]
"""Told of each value that is not in force: section, option, value, what is allowed, what is in force."""

_OF_RULES = re.compile("rule([1-9][0-9]{0,8})")
_OPTIONS = (*FIELDS, "author", "created")


def highest_rule_id(sections: Iterable[Section]) -> int:
    """The highest number of a section called ``rule<number>``, of whatever type and content; 0: none."""
    return max((_own_id(section) for section in sections), default=0)


def _own_id(section: Section) -> int:
    found = None if section.anonymous else _OF_RULES.fullmatch(section.name)
    return int(found[1]) if found else 0


def load_rules(
    sections: Sequence[Section], highest: int, previous: Sequence[Rule], limit: int, report: Report
) -> tuple[Rule, ...]:
    """The rules of sections of type ``rule``, in the order of the file.

    A section called ``rule<number>`` gives its id. Others get the id that they had in ``previous``, or
    one above ``highest`` and all others. A rule with a wrong or unknown option is left out as a whole,
    unless ``previous`` has one of the same named section, which then stays. Rules after the first
    ``limit`` are left out.
    """
    before = {rule.section or f"rule{rule.id}": rule for rule in previous}
    used = {own for section in sections if (own := _own_id(section))}
    after = max(highest, max((rule.id for rule in previous), default=0))
    rules: list[Rule] = []
    for section in sections:
        known = before.get(section.name)
        own = number = _own_id(section)
        if not own:
            number = known.id if known is not None else 0
            if not number or number in used:
                after = number = after + 1
            used.add(number)
        if len(rules) >= limit:
            allowed = f"up to {limit} rules (limit_rules)"
            report(section, "", section.name, allowed, "the rule is left out")
            continue
        kept = None if section.anonymous else known
        rule = _rule(section, number, report, kept)
        if rule is not None:
            rules.append(rule._replace(id=number, section="" if own else section.name))
    return tuple(rules)


def _rule(section: Section, number: int, report: Report, kept: Rule | None) -> Rule | None:
    in_force = "the rule is left out" if kept is None else "the rule as it was stays in force"
    texts = {}
    for name, value in section.options.items():
        if name not in _OPTIONS:
            close = get_close_matches(name[:64], _OPTIONS, n=1)
            meant = f"no option of that name; is {close[0]} meant?" if close else "no option of that name"
            report(section, name, str(value), meant, in_force)
            return kept
        if isinstance(value, list) and len(value) != 1:
            report(section, name, " ".join(value), "one value, not a list", in_force)
            return kept
        texts[name] = value[0] if isinstance(value, list) else value
    author = texts.pop("author", "") or "owner"
    created = _created(section, texts.pop("created", ""), report)
    try:
        parse_text("comment", text_of("comment", texts.get("comment")))
    except FieldError as error:  # what a rule does does not depend on it
        report(section, "comment", error.value, error.allowed, "the comment is left out")
        del texts["comment"]
    try:
        return parse_rule(texts, id=number, author=author, created=created)
    except FieldError as error:
        report(section, error.field, error.value, error.allowed, in_force)
        return kept


def _created(section: Section, text: str, report: Report) -> int:
    try:
        return parse_number("created", text_of("created", text) or "0", 0, LATEST)
    except FieldError as error:
        report(section, "created", text, error.allowed, "nothing is set instead")
        return 0
