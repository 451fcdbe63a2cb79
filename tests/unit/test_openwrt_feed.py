# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder ``openwrt`` as a feed: its Makefiles, read by make with stand-ins for OpenWrt's own files.

And what the package says it needs, compared with what spind really imports.
"""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import spind

ROOT = Path(__file__).parent.parent.parent
FEED = ROOT / "openwrt"
MAKEFILES = sorted(FEED.glob("*/Makefile"))

SPLITS = {
    "asyncio": ("asyncio",),
    "codecs": ("unicodedata", "_codecs_cn"),
    "ctypes": ("ctypes", "_ctypes"),
    "dbm": ("dbm",),
    "decimal": ("decimal", "_decimal"),
    "distutils": ("distutils",),
    "email": ("email",),
    "lib2to3": ("lib2to3",),
    "logging": ("logging",),
    "lzma": ("lzma", "_lzma"),
    "multiprocessing": ("multiprocessing", "_multiprocessing"),
    "ncurses": ("curses", "_curses"),
    "openssl": ("ssl", "_ssl", "_hashlib"),
    "pydoc": ("pydoc", "doctest", "pydoc_data"),
    "readline": ("readline",),
    "sqlite3": ("sqlite3", "_sqlite3"),
    "unittest": ("unittest",),
    "urllib": ("urllib",),
    "uuid": ("uuid", "_uuid"),
    "venv": ("venv", "ensurepip"),
    "xml": ("xml", "xmlrpc", "pyexpat", "_elementtree"),
}
"""Parts of Python's library that OpenWrt 23.05 to 25.12 packages apart, as python3-..., with the modules in
them. All else is in python3-light."""

STAND_IN = {
    "rules.mk": "INCLUDE_DIR:=$(TOPDIR)/include\nall:;@:\n",
    "feeds/packages/lang/python/pypi.mk": "",
    "include/package.mk": r"""
define BuildPackage
  DEPENDS:=
  EXTRA_DEPENDS:=
  CONFLICTS:=
  PROVIDES:=
  PKGARCH:=
  TITLE:=
  $(call Package/$(1))
  $$(info $(1)|version|$(PKG_VERSION)-r$(PKG_RELEASE))
  $$(info $(1)|hash|$(PKG_HASH))
  $$(info $(1)|license|$(PKG_LICENSE))
  $$(info $(1)|title|$$(TITLE))
  $$(info $(1)|arch|$$(PKGARCH))
  $$(info $(1)|depends|$$(DEPENDS))
  $$(info $(1)|extra|$$(EXTRA_DEPENDS))
  $$(info $(1)|conflicts|$$(CONFLICTS))
  $$(info $(1)|provides|$$(PROVIDES))
  $$(info $(1)|conffiles|$$(Package/$(1)/conffiles))
  $$(info $(1)|prerm|$$(subst $$(newline),@,$$(Package/$(1)/prerm)))
  $$(info $(1)|install|$$(call Package/$(1)/install,ROOT))
endef
define newline


endef
""",
    "feeds/packages/lang/python/python3-package.mk": r"""
PYTHON3_PKG_DIR:=/usr/lib/python3.11/site-packages
define Python3/Run
$(2)
endef
define Py3Package
  define Package/$(1)-src
    $(call Package/$(1))
  endef
endef
""",
}


def _ipk(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ipk_{name}", ROOT / "scripts" / "ipk" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


control = _ipk("control")
tree = _ipk("tree")


class Packages(NamedTuple):
    """What make found: fields of packages by name."""

    fields: dict[str, dict[str, str]]

    def depends(self, package: str) -> set[str]:
        """Names, without marks and conditions."""
        words = self.fields[package]["depends"].split()
        assert all(word.startswith("+") for word in words)
        return {word.removeprefix("+").rpartition(":")[2] for word in words}


@pytest.fixture(scope="module")
def topdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    top = tmp_path_factory.mktemp("sdk")
    for name, text in STAND_IN.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return top


def read(topdir: Path, makefile: Path, *variables: str) -> Packages:
    command = ["make", "-s", "-C", makefile.parent, "-f", "Makefile", f"TOPDIR={topdir}", *variables]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    fields: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        package, name, value = line.split("|", 2)
        fields.setdefault(package, {})[name] = value.strip()
    return Packages(fields)


@pytest.fixture(scope="module")
def feed(topdir: Path) -> Packages:
    """All packages of the feed."""
    fields: dict[str, dict[str, str]] = {}
    for makefile in MAKEFILES:
        fields |= read(topdir, makefile).fields
    return Packages(fields)


def test_all_of_the_feed_is_there(feed: Packages) -> None:
    names = {name for name in feed.fields if not name.endswith("-src")}
    modules = {
        "python3-iptables",
        "python3-netfilterqueue",
        "python3-paho-mqtt",
        "python3-publicsuffixlist",
        "python3-tornado",
    }
    assert names == modules | {"spind", "spind-iptables"}
    assert {f"{name}-src" for name in modules} <= set(feed.fields)
    for fields in feed.fields.values():
        assert fields["title"]
        assert fields["license"]


def test_sources_are_what_the_package_index_has(feed: Packages) -> None:
    for name, fields in feed.fields.items():
        if name.startswith("python3-"):
            assert re.fullmatch("[0-9a-f]{64}", fields["hash"]), name


def test_modules_are_recent_enough_for_spind(feed: Packages) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        name, least = requirement.lower().split(">=")
        if name == "scapy":
            continue  # for capture files only, which routers do not read
        package = "python3-" + name.removeprefix("python-")
        version = feed.fields[package]["version"].partition("-")[0]
        assert [int(part) for part in version.split(".")] >= [int(part) for part in least.split(".")], name


def test_the_sdk_and_the_ipk_say_the_same(feed: Packages) -> None:
    assert [variant.name for variant in control.VARIANTS] == ["spind", "spind-iptables"]
    for variant in control.VARIANTS:
        fields = feed.fields[variant.name]
        assert fields["version"] == control.package_version(spind.__version__)
        assert fields["arch"] == "all"
        assert fields["conffiles"].split() == list(control.CONFFILES)
        assert fields["conflicts"].split() == list(variant.conflicts)
        assert fields["provides"].split() == list(variant.provides)
        bare = {need.partition(" ")[0] for need in variant.depends}
        assert feed.depends(variant.name) == bare
        constrained = [need for need in variant.depends if "(" in need]
        assert fields["extra"] == ", ".join(constrained)
        files = control.control_files(variant, spind.__version__, "3.11", 1, 1)
        assert fields["prerm"].replace("@", "\n").replace("$$", "$") + "\n" == files["prerm-pkg"][0]
        assert fields["install"] == f"{ROOT}/scripts/ipk/tree.py ROOT"


@pytest.mark.parametrize(
    ("version", "opkg"),
    [
        ("2.0.0a1", "2.0.0~a1-r1"),
        ("2.0.0b12", "2.0.0~b12-r1"),
        ("2.0.0rc1", "2.0.0~rc1-r1"),
        ("2.0.0", "2.0.0-r1"),
        ("10.1", "10.1-r1"),
    ],
)
def test_a_pre_release_comes_before_the_release(topdir: Path, version: str, opkg: str) -> None:
    assert control.package_version(version) == opkg
    makefile = FEED / "spind" / "Makefile"
    made = read(topdir, makefile, f"SPIND_VERSION={version}").fields["spind"]["version"]
    assert made == opkg
    made = read(topdir, makefile, f"SPIND_VERSION={version}", "CONFIG_USE_APK=y").fields["spind"]["version"]
    # A version as apk-tools defines it: digits, then words such as _alpha and _rc.
    assert re.fullmatch(r"\d+(\.\d+)*(_(alpha|beta|rc)\d+)?-r\d+", made)


def test_every_python_package_has_somebody_who_makes_it(feed: Packages) -> None:
    for name in feed.fields:
        for need in feed.depends(name):
            if need.startswith("python3-") and need != "python3-light":
                assert need in feed.fields or need.removeprefix("python3-") in SPLITS, f"{name}: {need}"


# -- what spind really imports -----------------------------------------------------------------

_IMPORT_ALL = """
import sys
missing, everything = set(sys.argv[1].split()), sys.argv[2].split()

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for name in list(sys.modules):
    if name.partition(".")[0] in missing:
        del sys.modules[name]
for name in everything:
    __import__(name)
print(*sys.modules)
"""


def _declared(feed: Packages, package: str) -> set[str]:
    """The splits that the package brings along, by itself or by another package of the feed."""
    found: set[str] = set()
    for need in feed.depends(package):
        if need in feed.fields:
            found |= _declared(feed, need)
        elif need.removeprefix("python3-") in SPLITS:
            found.add(need.removeprefix("python3-"))
    return found


def _modules() -> list[str]:
    """All modules that are shipped, by name."""
    paths = [path for path in tree.shipped() if path.suffix == ".py"]
    names = [".".join(("spind", *path.with_suffix("").parts)) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("package", ["spind", "spind-iptables"])
def test_the_parts_of_python_it_needs_are_those_it_imports(feed: Packages, package: str) -> None:
    declared = _declared(feed, package)
    absent = [module for split, modules in SPLITS.items() if split not in declared for module in modules]
    command = [sys.executable, "-c", _IMPORT_ALL, " ".join(absent), " ".join(_modules())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    own = {need.removeprefix("python3-") for need in feed.depends(package)} & set(SPLITS)
    unused = {split for split in own if not loaded & set(SPLITS[split])}
    assert not unused


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_that_is_shipped_needs_what_is_not() -> None:
    left_out = {"spind." + name.removesuffix(".py").replace("/", ".") for name in tree.LEFT_OUT}
    for name in tree.LEFT_OUT:
        assert (ROOT / "spind" / name).exists(), f"{name} is gone: take it off the list"
    for name in tree.shipped():
        if name.suffix == ".py":
            needed = {
                module
                for module in _imports(ROOT / "spind" / name)
                for left in left_out
                if module == left or module.startswith(f"{left}.")
            }
            assert not needed, name


def test_byte_code_without_asserts_and_docstrings_is_the_same_program() -> None:
    for name in tree.shipped():
        if name.suffix == ".py":
            for node in ast.walk(ast.parse((ROOT / "spind" / name).read_text())):
                assert not isinstance(node, ast.Assert), name
                assert not (isinstance(node, ast.Attribute) and node.attr == "__doc__"), name
                assert not (isinstance(node, ast.Name) and node.id in ("__debug__", "__doc__")), name
