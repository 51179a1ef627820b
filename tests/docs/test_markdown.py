"""What can be seen of the documentation without running it."""

import re
from collections.abc import Iterator

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.command_line import options_of
from tests.docs.pages import PAGES
from tests.docs.sandbox import ROOT

READER = MarkdownIt("gfm-like", {"linkify": False})
ALL = [*PAGES, "ARCHITECTURE.md", "CHANGELOG.md"]


def tokens(page: str) -> Iterator[Token]:
    for token in READER.parse((ROOT / page).read_text(encoding="utf-8")):
        yield token
        yield from token.children or []


def anchors(page: str) -> set[str]:
    """As GitHub makes them from headings."""
    found = READER.parse((ROOT / page).read_text(encoding="utf-8"))
    titles = [found[i + 1].content for i, token in enumerate(found) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ALL)
def test_every_link_inside_the_repository_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    wrong = []
    for token in tokens(page):
        link = str(token.attrs.get("href") or token.attrs.get("src") or "")
        if not link or re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(str(target.relative_to(ROOT)))):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    """An indented block has no language, and would be run by nothing."""
    assert [t.content for t in tokens(page) if t.type == "code_block" or (t.type == "fence" and not t.info)] == []


@pytest.mark.parametrize("page", ALL)
def test_commands_in_the_text_exist_with_their_options(page: str) -> None:
    wrong = []
    for token in tokens(page):
        words = token.content.split()
        if token.type != "code_inline" or words[:1] != ["alter"] or len(words) == 1:
            continue
        options = options_of(words[1])
        used = {word.split("=")[0].rstrip(",;") for word in words if word.startswith("--")}
        if options is None or not used <= options:
            wrong.append(token.content)
    assert wrong == []
