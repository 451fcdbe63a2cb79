# SPDX-License-Identifier: GPL-2.0-or-later
"""The subcommands about rules: block, allow, unblock, rules.

Owns their arguments and how words become calls of methods. What words mean is ``cli_words``'s.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from spind.cli_calls import CommandError, Json, nodes, pages, say, say_json
from spind.cli_text import columns
from spind.cli_words import Party, WordError, find, parse_duration, parse_moment
from spind.client import Client

_WORDS = """
WHAT and PARTY are names as people use them: a device by its name, the name it gives itself, its MAC or
one of its addresses; a party by its name, a domain (with all names below it), an address or a prefix.
A device alone is kept from everything; a party alone is kept from all devices."""

_SHOWN = 5


def decide_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``block`` and ``allow``."""
    select_arguments(parser)
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--for", dest="duration", metavar="TIME", type=_duration, help="how long: 15m, 1h30m, 2d"
    )
    ends.add_argument(
        "--until", metavar="WHEN", type=_until, help="18:00, 2030-01-31 or '2030-01-31 18:00', local time"
    )
    parser.add_argument(
        "--schedule", metavar="TIMES", default="", help="times of the week, such as 'mon-fri 22:00-06:30'"
    )
    parser.add_argument("--comment", metavar="TEXT", default="", help="why, at most 200 characters")


def select_arguments(parser: argparse.ArgumentParser) -> None:
    """What a rule is about."""
    parser.description = f"{parser.description}\n{_WORDS}"
    parser.add_argument("what", metavar="WHAT", nargs="?", default="", help="a device or a party")
    parser.add_argument(
        "--from",
        "--to",
        dest="party",
        metavar="PARTY",
        default="",
        help="whom the device WHAT may not, or may, reach; everybody if left out",
    )
    parser.add_argument(
        "--everyone", action="store_true", help="for all devices: WHAT is whom they may, or may not, reach"
    )
    parser.add_argument("--port", metavar="N", type=_port, default=0, help="only this port of the party")
    parser.add_argument("--protocol", metavar="P", default="", help="only tcp, udp, icmp, …")


def rules_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``rules``."""
    parser.add_argument("--remove", metavar="ID", type=int, nargs="+", help="take these rules back")
    parser.add_argument("--json", action="store_true", help="print them as JSON on one line")


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except WordError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _until(text: str) -> datetime:
    try:
        return parse_moment(text, datetime.now())  # noqa: DTZ005 - people mean their own time
    except WordError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def decide(action: str) -> Callable[[argparse.Namespace, Client], int]:
    """``spind block`` or ``spind allow``."""

    def act(options: argparse.Namespace, client: Client) -> int:
        fields = _fields(*_select(options, client))
        if options.duration is not None:
            fields["until"] = int(time.time() + options.duration.total_seconds())
        elif options.until is not None:
            fields["until"] = int(options.until.timestamp())
        for name in ("port", "protocol", "schedule", "comment"):
            if getattr(options, name):
                fields[name] = getattr(options, name)
        rule = client.call("add_rule", {**fields, "action": action})["id"]
        say([f"rule {rule}: {_told(client, rule)}"])
        return 0

    return act


def _told(client: Client, rule: int) -> str:
    """The rule in a sentence: the audit list has it at its beginning, the list of rules at its end."""
    for entry in client.call("list_audit", {"limit": 10})["items"]:
        if any(after.get("rule") == rule for after in entry["after"]):
            return str(entry["text"]).removeprefix("rule made: ")
    return "made"


def unblock(options: argparse.Namespace, client: Client) -> int:
    """``spind unblock``."""
    device, party = _select(options, client)
    rules = [rule for rule in pages(client, "list_rules") if rule["action"] == "block"]
    service = (options.port, options.protocol.lower())
    found = [
        rule
        for rule in rules
        if _same(rule, device, party) and (rule.get("port", 0), rule.get("protocol", "")) == service
    ]
    if not found:
        raise WordError(_nothing_blocks(client, device, party, rules))
    for rule in found:
        client.call("remove_rule", {"id": rule["id"]})
    say(f"no longer: {rule['text']}" for rule in found)
    return 0


def _nothing_blocks(client: Client, device: Party | None, party: Party | None, rules: Iterable[Json]) -> str:
    """What to say where no rule is the one that was meant."""
    what = " and ".join(one.label for one in (device, party) if one is not None)
    sentence = f"no rule blocks just that{f' ({what})' if what else ''}"
    near = [
        f"{rule['id']}: {rule['text']}"
        for rule in rules
        if (device is not None and rule.get("device") == device.device)
        or (party is not None and _is_party(rule, party))
    ]
    if near:
        sentence += f". There is {'; '.join(near[:_SHOWN])}. 'spind rules --remove ID' takes one back"
    if device is not None:
        holder = next((node for node in nodes(client, kind="device") if node["mac"] == device.device), {})
        if holder.get("profile"):
            sentence += f". It has the profile {holder['profile']!r}, which may block it: see 'spind profile'"
    return sentence


def list_rules(options: argparse.Namespace, client: Client) -> int:
    """``spind rules``."""
    rules = list(pages(client, "list_rules"))
    if options.remove:
        texts = {rule["id"]: rule["text"] for rule in rules}
        for ident in options.remove:
            client.call("remove_rule", {"id": ident})
            say([f"no longer: {texts.get(ident, f'rule {ident}')}"])
        return 0
    if options.json:
        say_json(rules)
    elif not rules:
        say(["no rules: nothing is blocked but by profiles ('spind profile')"])
    else:
        say(columns(("ID", "HOLDS", "BY", "RULE"), list(_rows(rules))))
    return 0


def _rows(rules: Iterable[Json]) -> Iterator[tuple[str, ...]]:
    for rule in rules:
        comment = f" ({rule['comment']})" if rule.get("comment") else ""
        yield str(rule["id"]), "now" if rule["active"] else "later", rule["author"], rule["text"] + comment


# -- from words to rules -----------------------------------------------------------------


def _select(options: argparse.Namespace, client: Client) -> tuple[Party | None, Party | None]:
    """(device, party) that a rule is about; ``None`` for all devices, or for everybody."""
    if options.everyone and options.party:
        raise CommandError("--everyone goes without --from: WHAT is whom they may not reach", 2)
    if not options.what:
        if not options.everyone or not (options.port or options.protocol):
            raise CommandError("name a device or party; or give --everyone with --port or --protocol", 2)
        return None, None
    known = list(nodes(client))
    if options.everyone:
        return None, find(options.what, known)
    if options.party:
        return find(options.what, known, others=False), find(options.party, known)
    party = find(options.what, known)
    return (party, None) if party.device else (None, party)


def _fields(device: Party | None, party: Party | None) -> Json:
    """The arguments of ``add_rule`` for a device and a party."""
    fields: Json = {}
    if device is not None:
        fields["device"] = device.device
    if party is None:
        return fields
    if party.node:
        return {**fields, "node": party.node}
    if party.device:
        raise WordError(f"{party.label} was not seen yet, so there is nothing to keep others from")
    return {**fields, **({"domain": party.domain} if party.domain else {"ip": party.ip})}


def _same(rule: Json, device: Party | None, party: Party | None) -> bool:
    """Is the rule about this device and this party, whatever the service?"""
    if rule.get("device", "") != (device.device if device is not None else ""):
        return False
    if party is None:
        return not any(rule.get(name) for name in ("party", "domain", "ip"))
    return _is_party(rule, party)


def _is_party(rule: Json, party: Party) -> bool:
    """Is the rule about this party? A known site's rule may name its node or its domain."""
    if party.device:
        return bool(rule.get("party") == party.device)
    if party.domain:
        return party.domain in (rule.get("party"), rule.get("domain"))
    if party.ip:
        return party.ip in (rule.get("party"), rule.get("ip"))
    return bool(party.node and rule.get("node") == party.node)
