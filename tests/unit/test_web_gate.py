# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may come in: which accounts count, logins, sessions, tokens, and what changes of files do to them."""

import asyncio
import logging

import pytest

from spind import atomic
from spind.config import load
from spind.web import accounts, roles, tokens
from spind.web import gate as gate_module
from spind.web.gate import Gate, GateSettings, Identity, LoginError
from spind.web.rpcd import AccountsError, RouterLogin, WrongPasswordError
from spind.web.sessions import AT_HOME, OUTSIDE
from spind.web.throttle import ADDRESS_FREE
from spind.web.tokens import Token

T0 = 1_790_000_000.0
HOME = "192.168.8.20"
GOOD = "correct horse"
TOKEN = "spind_" + "t" * 43


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(accounts, "ITERATIONS", 7)


class Files:
    """A password file, its roles and a token file."""

    def __init__(self, directory):
        self.passwords = directory / "passwd"
        self.roles = directory / "passwd.roles"
        self.tokens = directory / "tokens"
        self.salt = 0

    def user(self, name, password=GOOD, role="owner"):
        self.salt += 1
        data = self.passwords.read_bytes() if self.passwords.exists() else b""
        self.replace(self.passwords, accounts.put(data, name, password, self.salt.to_bytes(12)))
        data = self.roles.read_bytes() if self.roles.exists() else b""
        self.replace(self.roles, roles.put(data, name, role))

    def token(self, role="viewer", secret=TOKEN, expires=T0 + 1000):
        data = self.tokens.read_bytes() if self.tokens.exists() else b""
        made = Token(f"t{len(data)}", role, int(T0), int(expires), tokens.digest(secret))
        self.replace(self.tokens, tokens.add(data, made))

    @staticmethod
    def replace(path, data):
        new = path.with_name("new")
        new.write_bytes(data)
        new.replace(path)

    def settings(self, **more):
        given = GateSettings(("192.168.8.1",), str(self.passwords), str(self.tokens))
        return given._replace(**more)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


class StandIn:
    """The router's accounts."""

    def __init__(self, present=True):
        self.present = present
        self.users = {"root": (GOOD, "owner"), "guest": (GOOD, "viewer")}
        self.changed = 0
        self.down = self.unprotected = False
        self.asked = 0
        self.looked = 0

    async def look(self):
        self.looked += 1

    def stamp(self):
        return str(self.changed)

    async def login(self, user, password):
        self.asked += 1
        if self.down:
            raise AccountsError("rpcd does not answer")
        if self.users.get(user, ("", ""))[0] != password:
            raise WrongPasswordError
        return RouterLogin(self.users[user][1], self.unprotected)


def run(scenario, settings, router=None):
    async def life():
        gate = Gate(settings, router)
        gate.start()
        try:
            return await scenario(gate)
        finally:
            await gate.stop()

    return asyncio.run(asyncio.wait_for(life(), 60))


async def refused(gate, *arguments, now=T0):
    with pytest.raises(LoginError) as caught:
        await gate.login(*arguments, now)
    assert caught.value.sentence.isprintable()
    return caught.value


def messages(caplog, level):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


# -- which accounts count --------------------------------------------------------------------


def test_open_on_loopback_only_and_the_log_says_so(caplog):
    async def scenario(gate):
        assert (gate.open, gate.source, gate.problem) == (True, "open", "")
        assert gate.identify("", "", T0) == Identity("", "owner", "open", "owner")
        assert gate.identify("rubbish", "", T0).via == "open"
        assert gate.identify("", "spind_rubbish", T0) is None
        assert "nobody has to" in (await refused(gate, "root", GOOD, HOME)).sentence

    run(scenario, GateSettings(("127.0.0.1", "::1", "127.9.9.9")))
    (warning,) = [line for line in messages(caplog, logging.WARNING) if "open" in line]
    assert "spind passwd" in warning


@pytest.mark.parametrize(
    "interfaces", [("127.0.0.1", "192.168.8.1"), ("0.0.0.0",), ("::",), ("::ffff:127.0.0.1",), ("fe80::1",)]
)
def test_closed_elsewhere_until_there_is_a_password(interfaces, caplog, files):
    async def scenario(gate):
        assert (gate.open, gate.source) == (False, "closed")
        assert "spind passwd" in gate.problem
        assert gate.identify("", "", T0) is None
        for _ in range(50):
            assert "spind passwd" in (await refused(gate, "root", GOOD, HOME)).sentence
        files.user("alice")
        gate.configure(files.settings(interfaces=interfaces))
        assert gate.source == "file"
        await gate.login("alice", GOOD, HOME, T0)

    run(scenario, GateSettings(interfaces))
    assert len([line for line in messages(caplog, logging.ERROR) if "spind passwd" in line]) == 1
    assert len(messages(caplog, logging.WARNING)) < 5


def test_tokens_come_in_where_nobody_can_log_in(files):
    files.token()

    async def scenario(gate):
        assert gate.identify("", TOKEN, T0).role == "viewer"

    run(scenario, GateSettings(("0.0.0.0",), "", str(files.tokens)))


@pytest.mark.parametrize("present", [True, None])
def test_the_router_accounts_keep_loopback_closed(present):
    async def scenario(gate):
        assert not gate.open
        assert gate.identify("", "", T0) is None

    run(scenario, GateSettings(), StandIn(present))


def test_without_rpcd_loopback_is_open():
    async def scenario(gate):
        assert gate.open

    run(scenario, GateSettings(), StandIn(present=False))


def test_while_nobody_knows_whether_there_is_rpcd_one_has_to_wait():
    router = StandIn(present=None)

    async def scenario(gate):
        assert (await refused(gate, "root", GOOD, HOME)).retry_after > 0
        assert router.asked == 0
        router.present = True
        assert (await gate.login("root", GOOD, HOME, T0)).identity.role == "owner"

    run(scenario, GateSettings(), router)
    assert router.looked > 0


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "broken", "large", "roles"])
def test_a_password_file_that_says_nothing_lets_nobody_in(files, caplog, kind):
    if kind == "directory":
        files.passwords.mkdir()
    elif kind == "large":
        files.passwords.write_bytes(b"#" * (accounts.MAX_BYTES + 1))
    elif kind == "roles":
        files.user("root")
        files.roles.unlink()
        files.roles.mkdir()
    elif kind != "missing":
        files.passwords.write_bytes(b"" if kind == "empty" else b"root:secret\n")

    async def scenario(gate):
        assert not gate.open
        assert "nobody can log in" in gate.problem
        assert gate.identify("", "", T0) is None
        assert "nobody can log in" in (await refused(gate, "root", GOOD, HOME)).sentence

    run(scenario, files.settings(interfaces=("127.0.0.1",)), StandIn())
    assert any("nobody can log in" in line for line in messages(caplog, logging.ERROR))


# -- logging in ------------------------------------------------------------------------------


def test_login_and_logout(files):
    files.user("alice")
    files.user("bob", role="viewer")

    async def scenario(gate):
        login = await gate.login("alice", GOOD, HOME, T0)
        assert login.identity == Identity("alice", "owner", "session", "owner")
        assert login.identity.may_write
        assert login.seconds == AT_HOME.longest
        assert gate.identify(login.cookie, "", T0 + 1) == login.identity
        bob = await gate.login("bob", GOOD, HOME, T0)
        assert (bob.identity.role, bob.identity.may_write) == ("viewer", False)
        assert bob.cookie != login.cookie
        gate.logout(login.cookie)
        assert gate.identify(login.cookie, "", T0 + 1) is None
        assert gate.identify(bob.cookie, "", T0 + 1) == bob.identity
        assert gate.identify(bob.cookie, "", T0 + AT_HOME.longest) is None
        assert gate.counters == {"sessions": 0, "logins": 2, "refused": 0}

    run(scenario, files.settings())


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("alice", ""),
        ("alice", "correct hors"),
        ("alice", GOOD + "\0"),
        ("alice\0", GOOD),
        ("alice\nroot", GOOD),
        ("", ""),
        ("nobody", GOOD),
        ("x" * 1_000_000, GOOD),
        ("alice", "x" * 1_000_000),
        ("\ud800", "\ud800\ud800\ud800\ud800"),
        ("\u202ealice", GOOD),
    ],
)
def test_one_sentence_for_all_that_is_wrong(files, caplog, user, password):
    files.user("alice")

    async def scenario(gate):
        error = await refused(gate, user, password, "192.0.2.1\nforged")
        assert (error.sentence, error.retry_after) == ("the name or the password is wrong", 0)

    run(scenario, files.settings())
    for line in messages(caplog, logging.DEBUG):
        assert line.isprintable()
        assert len(line) < 300
        assert GOOD not in line


def test_guessing_is_throttled_however_parallel(files, monkeypatch):
    files.user("alice")
    verified = []
    real = accounts.Accounts.verify

    def counting(self, name, password):
        verified.append(name)
        return real(self, name, password)

    monkeypatch.setattr(accounts.Accounts, "verify", counting)

    async def scenario(gate):
        guesses = [gate.login("alice", f"guess {n}", HOME, T0) for n in range(100)]
        errors = await asyncio.gather(*guesses, return_exceptions=True)
        assert all(isinstance(error, LoginError) for error in errors)
        assert len(verified) == ADDRESS_FREE
        error = await refused(gate, "alice", GOOD, HOME)
        assert error.retry_after > 0
        assert f"{error.retry_after} s" in error.sentence
        login = await gate.login("alice", GOOD, HOME, T0 + error.retry_after)
        assert login.identity.name == "alice"

    run(scenario, files.settings())


def test_refusals_do_not_fill_the_log(files, caplog):
    files.user("alice")

    async def scenario(gate):
        for _ in range(500):
            await refused(gate, "alice", "wrong", HOME)
        return gate.counters["refused"]

    assert run(scenario, files.settings()) == 500
    assert len(messages(caplog, logging.INFO)) < 10


def test_not_too_many_at_a_time(files, monkeypatch):
    monkeypatch.setattr(accounts, "ITERATIONS", 100_000)
    files.user("alice")

    async def scenario(gate):
        logins = [gate.login("alice", GOOD, f"192.0.2.{n}", T0) for n in range(40)]
        results = await asyncio.gather(*logins, return_exceptions=True)
        done = [each for each in results if not isinstance(each, BaseException)]
        assert len(done) == gate_module.MOST_LOGINS
        assert all(each.retry_after > 0 for each in results if isinstance(each, LoginError))

    run(scenario, files.settings())


def test_the_loop_goes_on_while_a_password_is_verified(files, monkeypatch):
    monkeypatch.setattr(accounts, "ITERATIONS", 2_000_000)
    files.user("alice")

    async def scenario(gate):
        login = asyncio.ensure_future(gate.login("alice", GOOD, HOME, T0))
        turns = 0
        while not login.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 10
        assert login.result().identity.name == "alice"

    run(scenario, files.settings())


def test_stopping_waits_for_nobody(files, monkeypatch):
    files.user("alice")

    async def scenario(gate):
        logins = [asyncio.ensure_future(gate.login("alice", GOOD, HOME, T0)) for _ in range(2)]
        await asyncio.sleep(0)
        await gate.stop()
        await asyncio.wait(logins)
        assert all(each.cancelled() or each.exception() or each.result() for each in logins)

    run(scenario, files.settings())


# -- sessions and files that change ----------------------------------------------------------


def test_a_new_password_ends_the_sessions_of_its_user_only(files):
    files.user("alice")
    files.user("bob")

    async def scenario(gate):
        alice = await gate.login("alice", GOOD, HOME, T0)
        bob = await gate.login("bob", GOOD, HOME, T0)
        files.user("alice", "another horse")
        assert gate.identify(alice.cookie, "", T0 + 1) is None
        assert gate.identify(bob.cookie, "", T0 + 1) is not None
        files.user("alice")  # the old one again, with another salt
        assert gate.identify(alice.cookie, "", T0 + 2) is None
        Files.replace(files.passwords, accounts.remove(files.passwords.read_bytes(), "bob"))
        assert gate.identify(bob.cookie, "", T0 + 3) is None

    run(scenario, files.settings())


def test_a_new_role_holds_at_once(files):
    files.user("alice")

    async def scenario(gate):
        alice = await gate.login("alice", GOOD, HOME, T0)
        Files.replace(files.roles, b"viewer alice\n")
        assert gate.identify(alice.cookie, "", T0 + 1).role == "viewer"
        Files.replace(files.roles, b"veiwer alice\n")
        assert gate.identify(alice.cookie, "", T0 + 1) is None
        assert "role" in (await refused(gate, "alice", GOOD, HOME)).sentence
        files.roles.unlink()
        alice = await gate.login("alice", GOOD, HOME, T0)
        assert alice.identity.role == "owner"
        files.roles.mkdir()  # cannot be read
        assert gate.identify(alice.cookie, "", T0 + 1) is None

    run(scenario, files.settings())


def test_a_password_file_that_goes_ends_its_sessions(files):
    files.user("alice")

    async def scenario(gate):
        alice = await gate.login("alice", GOOD, HOME, T0)
        files.passwords.unlink()
        assert gate.identify(alice.cookie, "", T0 + 1) is None
        assert "nobody can log in" in gate.problem

    run(scenario, files.settings())


def test_sessions_are_of_the_accounts_that_count(files):
    files.user("alice")
    router = StandIn()

    async def scenario(gate):
        alice = await gate.login("alice", GOOD, HOME, T0)
        gate.configure(files.settings(password_file=""))
        assert gate.source == "router"
        assert gate.identify(alice.cookie, "", T0 + 1) is None
        root = await gate.login("root", GOOD, HOME, T0)
        gate.configure(files.settings())
        assert gate.identify(root.cookie, "", T0 + 1) is None

    run(scenario, files.settings(), router)


def test_a_configuration_that_stays_ends_nothing(files):
    files.user("alice")

    async def scenario(gate):
        alice = await gate.login("alice", GOOD, HOME, T0)
        gate.configure(files.settings(interfaces=("192.168.8.2",)))
        assert gate.identify(alice.cookie, "", T0 + 1) is not None

    run(scenario, files.settings())


# -- the router's accounts -------------------------------------------------------------------


def test_router_logins(caplog):
    router = StandIn()

    async def scenario(gate):
        root = await gate.login("root", GOOD, HOME, T0)
        guest = await gate.login("guest", GOOD, HOME, T0)
        assert (root.identity.role, guest.identity.role) == ("owner", "viewer")
        assert (root.notice, guest.notice) == ("", "")
        assert (await refused(gate, "root", "wrong", HOME)).sentence == "the name or the password is wrong"
        router.changed += 1
        assert gate.identify(root.cookie, "", T0 + 1) is None

    run(scenario, GateSettings(("192.168.8.1",)), router)


def test_a_router_without_a_password_is_told_to_its_user_and_the_log(caplog):
    router = StandIn()
    router.unprotected = True

    async def scenario(gate):
        for _ in range(3):
            assert "no password" in (await gate.login("root", GOOD, HOME, T0)).notice

    run(scenario, GateSettings(("192.168.8.1",)), router)
    assert len([line for line in messages(caplog, logging.WARNING) if "no password" in line]) == 1


def test_an_rpcd_that_is_down_counts_against_nobody():
    router = StandIn()
    router.down = True

    async def scenario(gate):
        for _ in range(50):
            assert "rpcd" in (await refused(gate, "root", GOOD, HOME)).sentence
        router.down = False
        await gate.login("root", GOOD, HOME, T0)

    run(scenario, GateSettings(("192.168.8.1",)), router)


def test_names_that_cannot_be_do_not_reach_the_router():
    router = StandIn()

    async def scenario(gate):
        for user, password in (("root\0x", GOOD), ("root", GOOD + "\0x"), ("", ""), ("x" * 100, "x" * 1000)):
            await refused(gate, user, password, HOME, now=T0 + 1000 * router.looked)
            router.looked += 1

    run(scenario, GateSettings(("192.168.8.1",)), router)
    assert router.asked == 0


# -- tokens and the provider -----------------------------------------------------------------


def test_tokens(files):
    files.token("viewer")
    files.token("owner", secret=TOKEN + "2")
    files.user("alice")

    async def scenario(gate):
        assert gate.identify("", TOKEN, T0)._replace(name="") == Identity("", "viewer", "token", "viewer")
        assert gate.identify("", TOKEN + "2", T0).role == "owner"
        assert gate.identify("", TOKEN, T0 + 1000) is None
        assert gate.identify("", TOKEN + "3", T0) is None
        alice = await gate.login("alice", GOOD, HOME, T0)
        assert gate.identify(alice.cookie, TOKEN, T0).role == "viewer"
        assert gate.identify(alice.cookie, TOKEN + "3", T0) is None
        files.tokens.unlink()
        assert gate.identify("", TOKEN, T0) is None

    run(scenario, files.settings())


@pytest.mark.parametrize(
    ("option", "role"), [("off", None), ("view", ("viewer", False)), ("act", ("provider", True))]
)
def test_the_provider_is_let_in_as_the_option_says(files, option, role):
    files.user("isp", role="provider")
    files.token("provider")

    async def scenario(gate):
        by_token = gate.identify("", TOKEN, T0)
        if role is None:
            assert by_token is None
            assert "spinweb_provider" in (await refused(gate, "isp", GOOD, HOME)).sentence
            return
        login = await gate.login("isp", GOOD, HOME, T0)
        for identity in (by_token, login.identity):
            assert (identity.role, identity.may_write) == role
            assert identity.account_role == "provider"
        assert login.seconds == OUTSIDE.longest
        assert gate.identify(login.cookie, "", T0 + OUTSIDE.idle) is None
        login = await gate.login("isp", GOOD, HOME, T0)
        gate.configure(files.settings(provider="off"))
        assert gate.identify(login.cookie, "", T0) is None
        assert gate.identify("", TOKEN, T0) is None

    run(scenario, files.settings(provider=option))


def test_settings_of_a_configuration():
    text = (
        "config spind 'spind'\n\tlist spinweb_interfaces '192.168.8.1'\n"
        "\toption spinweb_password_file '/a'\n\toption spinweb_token_file '/b'\n"
        "\toption spinweb_provider 'view'\n"
    )
    assert GateSettings.of(load(text)[0]) == GateSettings(("192.168.8.1",), "/a", "/b", "view")
    assert GateSettings.of(load("")[0]) == GateSettings(("127.0.0.1",), "", "/etc/spin/tokens", "off")


def test_files_are_read_when_they_change_and_not_at_each_request(files, monkeypatch):
    files.user("alice")
    files.token()
    read = []
    real = atomic.read
    monkeypatch.setattr(atomic, "read", lambda path, most: (read.append(path), real(path, most))[1])

    async def scenario(gate):
        alice = await gate.login("alice", GOOD, HOME, T0)
        gate.identify("", TOKEN, T0)
        read.clear()
        for _ in range(100):
            assert gate.identify(alice.cookie, "", T0 + 1) is not None
            assert gate.identify("", TOKEN, T0) is not None
        assert read == []
        files.user("bob")
        assert gate.identify(alice.cookie, "", T0 + 1) is not None
        assert read == [files.passwords, files.roles]

    run(scenario, files.settings())
