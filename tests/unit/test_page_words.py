# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's words, and how its scripts put them on the page: both languages whole, nothing as markup."""

import re
from pathlib import Path

import pytest

from spind import model, notifications, profiles, rules

STATIC = Path(__file__).parents[2] / "spind/web/static"
SCRIPTS = sorted((STATIC / "js").glob("*.js"))
LINE = re.compile(r'^  "([^"]+)": "((?:[^"\\]|\\.)*)",$')

# What is not written as a whole key, but made of a part and a value: the values that there are.
MADE = {
    "capture": ("starting", "running", "stopping", "ended"),
    "decide": ("always", "hour", "schedule"),
    "do": ("block", "unblock", "allow", "unallow", "ignore", "unignore"),
    "done": ("block", "allow"),
    "author": rules.AUTHORS,
    "evidence": tuple(model.Evidence),
    "help": ("device", "site", "recent", "older", "blocked", "query"),
    "kind": ("device", "site", "gateway"),
    "list": ("devices", "sites", "flows", "rules", "profiles", "notifications", "audit", "captures"),
    "list.empty": ("devices", "sites", "flows", "rules", "profiles", "notifications", "audit", "captures"),
    "note": ("ech", "encrypted-dns"),
    "profile": (*profiles.BUILTIN, *(f"{name}Hint" for name in profiles.BUILTIN), *profiles.LISTS),
    "role": ("owner", "viewer", "provider"),
    "state": ("blocked", "ignored", "allowed", "none"),
    "status": ("capture", "connecting", "live", "lost"),
    "theme": ("auto", "light", "dark"),
    "tool": ("anyDirection", "outbound", "inbound", "blocked", "ignored", "graph", "lists"),
    "traffic": ("ipv4", "ipv6"),
    "welcome": ("1", "2", "3", "4"),
}


# The graph and the time line have words of their own.
USERS = [path for path in SCRIPTS if "words" not in path.name and "./words.js" in path.read_text()]


def words(name: str) -> dict[str, str]:
    """The sentences of a language by their keys, of which each is there once."""
    text = (STATIC / "js" / name).read_text()
    table = text[text.index("= {\n") : text.index("\n};")]
    found = [match.groups() for line in table.splitlines() if (match := LINE.match(line))]
    assert len(found) > 200
    assert [line for line in table.splitlines()[1:] if line and not LINE.match(line)] == []
    assert len(found) == len(dict(found)), "a key is there twice"
    return dict(found)


ENGLISH, DUTCH = words("words.en.js"), words("words.nl.js")


def used() -> set[str]:
    """Keys in the scripts and in the page, those of plurals without their ends."""
    text = "".join(path.read_text() for path in USERS)
    text += (STATIC / "index.html").read_text()
    families = "|".join(sorted({re.escape(key.split(".")[0]) for key in ENGLISH if "." in key}))
    found = set(re.findall(rf'"((?:{families})\.[\w.-]+)"', text))
    found |= set(re.findall(r'\bt\("([a-z]+)"', text))
    # Each key that is made must be among those above.
    families_made = set(re.findall(r"\b(?:t|say|has|field)\(`([a-z.]+)\.\$\{", text))
    assert families_made <= {*MADE, "key", "news"}, families_made - set(MADE)
    return found


def singular(keys: object) -> set[str]:
    return {re.sub(r"\.(one|other)$", "", key) for key in keys}


def test_both_languages_have_the_same_sentences_in_the_same_order():
    assert list(ENGLISH) == list(DUTCH)


def test_both_languages_have_the_same_places_in_each_sentence():
    def places(text: str) -> set[str]:
        return set(re.findall(r"\{(\w+)\}", text))

    assert {key: places(text) for key, text in ENGLISH.items()} == {
        key: places(text) for key, text in DUTCH.items()
    }


def test_no_sentence_was_left_in_english():
    same = {key for key, text in ENGLISH.items() if text == DUTCH[key] and len(text.split()) > 2}
    assert same == set()


def test_plurals_have_both_forms():
    forms = [key.rsplit(".", 1) for key in ENGLISH if re.search(r"\.(one|other)$", key)]
    assert {key for key, form in forms if form == "one"} == {key for key, form in forms if form == "other"}


def test_every_key_that_the_scripts_use_is_there():
    assert used() - singular(ENGLISH) - {"col.do"} == set()


@pytest.mark.parametrize("family", MADE)
def test_every_key_that_the_scripts_make_is_there(family: str):
    assert [value for value in MADE[family] if f"{family}.{value}" not in ENGLISH] == []


def test_every_sentence_is_used():
    made = {f"{family}.{value}" for family, values in MADE.items() for value in values}
    made |= {key for key in ENGLISH if key.startswith(("key.", "news."))}
    text = "".join(path.read_text() for path in USERS)
    text += (STATIC / "index.html").read_text()
    assert {key for key in singular(ENGLISH) - made - used() if key not in text} == set()


def test_every_notification_that_says_more_than_its_argument_has_a_translation():
    texts = {key: text for key, text in notifications.WORDS.items() if text != "{0}"}
    assert {f"news.{key}": text for key, text in texts.items()} == {
        key: text for key, text in ENGLISH.items() if key.startswith("news.")
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_never_make_markup_or_code_of_text(path: Path):
    text = path.read_text()
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser"
        r"|setHTML|\beval\(|new Function|srcdoc|setTimeout\(\s*[\"'`]|javascript:"
    )
    assert re.findall(forbidden, text) == []
    assert re.findall(r"https?://(?!www\.w3\.org/)", text) == [], "no other host is asked for anything"
    assert "SPDX-License-Identifier: GPL-2.0-or-later" in text.splitlines()[0]


def test_the_page_has_no_script_or_style_of_its_own():
    text = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text) == []
    assert set(re.findall(r'(?:src|href)="([^"#][^"]*)"', text)) <= {
        f"/static/{path.relative_to(STATIC)}" for path in STATIC.rglob("*") if path.is_file()
    }
