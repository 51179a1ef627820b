"""A task's rows, from all that a public data set has to the subsample that a domain learns from and is scored on.

The order of the steps and of the draws from the one random generator (seed 0) is part of the rows: they are the same
wherever they are made.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

SEED = 0
MOST_WORDS = 250
"""Of an input; longer ones are left out."""


@dataclass(frozen=True)
class Row:
    input: str
    target: str
    meta: Mapping[str, str] | None = None
    group: str = ""
    """What must not stand on both sides of a split."""


@dataclass(frozen=True)
class Task:
    """Rows as a public data set has them, in its order, and how many of each side are kept: None for all."""

    name: str
    train: Iterable[Row]
    test: Iterable[Row]
    most_train: int | None = None
    most_test: int | None = None
    largest_label: float | None = None
    """The most rows that one target may have before the last draw, as a share of most_train and of most_test."""


@dataclass
class Made:
    """The rows of a task; `left_out` says for which reason how many of those that were read are not among them."""

    train: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)
    read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def write(self, folder: Path) -> None:
        """train.jsonl and test.jsonl: UTF-8, an object a line."""
        folder.mkdir(parents=True)
        for name, rows in (("train", self.train), ("test", self.test)):
            with (folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                for row in rows:
                    values: dict[str, Any] = {"input": row.input, "target": row.target}
                    file.write(json.dumps(values | ({"meta": row.meta} if row.meta else {}), ensure_ascii=False) + "\n")


def tidy(text: str) -> str:
    return " ".join(text.split())


def same(text: str) -> str:
    """What two inputs share that are one: their words, whatever case and signs; brackets mark what is asked about."""
    return " ".join(re.sub(r"[^\w\[\]<>]+", " ", text.lower()).split())


def sides(read: Callable[[str], Iterable[Row]], train: str = "train") -> tuple[Iterable[Row], Iterable[Row]]:
    """What a published split has on its two sides, by the names of its files."""
    return read(train), read("test")


def split_by_group(rows: Sequence[Row], test_share: float) -> tuple[list[Row], list[Row]]:
    """Rows to train and to test on; the test side has a drawn share of the groups, whatever the order of the rows."""
    groups = sorted({row.group for row in rows})
    Random(SEED).shuffle(groups)
    chosen = set(groups[: int(len(groups) * test_share)])
    return [r for r in rows if r.group not in chosen], [r for r in rows if r.group in chosen]


def made(task: Task) -> Made:
    """Tidied, with no input twice, none with two targets, and none of the test side in training; then drawn.

    What is held in memory are the rows of one task.
    """
    result = Made()
    contradictory: set[str] = set()
    train, test = (_distinct(rows, contradictory, result) for rows in (task.train, task.test))
    result.left_out["with two targets"] = len(contradictory & train.keys()) + len(contradictory & test.keys())
    leaked = (train.keys() & test.keys()) - contradictory
    result.left_out["of training that stand in the test rows too"] = len(leaked)
    result.train = [row for key, row in train.items() if key not in contradictory and key not in leaked]
    result.test = [row for key, row in test.items() if key not in contradictory]
    drawn = len(result.train) + len(result.test)
    random = Random(SEED)
    random.shuffle(result.train)
    random.shuffle(result.test)
    if task.largest_label is not None:
        result.train = _capped(result.train, int((task.most_train or len(result.train)) * task.largest_label))
        result.test = _capped(result.test, int((task.most_test or len(result.test)) * task.largest_label))
        random.shuffle(result.train)
        random.shuffle(result.test)
    result.train, result.test = result.train[: task.most_train], result.test[: task.most_test]
    result.left_out["not drawn"] = drawn - len(result.train) - len(result.test)
    return result


def _distinct(rows: Iterable[Row], contradictory: set[str], result: Made) -> dict[str, Row]:
    """The first row of each input; inputs that have a second target go to `contradictory`."""
    first: dict[str, Row] = {}
    for row in rows:
        result.read += 1
        tidied = Row(tidy(row.input), tidy(row.target), row.meta)
        if not tidied.input or not tidied.target:
            result.left_out["empty"] += 1
        elif len(tidied.input.split()) > MOST_WORDS:
            result.left_out[f"over {MOST_WORDS} words"] += 1
        else:
            key = same(tidied.input)
            if key in first:
                result.left_out["duplicate"] += 1
                if first[key].target != tidied.target:
                    contradictory.add(key)
            first.setdefault(key, tidied)
    return first


def _capped(rows: list[Row], most: int) -> list[Row]:
    """At most `most` rows of each target, targets in the order of their first row."""
    kept: dict[str, list[Row]] = {}
    for row in rows:
        of_target = kept.setdefault(row.target, [])
        if len(of_target) < most:
            of_target.append(row)
    return [row for of_target in kept.values() for row in of_target]
