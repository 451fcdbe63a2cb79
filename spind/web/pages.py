# SPDX-License-Identifier: GPL-2.0-or-later
"""The page and its files: read once, compressed once, found by their exact name. Pure.

Must not read anything outside the package, and knows no file but those in it: whatever else a path says is
not there.
"""

import gzip
import hashlib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

from spind.web.messages import Request, Response, WebError

TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "webmanifest": "application/manifest+json",
    "woff2": "font/woff2",
}
"""What there may be, by the ending of its name."""

_COMPRESSED = frozenset({"png", "woff2", "ico"})
_REVALIDATE = "no-cache"  # asks each time, and mostly gets 304 (RFC 9111 section 5.2.2.4)
_VENDOR = "max-age=604800"  # a week: these change with a release only


class File(NamedTuple):
    """A file of the page; ``packed`` says that ``content`` is compressed (gzip)."""

    content: bytes
    packed: bool
    content_type: str
    etag: str
    caching: str


class Pages:
    """All files of the page. To make it takes some 0.1 s, mostly of compression: not on the event loop."""

    def __init__(self, root: Traversable | None = None) -> None:
        """``root`` is where ``index.html`` is; the package's own directory if not given."""
        self._files: dict[str, File] = {}
        for name, content in _walk(root or resources.files("spind.web") / "static", ""):
            self._files[f"/static/{name}"] = _file(name, content)
        for path in ("/", "/index.html"):
            if "/static/index.html" in self._files:
                self._files[path] = self._files["/static/index.html"]

    def __contains__(self, path: object) -> bool:
        return path in self._files

    @property
    def paths(self) -> frozenset[str]:
        """The paths that there are."""
        return frozenset(self._files)

    def get(self, request: Request) -> Response:
        """The file at the request's path; ``WebError`` where there is none."""
        file = self._files.get(request.path)
        if file is None:
            raise WebError(404, "there is nothing at this path")
        if request.method not in {"GET", "HEAD"}:
            raise WebError(405, "files can only be read", (("Allow", "GET, HEAD"),))
        headers = (("ETag", file.etag), ("Cache-Control", file.caching), ("Vary", "Accept-Encoding"))
        # RFC 9110 section 13.1.2: a weak comparison with each of a list, or "*".
        known = request.headers.get("if-none-match", "")
        if known == "*" or file.etag in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
            return Response(304, headers=headers)
        if file.packed and _takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(200, file.content, file.content_type, (*headers, ("Content-Encoding", "gzip")))
        # All browsers take gzip: for the others, memory is not spent on a second copy.
        content = gzip.decompress(file.content) if file.packed else file.content
        return Response(200, content, file.content_type, headers)


def _walk(root: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for item in root.iterdir():
        if item.is_dir():
            found += _walk(item, f"{prefix}{item.name}/")
        elif item.name.rpartition(".")[2] in TYPES:
            found.append((prefix + item.name, item.read_bytes()))
    return found


def _file(name: str, content: bytes) -> File:
    ending = name.rpartition(".")[2]
    packed = content if ending in _COMPRESSED else gzip.compress(content, 9, mtime=0)
    saves = len(packed) < len(content)
    return File(
        packed if saves else content,
        saves,
        TYPES[ending],
        f'"{hashlib.sha256(content).hexdigest()[:20]}"',
        _VENDOR if name.startswith("vendor/") else _REVALIDATE,
    )


def _takes_gzip(accepted: str) -> bool:
    """Whether ``Accept-Encoding`` (RFC 9110 section 12.5.3) names gzip, and not to refuse it."""
    for item in accepted.lower().split(","):
        name, _, weight = item.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
