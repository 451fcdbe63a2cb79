# SPDX-License-Identifier: GPL-2.0-or-later
"""What libuci says about texts, recorded once from the ``uci`` program and checked everywhere.

To record the expectations anew (where ``uci`` is installed) run this file with Python.
"""

import json
import tempfile
from pathlib import Path

import pytest
from uci_binary import ask

from spind.uci import Package, UciError, dump, parse

VECTORS = Path(__file__).parent.parent / "golden" / "uci_vectors.json"

TEXTS = [
    # statements and their short forms
    "",
    "\n \t\n",
    "# nothing but a comment",
    "config spind 'spind'\n\toption enabled '1'\n\tlist lan 'lan'\n\tlist lan 'guest'\n",
    "c spind s\no a 1\nl b 2\n",
    "package spin\nconfig spind\n",
    "package 'spin-x'\n\nconfig spind\n",
    "p spin\n",
    "conf spind\n",
    "configs spind\n",
    "CONFIG spind\n",
    "option a b\n",
    "config spind",
    "config",
    "config\n",
    "config \n",
    "config\t",
    "config spind\noption",
    "config spind\noption\n",
    "config spind\noption \n",
    "config spind\nlist",
    "package",
    "package \n",
    "config spind x y\n",
    "config spind\noption a b c\n",
    "package a b\n",
    # names and types
    "config spin-d\n",
    "config 'spin d'\n",
    "config spînd\n",
    "config a.b=c!\n",
    "config 'a;b#c'\n",
    'config "it\'s"\n',
    "config spind spin-d\n",
    "config spind 'a b'\n",
    "config spind é\n",
    "config spind _1\n",
    "config spind\noption a-b c\n",
    "config spind\noption 'a b' c\n",
    "config spind\noption é c\n",
    "config spind\nlist a.b c\n",
    "package spin.d\n",
    "config spind\r\n\toption a b\r\n",
    "config\vspind\n",
    "config spind\n\voption a\fb\n",
    # quotes and backslashes
    "config s\noption a 'it'\\''s'\n",
    'config s\noption a "it\'s"\n',
    "config s\noption a 'say \"x\"'\n",
    'config s\noption a "say \\"x\\""\n',
    "config s\noption a 'back\\slash'\n",
    'config s\noption a "back\\\\slash \\n \\a"\n',
    "config s\noption a b\\ c\n",
    "config s\noption a \\'b\n",
    "config s\noption a b\\#c\n",
    "config s\noption a b\\;c\n",
    "config s\noption a b\\\\\n",
    "config s\noption a x'y z'\"q\"w\n",
    "config s\noption a 'b''c'\n",
    "config s\noption a ''\n",
    'config s\noption a ""\n',
    "config s\noption a\n",
    "config s\noption a é\n",
    "config s\noption a '\tb'\n",
    "config s\noption a '#b'\n",
    "config s\noption a ';b'\n",
    "config s\noption a b'\n",
    "config s\noption a 'b\n",
    "config s\noption a 'b",
    'config s\noption a "b\n\n',
    'config s\noption a "b\\',
    'config s\noption a "b\\\n',
    "config ''\n",
    "config '' x\n",
    "config s ''\n",
    "config s\noption '' b\n",
    "config s\nlist '' b\n",
    # values of several lines, and lines that go on
    "config s\noption a 'b\nc'\noption d e\n",
    'config s\noption a "b\nc"\noption d e\n',
    'config s\noption a "b\\\nc"\n',
    'config s\noption a "b\\\r\nc"\n',
    "config s\noption a 'b\\\nc'\n",
    "config s\noption a b\\\nc\n",
    "config s\noption a b\\\r\nc\n",
    "config s\noption a \\\nb\n",
    "config s\noption a \\\n b\n",
    "config s\noption \\\n a b\n",
    "config \\\ns\n",
    "config \\\n s\n",
    "config s \\\n# c\noption a b\n",
    "config s\noption a b\\",
    "config s\noption a b \\\n",
    "con\\\nfig s\n",
    "config s\noption a 'b\n\nc' d\n",
    "config s\noption a 'b\n\nc'\nbad\n",
    # comments
    "config s # comment\noption a b # comment\n",
    "config s#comment\noption a b#comment\n",
    "config s\noption a 'b'#comment\n",
    "config s\noption a # b\n",
    "config s\n# option a b\n",
    "config s\n#\n ## x\n",
    "config s\n; # x\n",
    # several statements on a line
    "config s; option a b\n",
    "config s x; option a b\n",
    "config s x ; option a b\n",
    "config 's' 'x';option a b\n",
    "config 's';option a b\n",
    "config s ; option a b\n",
    "config s\noption a b;option c d\n",
    "config s\noption a 'b';option c d\n",
    "config s\noption a 'b'; option c d ; list e f\n",
    "config s\noption a b ;\n",
    "config s\noption a b ;",
    "config s\noption a b ; \n",
    "config s\noption a b ; # c\n",
    "config s\noption a b ;; option c d\n",
    "config s\noption a b '' option c d\n",
    "config s\noption a ; option c d\n",
    "config s\noption ; a\n",
    'config s x "" list a b\n',
    ";\n",
    "; config s\n",
    "config s\noption a 'b';option",
    # the same section or option again
    "config s x\noption a 1\nconfig t y\nconfig s x\noption b 2\n",
    "config s x\nconfig t x\n",
    "config s x\noption a 1\noption a 2\n",
    "config s x\noption a 1\noption b 1\noption a 22\n",
    "config s x\noption a 1\noption a ''\n",
    "config s x\noption a 1\nlist a 2\noption b 3\n",
    "config s x\nlist a 1\nlist a 2\noption a 3\n",
    "config s x\nlist a 1\noption b x\nlist a 2\n",
    "config s x\nlist a 1\noption a ''\nlist a 2\n",
    "config s x\nlist a ''\nlist a\n",
    "config s x\noption a 1\nlist a 2\noption a 3\nlist a 4\n",
    # names of anonymous sections
    "config spind\nconfig device\nconfig device\nconfig a!~b\n",
    "config s\n" * 300,
    "config s cfg01a6e2\nconfig s\n",
    "config s\nconfig s cfg019e91\noption a b\n",
    "config s cfg025f45\nconfig s\noption a b\nconfig s cfg025f45\noption c d\n",
    # bytes that are no characters
    "config s\noption a '\udc80\udcff'\n",
    "config s\noption a \x01\x7f\n",
    "config s\x7f\n",
    "\ufeffconfig s\n",
]


def described(text: str) -> dict[str, object]:
    """What our parser says, in the form of the recorded facts.

    libuci does not count a last line that has no newline, unlike us.
    """
    try:
        package = parse(text)
    except UciError as error:
        unended = not text.endswith("\n") and error.line == text.count("\n") + 1
        return {"error": [error.reason, error.line - unended, error.byte]}
    return {"export": dump(package), "named": dump(with_names(package))}


def with_names(package: Package) -> Package:
    for section in package.sections:
        section.anonymous = False
    return package


def recorded() -> list[dict[str, object]]:
    return json.loads(VECTORS.read_text()) if VECTORS.exists() else []


def test_every_text_is_recorded():
    assert [vector["text"] for vector in recorded()] == TEXTS


@pytest.mark.parametrize("vector", recorded(), ids=lambda vector: repr(vector["text"][:40]))
def test_same_as_libuci(vector):
    expected = {key: value for key, value in vector.items() if key != "text"}
    assert described(vector["text"]) == expected


def record() -> None:
    with tempfile.TemporaryDirectory() as directory:
        verdicts = ask(TEXTS, Path(directory))
    facts = []
    for text, verdict in zip(TEXTS, verdicts, strict=True):
        if verdict.error:
            facts.append({"text": text, "error": list(verdict.error)})
        else:
            facts.append({"text": text, "export": verdict.export, "named": verdict.named})
    VECTORS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    record()
    print(f"recorded {len(TEXTS)} facts in {VECTORS}")
