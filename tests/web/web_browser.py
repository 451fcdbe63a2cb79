# SPDX-License-Identifier: GPL-2.0-or-later
"""Chromium inside a lab's gateway, and visits to the page in which nothing may go wrong unnoticed.

The browser's processes live in the gateway's network namespace, so that it reaches the daemon on
loopback and nothing else. A ``Visit`` keeps every message of the console, every error of a script, every
violation of the content security policy and every address that was asked for, and says so at its end.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from spind.lab.patience import patient

if TYPE_CHECKING:  # importing it takes long, and many runs do without these tests
    from playwright.sync_api import Browser, ConsoleMessage, Download, Locator, Page, Request

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "var" / "test" / "screenshots"

PORT = 13026
HOST = f"127.0.0.1:{PORT}"
PAGE = f"http://{HOST}/"

PATIENCE = 10.0
"""Seconds in which the page is to show something; the machine may be busy."""

DESKTOP = (1280, 800)
PHONE = (390, 844)

_WATCH_POLICY = """
window.__violations = [];
document.addEventListener('securitypolicyviolation', (e) =>
  window.__violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber}`));
"""


class Visit:
    """A window with the page, in a browser that has no memory of others.

    ``with Visit(browser) as visit`` opens it; leaving the block fails the test where something went
    wrong meanwhile that was not expected (``expect_trouble``).
    """

    def __init__(
        self,
        browser: "Browser",
        *,
        size: tuple[int, int] = DESKTOP,
        address: str = PAGE,
        touch: bool = False,
        dark: bool = False,
        language: str = "en-GB",
    ) -> None:
        self._context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            locale=language,
            has_touch=touch,
            service_workers="block",
            reduced_motion="reduce",
        )
        self._context.add_init_script(_WATCH_POLICY)
        self.page: Page = self._context.new_page()
        self._address = address
        self._messages: list[str] = []
        self._errors: list[str] = []
        self._asked: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        self._violations: list[str] = []
        self._opened: list[Page] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._errors.append(str(error)))
        self.page.on("dialog", self._dialog)
        self._context.on("request", self._request)
        self._context.on("page", self._page)

    def __enter__(self) -> Self:
        self.page.goto(self._address)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.check()
        finally:
            self._context.close()

    # -- what goes wrong -----------------------------------------------------------------------

    def _console(self, message: "ConsoleMessage") -> None:
        if message.type in ("error", "warning"):
            self._messages.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def _dialog(self, dialog: Any) -> None:
        self._errors.append(f"a dialog of the browser: {dialog.message}")
        dialog.dismiss()

    def _page(self, page: "Page") -> None:
        if page is not self.page:
            self._opened.append(page)

    def _request(self, request: "Request") -> None:
        self._asked.append(request.url)

    def expect_trouble(self, pattern: str) -> None:
        """A message of the console that this test brings about, for instance by stopping the daemon."""
        self._expected.append(re.compile(pattern))

    def check(self) -> None:
        """Nothing went wrong, and nobody but the daemon was asked for anything."""
        strangers = [url for url in self._asked if urlsplit(url).netloc not in (HOST, "")]
        assert not strangers, f"other hosts were asked: {strangers[:5]}"
        schemes = {urlsplit(url).scheme for url in self._asked}
        assert schemes <= {"http", "https", "data", "blob"}, schemes
        assert not self.evaluate("window.__violations"), "the content security policy was violated"
        assert not self._errors, f"errors of scripts: {self._errors[:5]}"
        said = [m for m in self._messages if not any(p.search(m) for p in self._expected)]
        assert not said, f"the console says: {said[:5]}"
        assert not self._opened, "windows were opened"

    # -- asking and waiting --------------------------------------------------------------------

    def evaluate(self, expression: str, argument: Any = None) -> Any:
        """The value of an expression or a function of JavaScript in the page."""
        return self.page.evaluate(expression, argument)

    def until(self, good: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Look until something is so, while the page goes on; return that. Fails when patience ends."""
        deadline = time.monotonic() + patient(seconds)
        while not (found := good()):
            assert time.monotonic() < deadline, f"the page never came to it: {what}"
            self.page.wait_for_timeout(30)  # not a pause for luck: lets the browser's events in
        return found

    def wait_ready(self) -> Self:
        """The page has the whole state and is live."""
        live = "window.spind?.home?.status === 'live' && window.spind.home.nodes.size > 0"
        self.until(lambda: self.evaluate(live), "a live view of the home")
        return self

    def id(self, name: str) -> "Locator":
        """What has this data-testid."""
        return self.page.get_by_test_id(name)

    # -- the graph -----------------------------------------------------------------------------

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """What the graph shows: ``nodes`` and ``edges`` with colours and places on the page."""
        found: dict[str, list[dict[str, Any]]] = self.evaluate("window.spind.graph.describe()")
        return found

    def node(self, node: int) -> dict[str, Any] | None:
        """A node of the graph, or ``None`` where it is not shown."""
        return next((each for each in self.describe()["nodes"] if each["id"] == node), None)

    def edge(self, device: int, node: int) -> dict[str, Any] | None:
        """The edge between a device and another node, or ``None``."""
        wanted = (device, node)
        return next((e for e in self.describe()["edges"] if (e["device"], e["node"]) == wanted), None)

    def steady(self, place: Callable[[], dict[str, Any] | None], what: str) -> dict[str, Any]:
        """Something of the graph once it moves no more, so that it can be clicked on."""
        before: dict[str, Any] | None = None

        def same() -> dict[str, Any] | None:
            nonlocal before
            now = place()
            known, before = before, now
            if now is None or known is None:
                return None
            still = abs(now["x"] - known["x"]) + abs(now["y"] - known["y"]) < 0.5
            return now if still and self.visible(now) else None

        found: dict[str, Any] = self.until(same, what, 2 * PATIENCE)
        return found

    def visible(self, place: dict[str, Any]) -> bool:
        """Whether the graph itself is at this place of the window, and nothing above it."""
        script = "([x, y]) => !!document.elementFromPoint(x, y)?.closest('#graph')"
        return bool(self.evaluate(script, [place["x"], place["y"]]))

    def click_at(self, place: dict[str, Any]) -> None:
        """A click of the mouse."""
        self.page.mouse.move(place["x"], place["y"], steps=3)
        self.page.mouse.click(place["x"], place["y"])

    def select_edge(self, device: int, node: int) -> None:
        """Click on the edge of a pair."""
        self.click_at(self.steady(lambda: self.edge(device, node), f"an edge {device} - {node}"))
        self.until(self.id("block").first.is_visible, "the panel of the edge")

    def select_node(self, node: int) -> None:
        """Click on a node."""
        self.click_at(self.steady(lambda: self.node(node), f"a node {node}"))
        self.until(self.id("rename").first.is_visible, "the panel of the node")

    def select(self, **what: Any) -> None:
        """Choose a node (``id``) or a pair (``device``, ``node``) as a click on the graph does."""
        kind = "node" if "id" in what else "edge"
        script = """(what) => {
          const { graph } = window.spind;
          graph.select(what);
          graph.dispatchEvent(new CustomEvent("select", { detail: what }));
        }"""
        self.evaluate(script, {"type": kind, **what})

    # -- files ---------------------------------------------------------------------------------

    def download(self, start: Callable[[], object]) -> "Download":
        """The file that the browser saves in consequence of ``start``."""
        with self.page.expect_download(timeout=patient(PATIENCE) * 1000) as waiting:
            start()
        return waiting.value

    def photograph(self, name: str) -> bytes:
        """A screenshot, kept among the artefacts of the test run."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        file = SCREENSHOTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.png"
        return self.page.screenshot(path=file)
