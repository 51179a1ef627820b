"""Sentences with a tag on each word, and the rows that ask which entities of a kind a sentence has."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from domains.task_rows import Row

SHORTEST = 6
"""Words and signs of a sentence; shorter ones are headings."""

Tagged = list[tuple[str, str]]


def listed(file: Path, kinds: Mapping[str, str]) -> Iterator[Row]:
    """A row for each sentence and kind that occurs in it; `kinds` gives the plural that the question uses.

    The file has a word a line, with its tag (O, B-kind, I-kind) in the last column, and an empty line after a sentence.
    """
    for sentence in _sentences(file):
        if len(sentence) < SHORTEST:
            continue
        text = _joined([word for word, _ in sentence])
        for kind, plural in kinds.items():
            if entities := _entities(sentence, kind):
                yield Row(
                    f"question: which {plural} are mentioned? context: {text}", "; ".join(entities), {"type": kind}
                )


def _sentences(file: Path) -> Iterator[Tagged]:
    sentence: Tagged = []
    with file.open(encoding="utf-8") as opened:
        for line in opened:
            columns = line.split()
            if columns and columns[0] != "-DOCSTART-":
                sentence.append((columns[0], columns[-1]))
            elif sentence:
                yield sentence
                sentence = []
    if sentence:
        yield sentence


def _entities(sentence: Tagged, kind: str) -> list[str]:
    """In order of their first mention, each once, whatever its case."""
    found: list[list[str]] = []
    inside = False
    for word, tag in sentence:
        place, _, name = tag.partition("-")
        if name != kind:
            inside = False
            continue
        if place == "B" or not inside:
            found.append([])
        found[-1].append(word)
        inside = True
    first: dict[str, str] = {}
    for text in map(_joined, found):
        first.setdefault(text.lower(), text)
    return list(first.values())


def _joined(words: list[str]) -> str:
    """As it is written: signs at their words, no space around - and /."""
    text = re.sub(r" ([.,;:!?%)\]'])", r"\1", " ".join(words))
    text = re.sub(r"([(\[]) ", r"\1", text)
    return re.sub(r" ([-/]) ", r"\1", text)
