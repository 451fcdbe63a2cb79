# SPDX-License-Identifier: GPL-2.0-or-later
"""Import direction, as DESIGN 3 wants it: the core is pure, adapters do not know each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "spind"
WIRE = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "wire").glob("*.py"))
CORE = [
    "addresses.py",
    "api.py",
    "attribution.py",
    "audit.py",
    "books.py",
    "calls.py",
    "changes.py",
    "commands.py",
    "connections.py",
    "decisions.py",
    "deeds_audit.py",
    "deeds_captures.py",
    "deeds_nodes.py",
    "deeds_notifications.py",
    "deeds_profiles.py",
    "deeds_rules.py",
    "desk.py",
    "dots.py",
    "enforcement.py",
    "engine.py",
    "events.py",
    "feed.py",
    "flows.py",
    "hostile.py",
    "ignore.py",
    "inspect.py",
    "limits.py",
    "lookout.py",
    "model.py",
    "named_addresses.py",
    "names.py",
    "nodes.py",
    "pcap_filter.py",
    "pcap_stream.py",
    "notifications.py",
    "policy.py",
    "prefixes.py",
    "profiles.py",
    "report.py",
    "resolver_streams.py",
    "rule_fields.py",
    "rulebook.py",
    "rules.py",
    "ruleset.py",
    "schedule.py",
    "shapes.py",
    "verdicts.py",
    "views.py",
]
PURE = [
    *CORE,
    *WIRE,
    "accounting.py",
    "block_iptables_sets.py",
    "block_iptables_text.py",
    "block_nftables_sets.py",
    "block_nftables_table.py",
    "block_nftables_text.py",
    "capture_held.py",
    "capture_rules.py",
    "cli_text.py",
    "cli_words.py",
    "config.py",
    "config_kinds.py",
    "config_options.py",
    "config_rules.py",
    "decided_uci.py",
    "json_framer.py",
    "jsonrpc.py",
    "mqtt_messages.py",
    "mqtt_queue.py",
    "text.py",
    "top_table.py",
    "tracker.py",
    "ubus/blob.py",
    "ubus/messages.py",
    "uci.py",
    "uci_edit.py",
    "uci_sheet.py",
    "web/accounts.py",
    "web/app.py",
    "web/bodies.py",
    "web/crowd.py",
    "web/identity.py",
    "web/messages.py",
    "web/openapi.py",
    "web/openapi_shapes.py",
    "web/pages.py",
    "web/protection.py",
    "web/rest.py",
    "web/roles.py",
    "web/sessions.py",
    "web/throttle.py",
    "web/tokens.py",
]
IMPURE = {
    "asyncio",
    "ctypes",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "subprocess",
    "threading",
    "time",
}
ADAPTERS = {
    "audit_file",
    "block_log",
    "blocker",
    "capture",
    "captures",
    "capture_rules",
    "conntrack",
    "conntrack_delete",
    "mqtt_pub",
    "names_journal",
    "neighbours",
    "rpc_socket",
    "store",
    "web",
    "ubus_api",
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_do_no_io(name: str) -> None:
    tops = {module.partition(".")[0] for module in imports(ROOT / name)}
    assert not tops & IMPURE
    sockets = {module for module in imports(ROOT / name) if module.partition(".")[0] == "socket"}
    assert sockets <= {"socket", "socket.AF_INET", "socket.AF_INET6", "socket.inet_ntop", "socket.inet_pton"}


@pytest.mark.parametrize("name", CORE)
def test_the_core_knows_no_adapter(name: str) -> None:
    spind = {module.split(".")[1] for module in imports(ROOT / name) if module.startswith("spind.")}
    assert not spind & (ADAPTERS | {"daemon", "guard", "cli", "replay", "lab", "jsonrpc"})


@pytest.mark.parametrize("name", sorted(name for name in ADAPTERS if (ROOT / f"{name}.py").exists()))
def test_adapters_do_not_import_each_other(name: str) -> None:
    path = ROOT / f"{name}.py"
    spind = {module.split(".")[1] for module in imports(path) if module.startswith("spind.")}
    assert not spind & (ADAPTERS - {name})


def test_blocking_back_ends_know_rulesets_and_nothing_of_rules() -> None:
    """What shall be blocked is said in one place; a back-end that knew rules could say it otherwise."""
    for path in ROOT.glob("block*.py"):
        spind = {module.split(".")[1] for module in imports(path) if module.startswith("spind.")}
        assert not spind & {"rules", "policy", "books", "profiles", "desk", "engine", "nodes"}, path


def test_parsers_know_nothing_but_parsers() -> None:
    for name in WIRE:
        spind = {module.split(".")[1] for module in imports(ROOT / name) if module.startswith("spind.")}
        assert spind <= {"wire", "model", "events", "hostile", "text"}, name


def test_the_daemon_never_imports_scapy() -> None:
    lazily = {"capfile.py", "pcap_child.py", "replay.py"}
    for path in ROOT.rglob("*.py"):
        if path.name not in lazily and "lab" not in path.parts:
            assert not any(module.startswith("scapy") for module in imports(path)), path
