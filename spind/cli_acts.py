# SPDX-License-Identifier: GPL-2.0-or-later
"""The subcommands with which people decide: those of ``cli_rules``, names, what is hidden, profiles, undo.

Owns the table of them, their examples, and how words become calls of methods. What words mean is
``cli_words``'s. What comes from the daemon may hold names that strangers chose: all of it is printed
by ``cli_calls.say`` and ``say_json``.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import islice

from spind import cli_rules
from spind.cli import add_socket
from spind.cli_calls import CommandError, Json, daemon, nodes, pages, say, say_json
from spind.cli_text import columns
from spind.cli_words import Party, WordError, find
from spind.client import Client
from spind.text import inert

Act = Callable[[argparse.Namespace, Client], int]

_NO_PROFILE = "none"
_AUDIT_PAGE = 100


def register(name: str, parser: argparse.ArgumentParser) -> None:
    """Give the parser of subcommand ``name`` its arguments, examples and function."""
    arguments, act, examples = _TABLE[name]
    arguments(parser)
    add_socket(parser)
    parser.epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples)
    parser.set_defaults(run=_runner(name, act))


def _runner(name: str, act: Act) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        try:
            with daemon(options) as client:
                return act(options, client)
        except WordError as error:
            sys.stderr.write(f"spind {name}: {inert(str(error), 4096)}\n")
            return 1
        except CommandError as error:
            sys.stderr.write(f"spind {name}: {error}\n")
            return error.status

    return run


# -- arguments ---------------------------------------------------------------------------


def _rename_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="WHAT", help="a device or party, as it is called now")
    parser.add_argument("name", metavar="NAME", help="at most 64 characters; '' takes the name back")


def _ignore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="WHAT", help="a device, a party, an address or a prefix")


def _profile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", metavar="DEVICE", nargs="?", help="whose profile to show or to set")
    parser.add_argument(
        "profile", metavar="PROFILE", nargs="?", help="its profile from now on; 'none' takes it back"
    )
    _json_argument(parser)


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", metavar="N", type=_count, default=20, help="how many (default: 20)")
    _json_argument(parser)


def _undo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "id", metavar="ID", nargs="?", type=int, help="an entry of 'spind audit'; the latest if left out"
    )


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it as JSON on one line")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:5]) <= 1000):
        raise argparse.ArgumentTypeError("must be 1 to 1000")
    return int(text)


# -- acts --------------------------------------------------------------------------------


def _rename(options: argparse.Namespace, client: Client) -> int:
    party = find(options.what, nodes(client))
    client.call("set_device_name", {"node": _seen(party), "name": options.name})
    node = client.call("get_device_data", {"node": party.node})
    where = party.device or party.domain or ", ".join(node["ips"][:2])
    say([f"{where} is called {node['name']}" if node.get("name") else f"{where} has no name"])
    return 0


def _ignore(ignore: bool) -> Act:
    def act(options: argparse.Namespace, client: Client) -> int:
        party = find(options.what, nodes(client))
        if party.ip:
            method = "add_iplist_ip" if ignore else "remove_iplist_ip"
            client.call(method, {"list": "ignore", "ip": party.ip})
        else:
            client.call("set_ignore", {"node": _seen(party), "ignore": ignore})
        what = "is hidden; what blocks it goes on blocking it" if ignore else "is shown"
        say([f"{party.label} {what}"])
        return 0

    return act


def _seen(party: Party) -> int:
    if not party.node:
        raise WordError(f"{party.label} was not seen yet")
    return party.node


def _profile(options: argparse.Namespace, client: Client) -> int:
    if options.device is None:
        return _list_profiles(options, client)
    party = find(options.device, nodes(client), others=False)
    if options.profile is not None:
        profile = "" if options.profile == _NO_PROFILE else options.profile
        client.call("set_device_profile", {"device": party.device, "profile": profile})
    device = next((node for node in nodes(client, kind="device") if node["mac"] == party.device), None)
    if device is None:
        raise WordError(f"{party.label} was not seen yet")
    if options.json:
        say_json(device)
    else:
        say([f"{party.label} has {_named(device)}"])
    return 0


def _named(device: Json) -> str:
    return f"the profile {device['profile']}" if device.get("profile") else "no profile"


def _list_profiles(options: argparse.Namespace, client: Client) -> int:
    profiles = client.call("list_profiles")
    if options.json:
        say_json(profiles)
        return 0
    labels = {node["mac"]: node["label"] for node in nodes(client, kind="device")}
    rows = [
        (
            profile["name"],
            profile["title"],
            ", ".join(labels.get(mac, mac) for mac in profile["devices"]) or "-",
            profile["description"],
        )
        for profile in profiles
    ]
    say(columns(("PROFILE", "NAME", "DEVICES", "MEANING"), rows))
    return 0


def _audit(options: argparse.Namespace, client: Client) -> int:
    entries = list(islice(pages(client, "list_audit", size=_AUDIT_PAGE), options.limit))
    if options.json:
        say_json(entries)
        return 0
    rows = [
        (
            str(entry["id"]),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["time"])),
            f"{entry['author']}, {entry['interface']}",
            _told(entry),
        )
        for entry in entries
    ]
    say(columns(("ID", "WHEN", "WHO", "WHAT"), rows) if rows else ["nothing was decided yet"])
    return 0


def _told(entry: Json) -> str:
    text = str(entry["text"])
    if entry["undoes"]:
        text = f"undid {entry['undoes']}: {text}"
    return f"{text} (undone by {entry['undone']})" if entry["undone"] else text


def _undo(options: argparse.Namespace, client: Client) -> int:
    # Not one that is an undo itself: done again, it goes a step further back.
    found = next(
        (
            entry
            for entry in pages(client, "list_audit", size=_AUDIT_PAGE)
            if (
                entry["undoable"] and not entry["undoes"] if options.id is None else entry["id"] == options.id
            )
        ),
        None,
    )
    if found is None:
        which = (
            "there is nothing that can be undone" if options.id is None else f"there is no entry {options.id}"
        )
        raise WordError(f"{which}: see 'spind audit'")
    client.call("undo", {"id": found["id"]})
    say([f"undid {found['id']}: {found['text']}"])
    return 0


_TABLE: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Act, tuple[str, ...]]] = {
    "block": (
        cli_rules.decide_arguments,
        cli_rules.decide("block"),
        (
            "spind block camera                              it may reach nothing",
            "spind block camera --from tracker.example.org   it may not reach this domain",
            "spind block tracker.example.org                 nobody may",
            "spind block television --for 1h",
            "spind block 'Ben phone' --schedule 'mon-fri 21:00-06:30, sat,sun 22:30-08:00'",
            "spind block --everyone --port 25                nobody may send mail this way",
            "spind block --everyone printer                  no device may reach the printer",
        ),
    ),
    "allow": (
        cli_rules.decide_arguments,
        cli_rules.decide("allow"),
        (
            "spind allow camera --to update.example.org      though it may reach nothing else",
            "spind allow phone --for 30m",
            "spind allow 192.0.2.0/24",
        ),
    ),
    "unblock": (
        cli_rules.select_arguments,
        cli_rules.unblock,
        (
            "spind unblock camera",
            "spind unblock camera --from tracker.example.org",
            "spind unblock --everyone --port 25",
        ),
    ),
    "rules": (
        cli_rules.rules_arguments,
        cli_rules.list_rules,
        ("spind rules", "spind rules --remove 3 5", "spind rules --json"),
    ),
    "rename": (
        _rename_arguments,
        _rename,
        ("spind rename 02:00:00:00:08:11 'Front door'", "spind rename 'Front door' ''"),
    ),
    "ignore": (_ignore_arguments, _ignore(True), ("spind ignore printer", "spind ignore 192.0.2.0/24")),
    "unignore": (_ignore_arguments, _ignore(False), ("spind unignore printer",)),
    "profile": (
        _profile_arguments,
        _profile,
        (
            "spind profile",
            "spind profile camera",
            "spind profile camera learned",
            "spind profile camera none",
        ),
    ),
    "audit": (_audit_arguments, _audit, ("spind audit", "spind audit --limit 100 --json")),
    "undo": (
        _undo_arguments,
        _undo,
        ("spind undo      the latest decision; done again, the one before it", "spind undo 12"),
    ),
}
