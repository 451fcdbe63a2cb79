# SPDX-License-Identifier: GPL-2.0-or-later
"""The package for OpenWrt's opkg: built twice, looked into, unpacked, run, upgraded, removed.

Installing is done by a stand-in that follows opkg's rule for configuration files, and by the real ``opkg``
where it is on the PATH: both have to come to the same.
"""

import gzip
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

import spind
from spind.client import Client, ClientError
from spind.lab.node import wait_until
from spind.lab.patience import patient
from spind.web.pages import TYPES

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "scripts" / "build-ipk"
EPOCH = 1_700_000_000
BUDGET = 1_536 * 1024  # bytes, of spind's own files

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
SITE = f"./usr/lib/python{PYTHON}/site-packages"
ARCHIVE = f"{SITE}/spind.zip"

FILES = {
    "./etc/capabilities/spind.json": 0o644,
    "./etc/config/spin": 0o600,
    "./etc/init.d/spin": 0o755,
    "./etc/sysctl.d/12-spind.conf": 0o644,
    "./etc/uci-defaults/90-spind": 0o644,
    "./lib/upgrade/keep.d/spind": 0o644,
    "./usr/bin/spind": 0o755,
    "./usr/libexec/spin-purge": 0o755,
    "./usr/share/acl.d/spin.json": 0o644,
    "./usr/share/rpcd/acl.d/spin.json": 0o644,
    f"{SITE}/spind.pth": 0o644,
    ARCHIVE: 0o644,
}
"""All that is installed, with modes; spind itself is in the archive."""

ROUTER_HAS_NOT = re.compile(r"/(lab/|replay|capfile|tracker|wire/dhcp|wire/link)")


def build(output: Path, epoch: int = EPOCH, **environment: str) -> dict[str, Path]:
    """Build the packages; their files by package."""
    done = subprocess.run(
        [BUILD, "--python", sys.executable, "--output", output],
        env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(120),
    )
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert sorted(output.iterdir()) == sorted(paths)
    return {path.name.partition("_")[0]: path for path in paths}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("dist"))


class Package(NamedTuple):
    """An ipk, taken apart."""

    members: list[str]
    control: dict[str, tuple[str, tarfile.TarInfo]]
    data: bytes

    @classmethod
    def read(cls, path: Path) -> "Package":
        with tarfile.open(path) as outer:
            parts = {name: _content(outer, name) for name in outer.getnames()}
        assert parts["./debian-binary"] == b"2.0\n"
        with tarfile.open(fileobj=io.BytesIO(parts["./control.tar.gz"])) as archive:
            files = [info for info in archive if info.isfile()]
            control = {
                info.name.removeprefix("./"): (_content(archive, info.name).decode(), info) for info in files
            }
        return cls(list(parts), control, parts["./data.tar.gz"])

    def fields(self) -> dict[str, str]:
        lines = self.control["control"][0].splitlines()
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}

    def infos(self) -> dict[str, tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.data)) as archive:
            return {info.name: info for info in archive}

    def unpack(self, root: Path) -> None:
        with tarfile.open(fileobj=io.BytesIO(self.data)) as archive:
            # Of our own making. Python 3.11.2 has no filters; from 3.12 on to name none is a warning.
            trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
            archive.extractall(root, **trusted)


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


@pytest.fixture(scope="module")
def package(built: dict[str, Path]) -> Package:
    return Package.read(built["spind"])


@pytest.fixture(scope="module")
def root(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty root with what the package installs. Nobody writes there."""
    folder = tmp_path_factory.mktemp("root")
    package.unpack(folder)
    return folder


# -- what is built ---------------------------------------------------------------------------


def test_the_same_bytes_twice(built: dict[str, Path], tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        again = build(tmp_path / "dist", PYTHONHASHSEED="7", TZ="Asia/Tokyo", PYTHONOPTIMIZE="1")
    finally:
        os.umask(mask)
    assert {name: path.read_bytes() for name, path in again.items()} == {
        name: path.read_bytes() for name, path in built.items()
    }
    assert set(again) == {"spind", "spind-iptables"}


def test_nothing_but_the_time_depends_on_the_time(package: Package, tmp_path: Path) -> None:
    later = Package.read(build(tmp_path / "dist", EPOCH + 86_400)["spind"])
    assert later.fields()["SourceDateEpoch"] == str(EPOCH + 86_400)
    assert {info.mtime for info in later.infos().values()} == {EPOCH + 86_400}
    contents = [gzip.decompress(each.data) for each in (package, later)]
    with (
        tarfile.open(fileobj=io.BytesIO(contents[0])) as old,
        tarfile.open(fileobj=io.BytesIO(contents[1])) as new,
    ):
        assert all(_content(old, info.name) == _content(new, info.name) for info in old if info.isfile())


def test_the_time_is_that_of_the_commit_unless_told(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    git = subprocess.run(
        ["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    if git.returncode:
        pytest.skip("no git checkout")
    command = [BUILD, "--python", sys.executable, "--output", tmp_path]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    path = next(tmp_path.glob("spind_*.ipk"))
    assert Package.read(path).fields()["SourceDateEpoch"] == git.stdout.strip()


@pytest.mark.parametrize("epoch", ["", "-1", "yesterday"])
def test_a_wrong_time_is_refused(epoch: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [BUILD, "--python", sys.executable, "--output", tmp_path / "dist"],
        env=os.environ | {"SOURCE_DATE_EPOCH": epoch},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "SOURCE_DATE_EPOCH" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [BUILD, "--python", "/bin/true/python", "--output", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is not a CPython" in done.stderr


def test_the_archive_is_as_opkg_wants_it(built: dict[str, Path], package: Package) -> None:
    assert package.members == ["./debian-binary", "./data.tar.gz", "./control.tar.gz"]
    for data in (built["spind"].read_bytes(), package.data):
        # RFC 1952, section 2.3: no name, no time.
        assert data[:4] == b"\x1f\x8b\x08\x00"
        assert data[4:8] == bytes(4)
    name = built["spind"].name
    assert name == f"spind_{package.fields()['Version']}_all.ipk"


def test_control_fields(package: Package) -> None:
    fields = package.fields()
    data = gzip.decompress(package.data)
    assert fields["Package"] == "spind"
    assert fields["Version"].replace("~", "") == f"{spind.__version__}-r1"
    assert fields["Architecture"] == "all"
    assert fields["License"] == "GPL-2.0-or-later"
    assert fields["Installed-Size"] == str(len(data))
    assert fields["Description"].startswith("Shows and controls")
    depends = fields["Depends"].split(", ")
    assert len(set(depends)) == len(depends)
    assert f"libpython3-{PYTHON}" in depends
    assert {"python3-light", "python3-netfilterqueue", "kmod-nft-queue", "nftables-json"} <= set(depends)
    assert "python3-iptables" not in depends
    assert all(re.fullmatch(r"[a-z0-9.+-]+( \(>= [\d.]+\))?", need) for need in depends)
    assert package.control["control"][0].endswith("\n")


def test_the_iptables_variant_has_the_same_files(built: dict[str, Path], package: Package) -> None:
    variant = Package.read(built["spind-iptables"])
    assert variant.data == package.data
    fields = variant.fields()
    assert fields["Provides"] == "spind"
    depends = fields["Depends"].split(", ")
    assert {"python3-iptables", "kmod-ipt-ipset", "kmod-ipt-nfqueue"} <= set(depends)
    assert not any("nft" in need for need in depends)


def test_configuration_files_and_scripts(package: Package) -> None:
    modes = {name: info.mode for name, (_, info) in package.control.items()}
    assert modes == {
        "conffiles": 0o644,
        "control": 0o644,
        "postinst": 0o755,
        "prerm": 0o755,
        "prerm-pkg": 0o755,
    }
    assert package.control["conffiles"][0] == "/etc/config/spin\n"
    for name in ("postinst", "prerm", "prerm-pkg"):
        subprocess.run(["sh", "-n"], input=package.control[name][0].encode(), check=True)


# -- what is installed -----------------------------------------------------------------------


def test_every_path_owner_and_mode(package: Package) -> None:
    infos = package.infos()
    expected = dict(FILES)
    folders = {parent for name in expected for parent in Path(name).parents}
    expected |= {"." if str(folder) == "." else f"./{folder}": 0o755 for folder in folders}
    assert {name: info.mode for name, info in infos.items()} == expected
    for name, info in infos.items():
        assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", ""), name
        assert info.isfile() or info.isdir(), name
        assert info.mtime == EPOCH, name
    assert list(infos) == sorted(infos, key=lambda name: Path(name).parts)


def test_the_archive_holds_every_module_once(root: Path) -> None:
    assert (root / SITE / "spind.pth").read_text() == "spind.zip\n"
    paths = [path for path in (ROOT / "spind").rglob("*") if path.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts]
    names = [f"{name}c" if name.endswith(".py") else name for name in names]
    with zipfile.ZipFile(root / ARCHIVE) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    held = [info.filename for info in infos]
    assert sorted(held) == sorted(name for name in names if not ROUTER_HAS_NOT.search(f"/{name}"))
    assert "spind/daemon.pyc" in held
    assert {info.external_attr >> 16 for info in infos} == {0o100644}
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}


def test_the_page_can_be_read_from_the_archive(root: Path) -> None:
    sources = {
        f"/static/{path.relative_to(ROOT / 'spind/web/static').as_posix()}": path.read_bytes()
        for path in (ROOT / "spind/web/static").rglob("*")
        if path.is_file() and path.suffix.removeprefix(".") in TYPES
    }
    assert sources
    script = (
        "import hashlib\nfrom spind.web.messages import Request\nfrom spind.web.pages import Pages\n"
        "pages = Pages()\n"
        "for path in pages.paths:\n"
        "    got = pages.get(Request('GET', path, {}, {}, b'', '::1', False, '::1'))\n"
        "    print(path, hashlib.sha256(got.body).hexdigest())\n"
    )
    done = _python(root, "-c", script)
    assert done.returncode == 0, done.stderr
    served = dict(line.split() for line in done.stdout.splitlines())
    assert set(sources) == served.keys() - {"/", "/index.html"}
    for path, digest in served.items():
        source = sources["/static/index.html" if path in {"/", "/index.html"} else path]
        assert digest == hashlib.sha256(source).hexdigest(), path


def test_it_is_small(package: Package) -> None:
    assert sum(info.size for info in package.infos().values()) <= BUDGET


def _python(root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    # Without the hooks of site: an editable installation of the checkout would lend what the package lacks.
    libraries = sysconfig.get_path("purelib")
    environment = os.environ | {"PYTHONPATH": f"{root / ARCHIVE}{os.pathsep}{libraries}"}
    return subprocess.run(
        [sys.executable, "-S", *words], env=environment, capture_output=True, text=True, check=False, cwd=root
    )


def test_byte_code_runs_without_its_sources(root: Path) -> None:
    assert not list(root.rglob("*.py"))
    done = _python(root, "-c", "import spind.daemon; print(spind.daemon.__file__)")
    assert done.stdout == f"{root / ARCHIVE}/spind/daemon.pyc\n", done.stderr
    # A traceback names the file where it would be on the router.
    done = _python(root, "-c", "from spind import model; model.parse_mac('x')")
    assert re.search(
        rf'File "/{ARCHIVE.removeprefix("./")}/spind/model.py", line \d+, in parse_mac', done.stderr
    )


def test_python_finds_it_by_the_path_file(root: Path) -> None:
    # What the module "site" does for site-packages at each start.
    script = f"import site; site.addsitedir({str(root / SITE)!r}); import spind; print(spind.__file__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    )
    assert done.stdout == f"{root / ARCHIVE}/spind/__init__.pyc\n", done.stderr


def test_commands_that_a_router_does_not_have_say_so(root: Path) -> None:
    done = _python(root, str(root / "usr/bin/spind"), "--help")
    assert done.returncode == 0
    assert "list what is blocked" in done.stdout
    for name in ("replay", "lab"):
        done = _python(root, str(root / "usr/bin/spind"), name)
        assert done.returncode == 1
        assert "not part of this installation" in done.stderr


# -- scripts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "function"), [("postinst", "default_postinst"), ("prerm", "default_prerm")])
def test_scripts_leave_the_work_to_openwrt(
    name: str, function: str, package: Package, tmp_path: Path
) -> None:
    script = tmp_path / f"spind.{name}"
    script.write_text(package.control[name][0])
    script.chmod(0o755)

    def run(**environment: str) -> str:
        done = subprocess.run(
            ["sh", script, "configure"],
            env={"PATH": os.environ["PATH"], "IPKG_INSTROOT": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert run() == ""  # no OpenWrt there
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/functions.sh").write_text(f'{function}() {{ echo "$@"; }}\n')
    assert run() == f"{script} configure\n"
    if name == "postinst":
        assert run(IPKG_NO_SCRIPT="1") == ""


@pytest.mark.parametrize(
    ("environment", "purged"),
    [
        ({"PKG_UPGRADE": "0"}, True),
        ({}, True),
        ({"PKG_UPGRADE": "1"}, False),
        ({"IPKG_INSTROOT": "/x"}, False),
    ],
)
def test_only_removal_takes_the_rules_away(
    environment: dict[str, str], purged: bool, package: Package, tmp_path: Path
) -> None:
    service = tmp_path / "spin"
    service.write_text('#!/bin/sh\necho "$@"\n')
    service.chmod(0o755)
    script = package.control["prerm-pkg"][0].replace("/etc/init.d/spin", str(service))
    done = subprocess.run(
        ["sh", "-c", script], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == ("purge\n" if purged else "")


# -- running it ------------------------------------------------------------------------------


@contextmanager
def namespace() -> Iterator[list[str]]:
    """A network namespace with a loopback interface; gives the words that run a command in it."""
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"ready\n"
            yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        finally:
            holder.stdin.close()


def _configured(root: Path, folder: Path) -> Path:
    """The shipped configuration, with paths below a folder and the loopback interface for a home."""
    text = (root / "etc/config/spin").read_text()
    places = {
        "rpc_socket": folder / "rpc.sock",
        "ubus_socket": folder / "ubus.sock",
        "state_dir": folder / "state",
        "history_dir": folder / "history",
    }
    for name, path in places.items():
        text, count = re.subn(
            rf"^\t#option {name} .*$", f"\toption {name} '{path}'", text, flags=re.MULTILINE
        )
        assert count == 1
    text = text.replace("\tlist lan 'lan'\n", "\tlist lan 'lo'\n")
    text = text.replace("\t#option log_usesyslog '1'\n", "\toption log_usesyslog '0'\n")
    file = folder / "spin"
    file.write_text(text)
    return file


@contextmanager
def running(
    root: Path, config: Path, inside: list[str], log: Path, *before: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """The installed daemon, as procd starts it; modules are looked for in ``before`` first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*before, root / ARCHIVE)))}
    command = [*inside, sys.executable, str(root / "usr/bin/spind"), "run", "-c", str(config)]
    with log.open("wb") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _status(socket: Path, process: "subprocess.Popen[bytes]", log: Path) -> dict[str, object]:
    """The first answer to ``status``."""
    found: dict[str, object] = {}

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with Client(str(socket)) as client:
                found.update(client.call("status"))
        except ClientError:
            return False
        return True

    wait_until(answers, patient(30), "spind's first answer")
    return found


@pytest.mark.lab
def test_it_runs_from_where_it_was_unpacked(root: Path, tmp_path: Path) -> None:
    config, log = _configured(root, tmp_path), tmp_path / "log"
    with namespace() as inside:
        with running(root, config, inside, log) as process:
            status = _status(tmp_path / "rpc.sock", process, log)
            assert status["version"] == spind.__version__
            assert status["config"] == {"file": str(config), "problems": []}
            assert status["interfaces"] == ["lo"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(patient(20)) == 0
        # What is blocked stays blocked (block_on_stop), until the package is removed.
        tables = [*inside, "nft", "list", "tables"]
        chains = [*inside, "iptables-legacy", "-S"]
        left = [subprocess.run(each, capture_output=True, text=True, check=True) for each in (tables, chains)]
        assert "spin" in left[0].stdout or "SPIN" in left[1].stdout
        purge = subprocess.run(
            [*inside, sys.executable, root / "usr/libexec/spin-purge"],
            env=os.environ | {"PYTHONPATH": str(root / ARCHIVE)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (purge.returncode, purge.stderr) == (0, "")
        for each in (tables, chains, [*inside, "iptables-legacy", "-t", "mangle", "-S"]):
            done = subprocess.run(each, capture_output=True, text=True, check=True)
            assert "spin" not in done.stdout.lower()


@pytest.mark.lab
def test_two_capabilities_are_enough(root: Path, tmp_path: Path) -> None:
    """Those of /etc/capabilities/spind.json, which ujail leaves the daemon."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    config, log = _configured(root, tmp_path), tmp_path / "log"
    few = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all", "--no-new-privs"]
    with namespace() as inside, running(root, config, [*inside, *few], log) as process:
        status = _status(tmp_path / "rpc.sock", process, log)
        assert status["problems"] == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(patient(20)) == 0


@pytest.mark.lab
def test_it_serves_the_page(root: Path, tmp_path: Path) -> None:
    config, log = _configured(root, tmp_path), tmp_path / "log"
    with namespace() as inside, running(root, config, inside, log) as process:
        status = partial(_status, tmp_path / "rpc.sock", process, log)
        wait_until(lambda: status()["web"]["url"] == "http://127.0.0.1:13026/", patient(30), "the page")
        fetch = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:13026/').status)"
        done = subprocess.run(
            [*inside, sys.executable, "-c", fetch], capture_output=True, text=True, check=False
        )
        assert done.stdout == "200\n", done.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(patient(20)) == 0


@pytest.mark.lab
def test_it_runs_without_tornado(root: Path, tmp_path: Path) -> None:
    """Installed by force, on a router that has no room for it."""
    config, log = _configured(root, tmp_path), tmp_path / "log"
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "tornado.py").write_text("raise ModuleNotFoundError('No module', name='tornado')\n")
    with namespace() as inside, running(root, config, inside, log, absent) as process:
        status = _status(tmp_path / "rpc.sock", process, log)
        sentence = "no web interface: tornado is not installed (python3-tornado)"
        assert status["problems"] == [sentence]
        assert status["web"]["url"] == ""
        process.send_signal(signal.SIGTERM)
        assert process.wait(patient(20)) == 0
    said = log.read_text()
    assert said.count(sentence) == 1
    assert "Traceback" not in said


# -- installing, upgrading, removing ---------------------------------------------------------


class Installer(Protocol):
    """What puts packages into a root."""

    root: Path

    def install(self, ipk: Path) -> None: ...
    def remove(self) -> None: ...


class StandIn:
    """opkg's rule for configuration files, and its list of files.

    One that was changed since it was installed stays, and what the package brings goes beside it, as
    ``-opkg``. At a removal, one that was changed stays.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._installed: dict[str, str] = {}
        self._files: list[str] = []

    def install(self, ipk: Path) -> None:
        package = Package.read(ipk)
        kept = {}
        conffiles = package.control["conffiles"][0].split()
        for name in conffiles:
            file = self.root / name.lstrip("/")
            if file.exists() and self._installed.get(name) != _digest(file):
                kept[name] = file.read_bytes()
        package.unpack(self.root)
        self._files = [name for name, info in package.infos().items() if info.isfile()]
        for name in conffiles:
            file = self.root / name.lstrip("/")
            self._installed[name] = _digest(file)
            if name in kept and kept[name] != file.read_bytes():
                file.rename(f"{file}-opkg")
                file.write_bytes(kept[name])

    def remove(self) -> None:
        for name in self._files:
            key = name.removeprefix(".")
            if key not in self._installed or self._installed[key] == _digest(self.root / name):
                (self.root / name).unlink()


class Opkg:
    """The real one, for a root that is not this machine's, in which all that spind needs is installed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("etc", "tmp", "var/lock", "usr/lib/opkg/info"):
            (root / name).mkdir(parents=True)
        self._conf = root.parent / "opkg.conf"
        self._conf.write_text("dest root /\nlists_dir ext /var/opkg-lists\narch all 1\narch test 10\n")

    def install(self, ipk: Path) -> None:
        self._have(Package.read(ipk).fields()["Depends"].split(", "))
        self._run("install", str(ipk))
        assert "spind - " in self._run("list-installed")

    def remove(self) -> None:
        self._run("remove", "spind")
        assert "spind - " not in self._run("list-installed")

    def lacking(self, need: str, ipk: Path) -> str:
        """What it says where one of the packages is missing."""
        names = Package.read(ipk).fields()["Depends"].split(", ")
        self._have([name for name in names if not name.startswith(need)])
        return self._run("install", str(ipk), refused=True)

    def _have(self, needs: list[str]) -> None:
        status = self.root / "usr/lib/opkg/status"
        if status.exists():
            return
        fields = "Version: 2.1.0-r1\nStatus: install ok installed\nArchitecture: test\n"
        status.write_text("".join(f"Package: {need.partition(' ')[0]}\n{fields}\n" for need in needs))

    def _run(self, *words: str, refused: bool = False) -> str:
        done = subprocess.run(
            ["opkg", "--offline-root", self.root, "--conf", self._conf, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=patient(60),
        )
        assert (done.returncode != 0) == refused, done.stdout + done.stderr
        return done.stdout + done.stderr


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(params=[StandIn, Opkg])
def installer(request: pytest.FixtureRequest, tmp_path: Path) -> Installer:
    if request.param is Opkg and shutil.which("opkg") is None:
        pytest.skip("opkg is not installed")
    made: Installer = request.param(tmp_path / "root")
    return made


class Changed(NamedTuple):
    """Another version of the package, with another configuration file."""

    ipk: Path
    shipped: bytes


@pytest.fixture(scope="module")
def newer(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Changed:
    """The package as it will be: made anew out of this one's parts, with a higher version."""
    folder = tmp_path_factory.mktemp("newer")
    package.unpack(folder / "root")
    config = folder / "root/etc/config/spin"
    config.write_text(config.read_text() + "\n# New in this version.\n")
    ipk = folder / "spind_99.0-r1_all.ipk"
    script = """
import sys
from pathlib import Path
import archive
root, control, out = map(Path, sys.argv[1:])
files = {path.name: (path.read_text(), path.stat().st_mode & 0o7777) for path in control.iterdir()}
out.write_bytes(archive.ipk(archive.tar(archive.entries_of(root), 1), files, 1))
"""
    control = folder / "control"
    control.mkdir()
    for name, (text, info) in package.control.items():
        (control / name).write_text(re.sub(r"^Version: .*$", "Version: 99.0-r1", text, flags=re.MULTILINE))
        (control / name).chmod(info.mode)
    subprocess.run(
        [sys.executable, "-c", script, folder / "root", control, ipk],
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts/ipk"), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    return Changed(ipk, config.read_bytes())


def test_an_edited_configuration_outlives_an_upgrade(
    installer: Installer, built: dict[str, Path], newer: Changed
) -> None:
    installer.install(built["spind"])
    config = installer.root / "etc/config/spin"
    edited = config.read_bytes() + b"\nconfig rule\n\toption domain 'ads.example'\n\toption action 'block'\n"
    config.write_bytes(edited)
    installer.install(newer.ipk)
    assert config.read_bytes() == edited
    assert config.with_name("spin-opkg").read_bytes() == newer.shipped
    assert (installer.root / "usr/bin/spind").stat().st_mode & 0o777 == 0o755


def test_a_configuration_as_shipped_is_brought_up_to_date(
    installer: Installer, built: dict[str, Path], newer: Changed
) -> None:
    installer.install(built["spind"])
    installer.install(newer.ipk)
    assert (installer.root / "etc/config/spin").read_bytes() == newer.shipped
    assert not (installer.root / "etc/config/spin-opkg").exists()


def test_the_configuration_of_spin_1_0_stays(installer: Installer, built: dict[str, Path]) -> None:
    config = installer.root / "etc/config/spin"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("config spind 'spind'\n\toption pubsub_port '1885'\n")
    before = config.read_bytes()
    installer.install(built["spind"])
    assert config.read_bytes() == before
    assert config.with_name("spin-opkg").exists()


def test_removal_leaves_nothing_but_what_people_wrote(installer: Installer, built: dict[str, Path]) -> None:
    installer.install(built["spind"])
    config = installer.root / "etc/config/spin"
    config.write_text(config.read_text() + "# mine\n")
    installer.remove()
    left = [path for path in installer.root.rglob("*spin*") if path.is_file()]
    assert left == [config]


@pytest.mark.skipif(shutil.which("opkg") is None, reason="opkg is not installed")
def test_opkg_refuses_where_something_is_missing(built: dict[str, Path], tmp_path: Path) -> None:
    said = Opkg(tmp_path / "root").lacking("python3-paho-mqtt", built["spind"])
    assert "python3-paho-mqtt (>= 2.1.0)" in said
    assert not (tmp_path / "root/usr/bin/spind").exists()


@pytest.mark.skipif(shutil.which("opkg") is None, reason="opkg is not installed")
def test_opkg_orders_versions_as_meant(tmp_path: Path) -> None:
    (tmp_path / "var/lock").mkdir(parents=True)
    for older, newer in [
        ("2.0.0~a1-r1", "2.0.0~a2-r1"),
        ("2.0.0~rc1-r1", "2.0.0-r1"),
        ("2.0.0-r1", "2.0.0-r2"),
    ]:
        command = ["opkg", "--offline-root", tmp_path, "compare-versions", older, "<<", newer]
        assert subprocess.run(command, check=False).returncode == 0, (older, newer)
