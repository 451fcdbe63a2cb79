# SPDX-License-Identifier: GPL-2.0-or-later
"""Logging in with a router's accounts: against a stand-in for rpcd's ``session`` on a bus.

The stand-in answers as rpcd's session.c does. The bus is the stand-in of ``ubus_broker`` everywhere,
and the real ubusd where it is installed.
"""

import asyncio
import fnmatch
import secrets
from contextlib import asynccontextmanager

import pytest
from ubus_broker import KINDS, RunningBus, until

from spind.ubus.blob import INT32, STRING, encode_table
from spind.ubus.client import Status, UbusClient, UbusObject
from spind.web.gate import Gate, GateSettings, LoginError
from spind.web.rpcd import RPCD_SECONDS, AccountsError, RouterAccounts, WrongPasswordError

OWNER = {"spin": ["add_rule", "list_nodes"]}
VIEWER = {"spin": ["list_nodes", "list_flows"]}
NO_ACCESS = {"system": ["board"]}
ALL = {"*": ["*"]}
HOME = "192.168.8.20"
T0 = 1_790_000_000.0


class Rpcd:
    """rpcd's object ``session``: users as name -> (password or None where any will do, access list)."""

    def __init__(self, users):
        self.users = users
        self.sessions = {}
        self.pending = ""  # session of somebody in LuCI whose changes wait to be confirmed
        self.status = Status.OK
        self.answer = None
        self.heard = []
        methods = {
            "login": {"username": STRING, "password": STRING, "timeout": INT32},
            "access": {"ubus_rpc_session": STRING, "scope": STRING, "object": STRING, "function": STRING},
            "destroy": {"ubus_rpc_session": STRING},
        }
        self.object = UbusObject("session", methods, self.called)

    def called(self, call):
        arguments = call.arguments()
        self.heard.append((call.method, arguments))
        if self.status:
            call.done(self.status)
            return
        status, reply = getattr(self, call.method)(**arguments)
        if reply is not None:
            call.reply(encode_table(reply))
        call.done(status)

    def login(self, username, password, timeout):
        if self.answer is not None:
            return Status.OK, self.answer
        known = self.users.get(username)
        if known is None or known[0] not in {None, password}:
            return Status.PERMISSION_DENIED, None
        if self.pending:
            ident, timeout = self.pending, 300
        else:
            ident = secrets.token_hex(16)
            self.sessions[ident] = known[1]
        shown = {"ubus_rpc_session": ident, "timeout": timeout, "expires": timeout - 1}
        return Status.OK, {**shown, "acls": {"ubus": known[1]}, "data": {"username": username}}

    def access(self, ubus_rpc_session, scope, object, function):  # noqa: A002 - as on the bus
        access = self.sessions.get(ubus_rpc_session)
        if access is None:
            return Status.NOT_FOUND, None
        allowed = scope == "ubus" and any(
            fnmatch.fnmatchcase(object, pattern) and fnmatch.fnmatchcase(function, each)
            for pattern, functions in access.items()
            for each in functions
        )
        return Status.OK, {"access": allowed}

    def destroy(self, ubus_rpc_session):
        if self.sessions.pop(ubus_rpc_session, None) is None:
            return Status.NOT_FOUND, None
        return Status.OK, None


@pytest.fixture(params=KINDS)
def bus(request, tmp_path):
    with RunningBus(request.param, tmp_path) as running:
        yield running


@asynccontextmanager
async def clients(path, rpcd):
    """A client of ours, and one that offers rpcd's object if there is one."""
    loop = asyncio.get_running_loop()
    ours, theirs = UbusClient(loop, path), UbusClient(loop, path)
    if rpcd is not None:
        theirs.add(rpcd.object)
    for client in (ours, theirs):
        client.start()
        await until(lambda client=client: client.up)
    try:
        yield ours, theirs
    finally:
        for client in (ours, theirs):
            await client.stop()


def run(scenario, path, rpcd):
    async def life():
        async with clients(path, rpcd) as (ours, theirs):
            await scenario(RouterAccounts(ours, path), theirs)

    asyncio.run(asyncio.wait_for(life(), 120))


def test_roles_by_what_an_account_may_call(bus):
    rpcd = Rpcd(
        {
            "root": ("s3cret", ALL),
            "parent": ("s3cret", OWNER),
            "guest": ("s3cret", VIEWER),
            "other": ("s3cret", NO_ACCESS),
        }
    )

    async def scenario(router, _):
        assert (await router.login("root", "s3cret")).role == "owner"
        assert (await router.login("parent", "s3cret")).role == "owner"
        assert await router.login("guest", "s3cret") == ("viewer", False)
        with pytest.raises(AccountsError, match="access group"):
            await router.login("other", "s3cret")
        for user, password in (("root", "wrong"), ("root", ""), ("nobody", "s3cret"), ("", "")):
            with pytest.raises(WrongPasswordError):
                await router.login(user, password)
        assert rpcd.sessions == {}

    run(scenario, bus.path, rpcd)
    methods = {method for method, _ in rpcd.heard}
    assert methods == {"login", "access", "destroy"}
    for method, arguments in rpcd.heard:
        assert "s3cret" not in str(arguments) or method == "login"


def test_an_account_without_a_password_is_told(bus):
    rpcd = Rpcd({"root": (None, ALL)})

    async def scenario(router, _):
        assert await router.login("root", "anything") == ("owner", True)
        assert rpcd.sessions == {}

    run(scenario, bus.path, rpcd)


def test_a_session_of_luci_that_waits_for_confirmation_is_not_ended(bus):
    rpcd = Rpcd({"root": ("s3cret", ALL)})
    rpcd.pending = "f" * 32
    rpcd.sessions["f" * 32] = ALL

    async def scenario(router, _):
        assert (await router.login("root", "s3cret")).role == "owner"
        assert rpcd.sessions == {"f" * 32: ALL}

    run(scenario, bus.path, rpcd)
    assert "destroy" not in {method for method, _ in rpcd.heard}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"ubus_rpc_session": 7},
        {"ubus_rpc_session": ""},
        {"ubus_rpc_session": "x" * 65},
        {"ubus_rpc_session": "0" * 32, "timeout": RPCD_SECONDS},
        {"access": True},
    ],
)
def test_odd_answers_let_nobody_in(bus, answer):
    rpcd = Rpcd({"root": ("s3cret", ALL)})
    rpcd.answer = answer

    async def scenario(router, _):
        with pytest.raises(AccountsError):
            await router.login("root", "s3cret")

    run(scenario, bus.path, rpcd)


@pytest.mark.parametrize("status", [Status.UNKNOWN_ERROR, Status.NOT_FOUND, Status.INVALID_ARGUMENT])
def test_errors_are_no_wrong_password(bus, status):
    rpcd = Rpcd({})
    rpcd.status = status

    async def scenario(router, _):
        with pytest.raises(AccountsError, match="rpcd"):
            await router.login("root", "s3cret")

    run(scenario, bus.path, rpcd)


def test_whether_there_is_rpcd(bus, tmp_path):
    rpcd = Rpcd({"root": ("s3cret", ALL)})

    async def scenario(router, theirs):
        assert router.present is None
        await router.look()
        assert router.present is False
        theirs.add(rpcd.object)
        await until(lambda: theirs.up)
        await router.look()
        assert router.present is True
        await theirs.remove(rpcd.object)
        await router.look()
        assert router.present is True, "a restart of rpcd opens nothing"
        with pytest.raises(AccountsError):
            await router.login("root", "s3cret")

    run(scenario, bus.path, None)


def test_without_ubusd(tmp_path):
    async def scenario():
        path = str(tmp_path / "no.sock")
        client = UbusClient(asyncio.get_running_loop(), path)
        client.start()
        router = RouterAccounts(client, path)
        await router.look()
        assert router.present is False
        with pytest.raises(AccountsError):
            await router.login("root", "s3cret")
        await client.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_a_socket_without_ubusd_opens_nothing(loop, tmp_path):
    path = tmp_path / "ubus.sock"
    path.touch()
    router = RouterAccounts(UbusClient(loop, str(path)), str(path))
    assert router.present is None


def test_the_stamp_follows_the_files(loop, tmp_path):
    files = (str(tmp_path / "shadow"), str(tmp_path / "rpcd"))
    (tmp_path / "shadow").write_text("root:x\n")
    router = RouterAccounts(UbusClient(loop, "/nowhere"), "/nowhere", files)
    seen = [router.stamp()]
    assert router.stamp() == seen[0]
    (tmp_path / "rpcd").write_text("config login\n")
    seen.append(router.stamp())
    (tmp_path / "new").write_text("root:y\n")
    (tmp_path / "new").replace(tmp_path / "shadow")
    seen.append(router.stamp())
    assert len(set(seen)) == 3


def test_the_whole_way_through_the_gate(bus):
    rpcd = Rpcd({"root": ("s3cret", ALL), "guest": ("s3cret", VIEWER)})

    async def scenario(router, _):
        gate = Gate(GateSettings(("127.0.0.1",)), router)
        gate.start()
        try:
            await until(lambda: gate.source == "router")
            assert not gate.open
            root = await gate.login("root", "s3cret", HOME, T0)
            assert gate.identify(root.cookie, "", T0 + 1).role == "owner"
            guest = await gate.login("guest", "s3cret", HOME, T0)
            assert not gate.identify(guest.cookie, "", T0 + 1).may_write
            with pytest.raises(LoginError, match="wrong"):
                await gate.login("root", "wrong", HOME, T0)
        finally:
            await gate.stop()

    run(scenario, bus.path, rpcd)
