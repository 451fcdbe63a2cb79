# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that say who may log in, and the commands that write them."""

import base64
import hashlib
import io
import os
import pty
import shutil
import stat
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spind import cli, cli_passwd
from spind.config import load
from spind.web import accounts, roles, tokens
from spind.web.accounts import Account, AccountError, Accounts
from spind.web.tokens import Token, TokenError

GOOD = "correct horse"
SALT = bytes(range(12))

needs_mosquitto_passwd = pytest.mark.skipif(
    shutil.which("mosquitto_passwd") is None, reason="mosquitto_passwd is not installed"
)


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(accounts, "ITERATIONS", 7)


def b64(value):
    return base64.b64encode(value).decode()


def old_line(name, password, salt=SALT):
    return f"{name}:$6${b64(salt)}${b64(hashlib.sha512(password.encode() + salt).digest())}\n".encode()


# -- the password file -----------------------------------------------------------------------


def test_what_is_written_is_read():
    data = accounts.put(b"", "alice", GOOD, SALT)
    assert data.startswith(b"alice:$7$7$")
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    found = accounts.parse(data)
    assert found.problems == ()
    assert found.verify("alice", GOOD) == found.by_name["alice"]
    for name, password in (("alice", GOOD + "x"), ("alice", ""), ("alic", GOOD), ("", ""), ("Alice", GOOD)):
        assert found.verify(name, password) is None


def test_the_iterations_are_what_is_recommended(monkeypatch):
    monkeypatch.undo()
    data = accounts.put(b"", "alice", GOOD, SALT)
    assert accounts.parse(data).by_name["alice"].iterations == 210_000
    assert b64(hashlib.pbkdf2_hmac("sha512", GOOD.encode(), SALT, 210_000)).encode() in data


def test_the_old_kind_of_hash():
    found = accounts.parse(old_line("bob", GOOD))
    assert found.verify("bob", GOOD) is not None
    assert found.verify("bob", "wrong") is None


@needs_mosquitto_passwd
@pytest.mark.parametrize("kind", ["sha512-pbkdf2", "sha512"])
def test_files_of_mosquitto_passwd(tmp_path, kind):
    path = tmp_path / "passwd"
    path.touch(mode=0o600)
    for name, password in (("alice", GOOD), ("käse", "pässwörd 2")):
        subprocess.run(["mosquitto_passwd", "-H", kind, "-b", path, name, password], check=True)
    found = accounts.parse(path.read_bytes())
    assert found.problems == ()
    assert found.verify("alice", GOOD) is not None
    assert found.verify("käse", "pässwörd 2") is not None
    assert found.verify("käse", GOOD) is None


@needs_mosquitto_passwd
def test_mosquitto_passwd_reads_ours(tmp_path):
    path = tmp_path / "passwd"
    path.write_bytes(accounts.put(b"", "alice", GOOD, SALT))
    path.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-b", path, "bob", "other horse"], check=True)
    found = accounts.parse(path.read_bytes())
    assert found.verify("alice", GOOD) is not None
    assert found.verify("bob", "other horse") is not None


def test_whoever_it_is_the_same_work_is_done(monkeypatch):
    data = old_line("bob", GOOD) + accounts.put(b"", "alice", GOOD, SALT)
    monkeypatch.setattr(accounts, "ITERATIONS", 50)
    found = accounts.parse(accounts.put(data, "carol", GOOD, SALT))
    done = []
    real = hashlib.pbkdf2_hmac

    def counting(*arguments):
        done.append(arguments[3])
        return real(*arguments)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counting)
    for name in ("alice", "bob", "carol", "nobody"):
        done.clear()
        assert (found.verify(name, GOOD) is None) is (name == "nobody")
        assert sum(done) == 50


def test_nobody_has_no_password():
    assert Accounts().verify("", "") is None
    assert Accounts().verify("alice", GOOD) is None
    assert accounts.parse(accounts.put(b"", "alice", GOOD, SALT)).verify("", "\0") is None


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:",
        "alice:secret",
        "alice:$7$101$AAAA",
        "alice:$7$0$AAAA$" + b64(bytes(64)),
        "alice:$7$-1$AAAA$" + b64(bytes(64)),
        "alice:$7$99999999$AAAA$" + b64(bytes(64)),
        "alice:$7$٣$AAAA$" + b64(bytes(64)),
        "alice:$7$101$AAAA$" + b64(bytes(63)),
        "alice:$7$101$$" + b64(bytes(64)),
        "alice:$7$101$AA!A$" + b64(bytes(64)),
        "alice:$7$101$" + b64(bytes(65)) + "$" + b64(bytes(64)),
        "alice:$6$AAAA$" + b64(bytes(64)) + "$",
        "alice:$argon2id$v=19$m=47104,t=1,p=1$AAAA$AAAA",
        "x" * 65 + ":$6$AAAA$" + b64(bytes(64)),
        ":$6$AAAA$" + b64(bytes(64)),
        "al\0ice:$6$AAAA$" + b64(bytes(64)),
        " alice:$6$AAAA$" + b64(bytes(64)),
        "\u202ealice:$6$AAAA$" + b64(bytes(64)),
    ],
)
def test_a_broken_line_is_told_and_the_others_hold(line):
    found = accounts.parse(b"# ours\n\n" + line.encode() + b"\n" + old_line("bob", GOOD))
    assert list(found.by_name) == ["bob"]
    (problem,) = found.problems
    assert problem.startswith("line 3: ")
    assert problem.isprintable()
    assert "secret" not in problem


def test_the_first_line_of_a_name_holds():
    found = accounts.parse(old_line("bob", GOOD) + old_line("bob", "another one"))
    assert found.verify("bob", GOOD) is not None
    assert found.verify("bob", "another one") is None
    assert len(found.problems) == 1


def test_bounds():
    lines = b"".join(old_line(f"n{number}", GOOD) for number in range(accounts.MAX_ACCOUNTS + 50))
    found = accounts.parse(lines)
    assert len(found.by_name) == accounts.MAX_ACCOUNTS
    assert len(found.problems) <= 6
    assert accounts.parse(b"\n".join([b"x"] * 10_000)).problems[-1].endswith("more lines are wrong")


@pytest.mark.parametrize(
    "name",
    ["", "a:b", "a\nb:x", "a\rb", "a\0", "#a", " a", "a ", "x" * 65, "a\u202eb", "\ud800", "\t", "a\x1bb"],
)
def test_names_that_cannot_be(name):
    with pytest.raises(AccountError):
        accounts.put(b"", name, GOOD, SALT)
    with pytest.raises(AccountError):
        roles.put(b"", name, "viewer")


@pytest.mark.parametrize(
    "password", ["", "short", "seven77", "with\nline", "x" * 257, "nul\0nul\0", "\ud800" * 9]
)
def test_passwords_that_cannot_be(password):
    with pytest.raises(AccountError):
        accounts.put(b"", "alice", password, SALT)


def test_other_lines_stay():
    before = b"# a comment\n" + old_line("bob", GOOD) + b"broken\xff\n" + old_line("carol", GOOD)
    after = accounts.put(before, "bob", "a new password", SALT)
    lines = after.split(b"\n")
    assert [line.split(b":")[0] for line in lines] == [b"# a comment", b"bob", b"broken\xff", b"carol", b""]
    assert accounts.parse(after).verify("bob", "a new password") is not None
    assert accounts.parse(after).verify("carol", GOOD) is not None
    assert accounts.remove(after, "bob") == before.replace(old_line("bob", GOOD), b"")
    assert accounts.remove(after, "nobody") == after


names = st.text(min_size=1, max_size=20)
files = st.lists(
    st.one_of(
        st.sampled_from([old_line("a", GOOD), old_line("b c", GOOD), b"a:\n", b"#b\n", b"\n", b"b c:x\r\n"]),
        st.binary(max_size=30),
    ),
    max_size=6,
).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(files, names | st.sampled_from(["a", "b c"]))
def test_a_user_can_be_added_to_any_file_and_removed(data, name):
    others = accounts.parse(data).by_name.keys() - {name}
    try:
        after = accounts.put(data, name, GOOD, SALT)
    except AccountError:
        return
    found = accounts.parse(after)
    assert found.verify(name, GOOD) is not None
    assert found.by_name.keys() == others | {name}
    gone = accounts.remove(after, name)
    assert accounts.parse(gone).by_name.keys() == others
    assert not accounts.mentions(gone, name)


# -- roles -----------------------------------------------------------------------------------


def test_roles():
    data = roles.put(roles.put(b"# who\n", "bob", "viewer"), "the guest", "provider")
    found = roles.parse(data)
    assert (found.of("bob"), found.of("the guest"), found.of("alice")) == ("viewer", "provider", "owner")
    data = roles.put(data, "bob", "owner")
    assert roles.parse(data).of("bob") == "owner"
    assert data == b"# who\nprovider the guest\n"
    with pytest.raises(AccountError):
        roles.put(data, "bob", "root")


@pytest.mark.parametrize(
    "data", [b"viewr bob\n", b"viewer bob\nowner bob\n", b"bob bob", b"viewer bob\nx bob\n"]
)
def test_a_role_that_is_misspelt_makes_no_owner(data):
    found = roles.parse(data)
    assert found.of("bob") == ""
    assert found.problems


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), names, st.sampled_from(roles.ROLES))
def test_a_role_can_be_written_in_any_file(data, name, role):
    before = roles.parse(data)
    try:
        after = roles.parse(roles.put(data, name, role))
    except AccountError:
        return
    assert after.of(name) == role
    for other in before.by_name.keys() - {name}:
        assert after.of(other) == before.of(other)


# -- tokens ----------------------------------------------------------------------------------

T0 = 1_790_000_000
SECRET = "spind_" + "s" * 43


def token(name="hub", role="viewer", expires=T0 + 86400, secret=SECRET):
    return Token(name, role, T0, expires, tokens.digest(secret))


def test_a_token_is_found_until_it_expires_and_only_its_hash_is_kept():
    data = tokens.add(b"", token())
    assert SECRET.encode() not in data
    found = tokens.parse(data)
    assert found.problems == ()
    assert found.find(SECRET, T0 + 86399) == token()
    assert found.find(SECRET, T0 + 86400) is None
    for wrong in ("", SECRET[6:], SECRET + "s", "spind_", "spind_\ud800", "spind_" + "x" * 1_000_000, "\0"):
        assert found.find(wrong, T0) is None
    assert found.find(tokens.digest(SECRET), T0) is None


def test_removing_tokens():
    data = tokens.add(tokens.add(b"", token("a")), token("ab", secret="spind_other"))
    data = tokens.remove(data, "a")
    assert [each.name for each in tokens.parse(data).by_hash.values()] == ["ab"]
    for name in ("a", "", "\udc80", "#"):
        with pytest.raises(TokenError):
            tokens.remove(data, name)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 65, "é", "a\0"])
def test_token_names_that_cannot_be(name):
    with pytest.raises(TokenError):
        tokens.add(b"", token(name))


def test_tokens_are_bounded_and_named_once():
    data = b""
    for number in range(tokens.MAX_TOKENS):
        data = tokens.add(data, token(f"t{number}", secret=f"spind_{number}"))
    for one in (token("t0", secret="spind_x"), token("more", secret="spind_y")):
        with pytest.raises(TokenError):
            tokens.add(data, one)
    assert len(tokens.parse(data).by_hash) == tokens.MAX_TOKENS
    assert len(data) < tokens.MAX_BYTES


@pytest.mark.parametrize(
    "line",
    [
        b"hub root 1 9999999999 " + b"a" * 64,
        b"hub owner 1 9999999999 " + b"A" * 64,
        b"hub owner 1 9999999999 " + b"a" * 63,
        b"hub owner 1 99999999999999999999 " + b"a" * 64,
        b"hub owner -1 9999999999 " + b"a" * 64,
        b"hub owner  1 9999999999 " + b"a" * 64,
        b"hub owner 1 9999999999 " + b"a" * 64 + b"\r",
        b"\xff owner 1 9999999999 " + b"a" * 64,
    ],
)
def test_a_broken_token_line_is_told_and_the_others_hold(line):
    found = tokens.parse(line + b"\n" + tokens.add(b"", token("other")))
    assert [each.name for each in found.by_hash.values()] == ["other"]
    assert len(found.problems) == 1


# -- the commands ----------------------------------------------------------------------------


class Terminal:
    """Runs ``spind passwd`` and ``spind token`` with their input piped in."""

    def __init__(self, capsys, monkeypatch, directory):
        self.capsys, self.monkeypatch = capsys, monkeypatch
        self.config = directory / "spin"
        self.config.write_text("# ours\nconfig spind 'spind'\n\toption spinweb_port '13026' # mine\n")
        self.passwords = directory / "etc" / "passwd"
        monkeypatch.setattr(cli_passwd, "DEFAULT_FILE", str(self.passwords))
        self.tokens = directory / "tokens"

    def __call__(self, *words, typed=b""):
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
        try:
            status = cli.main(list(words))
        except SystemExit as error:
            status = error.code
        out = self.capsys.readouterr()
        assert (out.out + out.err).replace("\n", "").isprintable()
        return status, out.out, out.err

    def passwd(self, *words, typed=b"correct horse\n"):
        return self("passwd", "-c", str(self.config), *words, typed=typed)

    def token(self, act, *words):
        return self("token", act, "--file", str(self.tokens), *words)

    @property
    def found(self):
        return accounts.parse(self.passwords.read_bytes())

    def role(self, name):
        return roles.parse(self.passwords.with_name("passwd.roles").read_bytes()).of(name)


@pytest.fixture
def spind(capsys, monkeypatch, tmp_path):
    return Terminal(capsys, monkeypatch, tmp_path)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_password_makes_the_file_and_sets_the_option(spind):
    status, out, err = spind.passwd("alice")
    assert (status, err) == (0, "")
    assert "reload" in out
    assert spind.found.verify("alice", GOOD) is not None
    assert mode(spind.passwords) == 0o600
    text = spind.config.read_text()
    assert text.startswith("# ours\n")
    assert "# mine" in text
    assert load(text)[0].spinweb_password_file == str(spind.passwords)
    status, out, err = spind.passwd("alice", typed=b"another horse\r\n")
    assert (status, err) == (0, "")
    assert "reload" not in out
    assert spind.found.verify("alice", "another horse") is not None


def test_a_viewer_is_never_more_than_that(spind, monkeypatch):
    order = []
    real = cli_passwd.rewrite
    monkeypatch.setattr(cli_passwd, "rewrite", lambda path, *rest: (order.append(path), real(path, *rest)))
    assert spind.passwd("--role", "viewer", "guest")[0] == 0
    assert [path.rpartition("/")[2] for path in order] == ["passwd.roles", "passwd"]
    assert mode(spind.passwords.with_name("passwd.roles")) == 0o600
    assert spind.role("guest") == "viewer"
    assert spind.passwd("guest", typed=b"another horse\n")[0] == 0
    assert spind.role("guest") == "viewer"
    assert spind.passwd("--role", "owner", "guest", typed=b"")[0] == 0
    assert spind.role("guest") == "owner"
    assert spind.found.verify("guest", "another horse") is not None


def test_a_user_who_was_deleted_and_comes_back_has_no_old_role(spind):
    spind.passwd("--role", "viewer", "guest")
    assert spind.passwd("--delete", "guest")[0] == 0
    assert spind.found.by_name == {}
    spind.passwd("guest")
    assert spind.role("guest") == "owner"
    assert spind.passwd("--delete", "nobody")[0] == 1


def test_the_provider_needs_an_option(spind):
    assert "spinweb_provider" in spind.passwd("--role", "provider", "isp")[1]


def test_list(spind):
    assert "no users" in spind.passwd("--list")[2]
    spind.passwd("alice")
    spind.passwd("--role", "viewer", "bob")
    with spind.passwords.open("ab") as file:
        file.write(b"\x1b[2Jbroken\n")
    status, out, err = spind.passwd("--list")
    assert (status, out) == (0, "owner     alice\nviewer    bob\n")
    assert "line 3" in err


@pytest.mark.parametrize(
    "typed", [b"", b"short\n", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\n", b"x" * 100_000, b"a\0bcdefgh\n"]
)
def test_a_password_that_cannot_be_changes_nothing(spind, typed):
    before = spind.config.read_bytes()
    status, out, err = spind.passwd("--role", "viewer", "alice", typed=typed)
    assert (status, out) == (1, "")
    assert err.startswith("spind passwd: ")
    assert err.count("\n") == 1
    assert spind.config.read_bytes() == before
    assert not spind.passwords.parent.exists()


@pytest.mark.parametrize("name", ["a:b", "root\nx:$6$", "#x", "x" * 65, "\x1b[31m"])
def test_a_name_that_cannot_be_changes_nothing(spind, name):
    status, out, _ = spind.passwd(name)
    assert (status, out) == (1, "")
    assert not spind.passwords.parent.exists()


def test_wrong_usage(spind):
    assert spind.passwd()[0] == 2
    assert spind.passwd("--list", "alice")[0] == 2
    assert spind.passwd("--role", "root", "alice")[0] == 2


def test_a_file_for_everybody_is_one_no_longer(spind):
    spind.passwd("alice")
    spind.passwords.chmod(0o644)
    assert "group only" in spind.passwd("bob")[2]
    assert mode(spind.passwords) == 0o640


def test_a_link_stays_one(spind, tmp_path):
    target = tmp_path / "elsewhere"
    spind.passwords.parent.mkdir()
    spind.passwords.symlink_to(target)
    assert spind.passwd("alice")[0] == 0
    assert spind.passwords.is_symlink()
    assert accounts.parse(target.read_bytes()).verify("alice", GOOD) is not None


def test_a_configuration_that_is_not_there(spind):
    spind.config.unlink()
    status, _, err = spind.passwd("alice")
    assert status == 1
    assert str(spind.config) in err
    assert not spind.passwords.exists()


def test_on_a_terminal_it_is_asked_for_twice_without_echo(tmp_path):
    path = tmp_path / "passwd"

    def ask(first, second):
        pid, fd = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "spind", "passwd", "--file", str(path), "alice"])
        seen = b""
        for prompt, answer in ((b"Password: ", first), (b"again: ", second)):
            while prompt not in seen:
                seen += os.read(fd, 1000)
            os.write(fd, answer + b"\n")
        while True:
            try:
                more = os.read(fd, 1000)
            except OSError:
                break
            seen += more
            if not more:
                break
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen

    status, seen = ask(b"correct horse", b"correct mouse")
    assert status == 1
    assert b"not the same" in seen
    assert not path.exists()
    status, seen = ask(b"correct horse", b"correct horse")
    assert status == 0, seen
    assert b"horse" not in seen
    assert accounts.parse(path.read_bytes()).verify("alice", GOOD) is not None


def test_tokens_are_made_listed_and_removed(spind):
    status, out, err = spind.token("add", "hub", "--role", "owner", "--days", "10")
    secret = out.strip()
    assert status == 0
    assert secret.startswith("spind_")
    assert len(secret) >= 6 + 192 / 6
    assert secret not in err
    assert mode(spind.tokens) == 0o600
    found = tokens.parse(spind.tokens.read_bytes()).find(secret, time.time())
    assert found is not None
    assert (found.name, found.role) == ("hub", "owner")
    assert found.expires - found.created == 10 * 86400
    assert spind.token("add", "hub")[0] == 1
    assert spind.token("add", "look")[0] == 0
    status, out, err = spind.token("list")
    assert [line.split()[-1] for line in out.splitlines()] == ["hub", "look"]
    assert secret not in out
    assert spind.token("remove", "hub")[0] == 0
    assert spind.token("remove", "hub")[0] == 1
    assert tokens.parse(spind.tokens.read_bytes()).find(secret, time.time()) is None
    for words in (("add", "a b"), ("add", "x\ny"), ("remove", "\x1b")):
        assert spind.token(*words)[0] == 1
    for days in ("0", "-1", "3651", "x"):
        assert spind.token("add", "y", "--days", days)[0] == 2


def test_the_stamp_changes_with_the_password():
    account = Account("alice", 7, SALT, bytes(64))
    others = (account._replace(salt=bytes(12)), account._replace(hash=b"x" * 64))
    assert len({each.stamp for each in (account, *others)}) == 3
