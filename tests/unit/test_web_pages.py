# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of the page, and nothing else."""

import gzip
from pathlib import Path

import pytest
from web_parts import headers, web

from spind.web.messages import Response
from spind.web.pages import TYPES, Pages

SCRIPT = b"export const x = 1;\n" * 100


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    root = tmp_path / "static"
    (root / "js").mkdir(parents=True)
    (root / "vendor").mkdir()
    (root / "index.html").write_bytes(b"<!doctype html><title>x</title>")
    (root / "js" / "app.js").write_bytes(SCRIPT)
    (root / "vendor" / "lib.js").write_bytes(SCRIPT + b"//")
    (root / "vendor" / "LICENSE").write_bytes(b"not served: no type")
    (tmp_path / "secret.txt").write_text("secret")
    return Pages(root)


def test_the_page_is_at_the_root(pages: Pages) -> None:
    parts = web(pages=pages)
    for path in ("/", "/index.html", "/static/index.html"):
        reply = parts.ask("GET", path, cookie="")
        assert isinstance(reply, Response)
        assert (reply.status, reply.content_type) == (200, "text/html; charset=utf-8")


def test_files_are_compressed_for_those_who_take_it(pages: Pages) -> None:
    parts = web(pages=pages)
    plain = parts.ask("GET", "/static/js/app.js")
    assert plain.body == SCRIPT
    assert headers(plain)["Vary"] == "Accept-Encoding"
    packed = parts.ask("GET", "/static/js/app.js", accept_encoding="br, GZIP;q=0.5")
    assert headers(packed)["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == SCRIPT
    refused = parts.ask("GET", "/static/js/app.js", accept_encoding="gzip;q=0, br")
    assert refused.body == SCRIPT
    assert "Content-Encoding" not in headers(refused)


def test_what_a_browser_has_is_not_sent_again(pages: Pages) -> None:
    parts = web(pages=pages)
    first = parts.ask("GET", "/static/js/app.js")
    tag = headers(first)["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = parts.ask("GET", "/static/js/app.js", if_none_match=known)
        assert (again.status, again.body, headers(again)["ETag"]) == (304, b"", tag), known
    assert parts.ask("GET", "/static/js/app.js", if_none_match='"other"').status == 200
    assert headers(first)["Cache-Control"] == "no-cache"
    assert headers(parts.ask("GET", "/static/vendor/lib.js"))["Cache-Control"].startswith("max-age=")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../secret.txt",
        "/static/..%2fsecret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/js/../../../secret.txt",
        "/static/..\\secret.txt",
        "//etc/passwd",
        "/static//etc/passwd",
        "/static/../../../../../../etc/passwd",
        "/static/%00",
        "/static/js/app.js%00.css",
        "/static/js",
        "/static/js/",
        "/static/",
        "/static",
        "/static/js/app.js/",
        "/static/JS/app.js",
        "/static/vendor/LICENSE",
        "http://192.168.8.1/static/js/app.js",
        "*",
        "",
    ],
)
def test_there_is_nothing_else(pages: Pages, path: str) -> None:
    status, answer = web(pages=pages).get("GET", path)
    assert (status, answer["title"]) == (404, "Not Found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_files_can_only_be_read(pages: Pages, method: str) -> None:
    reply = web(pages=pages).ask(method, "/")
    assert (reply.status, headers(reply)["Allow"]) == (405, "GET, HEAD")


def test_the_shipped_page_holds_only_what_is_served() -> None:
    """A file of another kind would be in the package and never be found."""
    static = Path(__file__).parents[2] / "spind" / "web" / "static"
    files = [path.relative_to(static).as_posix() for path in static.rglob("*") if path.is_file()]
    served = Pages().paths
    for name in files:
        assert f"/static/{name}" in served or Path(name).name == "README.md", name
    assert "/" in served
    assert {path.rpartition(".")[2] for path in served if path != "/"} <= set(TYPES)


def test_the_shipped_page_is_small() -> None:
    """What a first visit transfers, at most: all files, compressed."""
    files = Pages()._files
    sizes = {path: len(file.content) for path, file in files.items() if path != "/"}
    assert sum(sizes.values()) <= 400 * 1024, sizes
