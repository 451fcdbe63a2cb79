# SPDX-License-Identifier: GPL-2.0-or-later
"""Our parser, writer and editor beside the real ``uci``, on random texts."""

import random

import pytest
from test_uci_vectors import described
from uci_binary import UCI, ask
from uci_changes import random_changes
from uci_texts import random_text

from spind.uci import UciError, parse
from spind.uci_edit import edit

pytestmark = pytest.mark.skipif(UCI is None, reason="the uci program is not installed")

COUNT = 1500


def as_facts(verdict):
    if verdict.error:
        return {"error": list(verdict.error)}
    return {"export": verdict.export, "named": verdict.named}


@pytest.mark.parametrize("trouble", [0.01, 0.05, 0.3])
def test_parses_and_writes_as_libuci_does(tmp_path, trouble):
    rng = random.Random(f"parse {trouble}")
    texts = [random_text(rng, trouble) for _ in range(COUNT)]
    verdicts = ask(texts, tmp_path)
    refused = sum(verdict.error is not None for verdict in verdicts)
    assert 0.02 * COUNT < refused < 0.98 * COUNT, "texts of one sort only"
    for text, verdict in zip(texts, verdicts, strict=True):
        assert described(text) == as_facts(verdict), repr(text)


def test_libuci_reads_what_was_edited(tmp_path):
    rng = random.Random("edit")
    texts = []
    while len(texts) < COUNT:
        text = random_text(rng)
        try:
            texts.append(edit(text, random_changes(rng, parse(text))))
        except UciError:
            continue
    for text, verdict in zip(texts, ask(texts, tmp_path), strict=True):
        assert described(text) == as_facts(verdict), repr(text)
        assert verdict.error is None
