# SPDX-License-Identifier: GPL-2.0-or-later
"""Names from the network that hold markup, control characters for the direction of writing, or far too much.

On the page they are text and nothing else, everywhere.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from blocking import Service, Talk, fresh_port, wait_for
from web_browser import PHONE, Visit
from web_home import WebHome

pytestmark = pytest.mark.lab

MARKUP = "<img src=x onerror=__hit=1>"
SCRIPT = '"><script>__hit=1</script>'
BIDI = "\u202egnp.exe\u202c"
INVISIBLE = "\u200b\u2066\ufeff"
LONG = "a" * 62

NAMES = [
    MARKUP.encode(),
    SCRIPT.encode(),
    BIDI.encode(),
    INVISIBLE.encode() + b"x",
    b"a\x00\x07\x1b[31mb",
    b"\xff\xfe\xc3\x28",
    b"javascript:__hit=1",
    b"{{7*7}}${__hit=1}",
    b"=HYPERLINK(1)",
]
"""Labels of names in the DNS, each below a domain of its own; any byte may be in one (RFC 2181, 11)."""

TABS = ("devices", "sites", "flows", "rules", "profiles", "notifications", "audit", "captures")


def wire(labels: list[bytes]) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


class Resolver:
    """A name server of the internet that answers one name."""

    def __init__(self, home: WebHome, number: int) -> None:
        self.home = home
        self.address = f"198.18.200.{number}"
        self._stack = contextlib.ExitStack()
        self._service = self._stack.enter_context(Service(home.lab.internet, self.address, "udp", 53))

    def close(self) -> None:
        self._stack.close()

    def answer(self, labels: list[bytes], address: str) -> None:
        """The phone asks for a name, and is told an address."""
        question = wire(labels) + struct.pack("!2H", 1, 1)
        query = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + question
        record = b"\xc0\x0c" + struct.pack("!2HIH", 1, 1, 60, 4) + socket.inet_aton(address)
        near = self.home.phone.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        far = self._service.socket
        assert far is not None
        with near:
            near.settimeout(5)
            near.sendto(query, (self.address, 53))
            far.settimeout(5)
            asked, peer = far.recvfrom(4096)
            far.sendto(asked[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + question + record, peer)
            near.recv(4096)


@pytest.fixture(scope="module")
def hostile(home: WebHome) -> Iterator[list[int]]:
    """Nodes with such names: sites that the phone looked up and talked to, a device, rules, a profile."""
    nodes = []
    with contextlib.ExitStack() as stack:
        resolver = Resolver(home, 30)
        stack.callback(resolver.close)
        every = [[label, b"evil%d" % number, b"test"] for number, label in enumerate(NAMES)]
        every.append([LONG.encode(), LONG.encode(), LONG.encode(), LONG[:50].encode()])  # 240 characters
        every += [[label, b"test"] for label in NAMES[:4]]  # the site itself is called so
        for number, labels in enumerate(every):
            address = f"198.18.201.{number + 1}"
            resolver.answer(labels, address)
            service = stack.enter_context(Service(home.lab.internet, address, "udp", fresh_port()))
            with Talk(home.phone, service) as talk:
                talk.establish()
            (node,) = wait_for(
                lambda address=address: home.call("list_nodes", query=address)["items"],
                "a node with the name",
            )
            nodes.append(int(node["id"]))
        camera = home.device_id("camera")
        home.call("set_device_name", node=camera, name=MARKUP)
        home.call("set_device_name", node=nodes[0], name=("w" * 64))
        made = home.call("add_rule", action="block", ip="198.51.100.7", comment=SCRIPT)
        home.call("set_profile", profile="evil", name=MARKUP, description=SCRIPT, default="allow")
        yield nodes
        home.call("remove_profile", profile="evil")
        home.call("remove_rule", id=made["id"])
        for node in (camera, nodes[0]):
            home.call("set_device_name", node=node, name="")


_INERT = """() => ({
  hit: window.__hit ?? 0,
  images: [...document.images].map((image) => image.getAttribute('src')),
  scripts: [...document.scripts].map((script) => script.getAttribute('src')),
  frames: document.querySelectorAll('iframe, object, embed, base').length,
  handlers: [...document.querySelectorAll('*')].filter((each) =>
    each.getAttributeNames().some((name) => name.startsWith('on'))).length,
  links: [...document.links].map((link) => link.protocol),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
})"""

HIDDEN = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\u200e\u200f\ufeff\x00\x07\x1b"


def inert(visit: Visit, view: str) -> None:
    """The page is made of its own elements only, and as wide as the window."""
    found: dict[str, Any] = visit.evaluate(_INERT)
    assert found["hit"] == 0, view
    assert all(source.startswith("/static/") for source in found["images"] + found["scripts"]), found
    assert (found["frames"], found["handlers"]) == (0, 0), view
    assert set(found["links"]) <= {"http:", "blob:"}, view
    assert found["overflow"] <= 0, f"{view}: wider than the window"
    text = visit.page.locator("body").inner_text()
    assert not set(text) & set(HIDDEN), f"{view}: characters that hide or turn others"


def test_lists_show_them_as_text(visit: Visit, hostile: list[int]) -> None:
    for tab in TABS:
        visit.id(f"tab-{tab}").click()
        visit.until(lambda: visit.page.locator("#list").inner_text(), "the list")
        inert(visit, tab)
        visit.photograph(f"hostile {tab}")
    visit.id("tab-devices").click()
    assert MARKUP in visit.page.locator("#list").inner_text(), "it is shown as what it is"
    visit.id("tab-rules").click()
    visit.until(lambda: SCRIPT in visit.page.locator("#list").inner_text(), "the comment")


def test_the_graph_and_the_panel_show_them_as_text(home: WebHome, visit: Visit, hostile: list[int]) -> None:
    camera, phone = home.device_id("camera"), home.device_id("phone")
    for node in (camera, *hostile):
        visit.select(id=node)
        visit.until(visit.id("rename").first.is_visible, "the panel")
        inert(visit, f"panel of {node}")
    for node in hostile:
        visit.select(device=phone, node=node)
        visit.until(visit.id("when").first.is_visible, "the panel")
        inert(visit, f"panel of the edge to {node}")
        panel: Any = visit.page.locator("#panel").bounding_box()
        button: Any = visit.id("block").first.bounding_box()
        assert button["x"] >= panel["x"]
        assert button["x"] + button["width"] <= panel["x"] + panel["width"] + 1
    labels = [node["label"] for node in visit.describe()["nodes"]]
    assert MARKUP[:20] in " ".join(labels)


def test_dialogs_and_toasts_show_them_as_text(home: WebHome, visit: Visit, hostile: list[int]) -> None:
    camera = home.device_id("camera")
    visit.select(id=camera)
    for dialog in ("rename", "profile", "capture"):
        visit.id(dialog).first.click()
        visit.until(visit.page.locator("dialog").first.is_visible, "the dialog")
        inert(visit, f"dialog {dialog}")
        visit.page.keyboard.press("Escape")
        visit.until(lambda: visit.page.locator("dialog").count() == 0, "its end")
    visit.id("block").first.click()
    visit.until(visit.id("undo").first.is_visible, "a toast")
    assert MARKUP in visit.page.locator("#toasts").inner_text()
    inert(visit, "toast")
    visit.id("undo").first.click()
    visit.until(lambda: "undone" in visit.page.locator("#toasts").inner_text().lower(), "the way back")


def test_csv_of_them_calculates_nothing(visit: Visit, hostile: list[int]) -> None:
    visit.id("tab-sites").click()
    file = visit.download(visit.id("export-csv").click)
    for line in file.path().read_text("utf-8").splitlines():
        for field in line.split(","):
            assert not field.strip('"').startswith(("=", "+", "@")), field


def test_a_phone_stays_a_phone(open_page: Any, hostile: list[int]) -> None:
    visit = open_page(size=PHONE, touch=True)
    for node in hostile:
        visit.select(id=node)
        visit.until(visit.id("rename").first.is_visible, "the panel")
        inert(visit, f"panel of {node}")
    visit.photograph("hostile phone")


def test_search_and_filters_take_anything(visit: Visit, hostile: list[int]) -> None:
    for text in (MARKUP, SCRIPT, BIDI, "x" * 5000, "\\", "(", "[", "*", "%", "'"):
        visit.id("search").fill(text)
        visit.page.wait_for_timeout(50)
        inert(visit, "search")
    visit.id("search").fill("")
