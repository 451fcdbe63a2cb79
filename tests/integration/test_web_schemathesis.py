# SPDX-License-Identifier: GPL-2.0-or-later
"""schemathesis over the whole web API: what its description says holds, and nothing breaks.

Left out are the streams, which have no end (test_web_server has them), and the check that everything which
fits a schema is accepted: whether a rule makes sense, or a node exists, is in no schema.
"""

import asyncio
import re
import sys
from pathlib import Path

import pytest
from web_served import T0, connected, engine, served

from spind.api import Api
from spind.calls import NotFoundError
from spind.deeds_captures import CaptureRequest, request_shape
from spind.events import Decided
from spind.limits import CaptureLimits
from spind.web import tokens
from spind.web.identity import GateSettings

PROGRAM = Path(sys.executable).with_name("st")
SECRET = f"{tokens.PREFIX}0123456789abcdef0123456789abcdef"
SECONDS = 120

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="schemathesis is not installed")


class NoPackets:
    """Captures that hold nothing: what is tested is the API, not tcpdump."""

    limits = CaptureLimits()

    def __init__(self) -> None:
        self.made: list[dict] = []

    def start(self, request: CaptureRequest) -> dict:
        number = len(self.made) + 1
        url = f"/api/v1/captures/{number}.pcap"
        shape = {"id": number, "state": "running", "bytes": 24, "packets": 0, "url": url, "seconds_left": 9}
        self.made.append(shape | request_shape(request))
        return self.made[-1]

    def stop(self, number: int) -> dict:
        if not 0 < number <= len(self.made):
            raise NotFoundError(f"there is no capture {number} (any more)")
        return self.made[number - 1]

    def list(self) -> list[dict]:
        return self.made[:-20:-1]


def test_the_description_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = engine()
    home.handle(Decided({}, (), dots_enabled=True), T0)
    api = Api(home, lambda: T0 + 5, lambda _commands: None, captures=NoPackets())
    file = tmp_path / "tokens"
    file.write_bytes(tokens.add(b"", tokens.Token("test", "owner", int(T0), 2**33, tokens.digest(SECRET))))
    file.chmod(0o600)
    (tmp_path / "schemathesis.toml").write_text(f'[auth.openapi.bearer]\nbearer = "{SECRET}"\n')

    async def test() -> tuple[int, str, int]:
        async with served(api=api, gate=GateSettings(token_file=str(file), interfaces=("192.0.2.1",))) as web:
            async with connected(web.port) as client:
                answer = await client.ask(
                    "GET", "/api/v1/openapi.json", Host="127.0.0.1", Authorization=f"Bearer {SECRET}"
                )
                (tmp_path / "openapi.json").write_bytes(answer.body)
            process = await asyncio.create_subprocess_exec(
                PROGRAM,
                *("--config-file", tmp_path / "schemathesis.toml"),
                "run",
                *(tmp_path / "openapi.json", "--url", web.server.url),
                *("--seed", "1", "--max-examples", "15"),
                *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
                *("--exclude-path-regex", r"/events$|\.pcap$"),
                *("--suppress-health-check", "all", "--no-color", "--warnings", "off"),
                cwd=tmp_path,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            return process.returncode, output.decode(), web.server.counters["requests"]

    status, output, requests = asyncio.run(test())
    assert status == 0, output[-8000:]
    tested = re.search(r"Tested: (\d+)", output)
    assert tested is not None
    assert int(tested[1]) >= len(api.methods)
    assert requests > 500
    assert not [record for record in caplog.records if record.exc_info]
