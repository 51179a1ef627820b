"""The rows of the domain scholarly, from public files: citations, terms, entailment, abstracts."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from domains.checkouts import Checkout, Repository
from domains.tagged_sentences import listed
from domains.task_rows import Row, Task, sides, split_by_group

SCIBERT = "allenai/scibert"
ARISTO = "allenai/aristo-leaderboard"
SCITLDR = "allenai/scitldr"
APACHE = "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
SIDES = ("train", "test")

REPOSITORIES = (
    Repository(
        SCIBERT,
        commit="06793f77d7278898159ed50da30d173cdc8fdea9",
        licence="LICENSE.txt",
        licence_digest=APACHE,
        reads=tuple(
            f"data/{folder}/{side}.txt"
            for folder in ("text_classification/sci-cite", "text_classification/sciie-relation-extraction", "ner/sciie")
            for side in SIDES
        ),
    ),
    Repository(
        ARISTO,
        commit="60d5be31b5a7d36f29d13223ece29a8d2bfa8b5f",
        licence="LICENSE",
        licence_digest=APACHE,
        reads=("scitail/data/dev/answers.jsonl", "scitail/data/test/answers.jsonl"),
    ),
    Repository(
        SCITLDR,
        commit="5ccad9c00a60ad75c9e04abf7f27d0f53f983b20",
        licence="LICENSE",
        licence_digest=APACHE,
        reads=tuple(f"SciTLDR-Data/SciTLDR-A/{side}.jsonl" for side in SIDES),
    ),
)

ENTAILS = {"E": "entails", "N": "neutral"}


def tasks(checkouts: Mapping[str, Checkout]) -> Iterator[Task]:
    data = checkouts[SCIBERT].file("data")
    texts = data / "text_classification"
    citations = sides(lambda side: _citations(texts / f"sci-cite/{side}.txt"))
    yield Task("citation_intent", *citations, most_train=3000, most_test=500)
    relations = sides(lambda side: _relations(texts / f"sciie-relation-extraction/{side}.txt"))
    yield Task("term_relation", *relations, most_train=3000, most_test=400)
    yield Task("science_entailment", *split_by_group(list(_entailment(checkouts[ARISTO])), test_share=0.14))
    abstracts = sides(lambda side: _abstracts(checkouts[SCITLDR].file(f"SciTLDR-Data/SciTLDR-A/{side}.jsonl")))
    yield Task("paper_tldr", *abstracts, most_test=400)
    kinds = {"Method": "methods", "Task": "tasks", "Metric": "metrics", "Material": "materials"}
    sentences = sides(lambda side: listed(data / f"ner/sciie/{side}.txt", kinds))
    yield Task("term_list", *sentences, most_test=400)


def _citations(file: Path) -> Iterator[Row]:
    for row in _lines(file):
        yield Row(row["text"], row["label"])


def _relations(file: Path) -> Iterator[Row]:
    """The first term in [ ], the second in < >."""
    for row in _lines(file):
        text = row["text"]
        for given, shown in (("[[ ", "["), (" ]]", "]"), ("<< ", "<"), (" >>", ">")):
            text = text.replace(given, shown)
        yield Row(text, row["label"].lower().replace("-", " "))


def _entailment(aristo: Checkout) -> Iterator[Row]:
    for part in ("dev", "test"):
        for row in _lines(aristo.file(f"scitail/data/{part}/answers.jsonl")):
            text = f"premise: {row['sentence1']} hypothesis: {row['sentence2']}"
            yield Row(text, ENTAILS[row["gold_label"]], {"id": row["id"]}, group=row["sentence2"])


def _abstracts(file: Path) -> Iterator[Row]:
    for row in _lines(file):
        yield Row(" ".join(row["source"]), row["target"][0], {"paper_id": row["paper_id"]})


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as opened:
        for line in opened:
            yield json.loads(line)
