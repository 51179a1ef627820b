"""Checks one task's rows, frame by frame, and says which rows fail."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from alter_core.data.dataset import SPLITS, TaskDataset
from alter_core.data.manifest import TaskManifest
from alter_core.data.mapping import comparable
from alter_core.problems import SHOWN, Note, listed
from alter_core.quality.checks import Check, count_checks, label_check, row_checks
from alter_core.quality.encoding import Encoded, encode, labels_as_one, over_room
from alter_core.quality.great_expectations import Result, Suite
from alter_core.quality.language import in_other_languages
from alter_core.quality.profile import PROFILED, Profile, profile
from alter_core.spec import TaskSpec
from alter_core.text import look

if TYPE_CHECKING:
    import pandas as pd

FRAME_ROWS = 100_000  # rows that are checked at a time: memory stays flat as rows grow
MEASURED = 5_000  # rows of a split that are encoded, the first in order of hash: a share is known to about 1 %
ENCODED = ("input_tokens", "target_tokens", "read_back")  # columns that hold what was encoded
RARE = 2  # training rows: a label with no more is told
_VALUE = 90  # characters of a row that a message shows

Outcome = Literal["ok", "unchecked", "warn", "block"]
"""unchecked: the check looked at nothing, and neither warns nor blocks by that. Where it was to do so, it does."""


@dataclass(frozen=True)
class Item:
    """The result of one check."""

    task: str
    check: str
    outcome: Outcome
    text: str = ""
    """What is wrong; empty when nothing is."""
    remedy: str = ""
    rows: tuple[str, ...] = ()
    """The first rows it was found in: place and value."""
    checked: int = 0
    unexpected: int = 0


def check_task(
    dataset: TaskDataset, task: TaskSpec, tokenizer: Any | None, config: Any | None
) -> tuple[list[Item], Profile, dict[str, list[object]]]:
    """Items of one task, the profile of its training rows, and Great Expectations' own results."""
    import pandas as pd

    labels = dataset.labels.get(task.name, ())
    every = row_checks(task, f"tasks ({task.name})")
    checks = [c for c in every if tokenizer or c.column not in ENCODED]
    if labels:
        checks.append(label_check(labels))
    ours = [c for c in checks if not c.native]
    asked = [c for c in checks if c.native]
    suites = {"rows": Suite(f"{task.name} rows", [c.expectation for c in ours])}
    if asked:
        suites["asked"] = Suite(f"{task.name} asked", [c.expectation for c in asked])
    profiled: Profile = {}
    target_share = 0.0
    known_languages, others = 0, list[int]()
    sampled: dict[str, pd.DataFrame] = {}  # the first frame of each split: not every native expectation adds up
    begin = 0
    encoded: dict[str, Encoded] = {}
    for number, frame in enumerate(_frames(dataset, task, tokenizer, encoded)):
        suites["rows"].run(frame)
        if asked:
            sampled.setdefault(frame["split"].iloc[0], frame.set_axis(range(begin, begin + len(frame))))
        begin += len(frame)
        if number == 0:
            train = frame[frame["split"] == "train"].head(PROFILED)
            profiled = _profile(train, dataset.manifest["tasks"][task.name])
            target_share = max(Counter(train["target"]).values(), default=0) / max(len(train), 1)
            if task.quality.language:
                known_languages, others = in_other_languages(train["input"].tolist(), task.quality.language)
    if sampled:
        suites["asked"].run(pd.concat(sampled.values()))
    rows = _Rows(dataset, task.name)
    items = [_row_item(c, r, rows) for c, r in zip(ours, suites["rows"].results, strict=True)]
    items += [_row_item(c, r, rows) for c, r in zip(asked, suites["asked"].results if asked else [], strict=True)]
    items += [_unmeasured(task.name, c) for c in every if c not in checks]
    facts, words = _facts(dataset.manifest["tasks"][task.name], labels)
    facts["target_share"] = target_share
    facts["other_language_share"] = len(others) / max(known_languages, 1)
    if tokenizer is not None:
        own, told_of = _encoded_facts(task, tokenizer, config, labels, encoded)
        facts, words = facts | own, words | told_of
    items += [_unmeasured(task.name, c) for c in count_checks(task) if c.column not in facts]
    counted, count_suite = _count_items(task, dataset, facts, words, known_languages, others, rows)
    suites["counts"] = count_suite
    items += counted + [_noted(task.name, note) for note in dataset.manifest["tasks"][task.name]["notes"]]
    return items, profiled, {name: suite.json for name, suite in suites.items()}


def _frames(
    dataset: TaskDataset, task: TaskSpec, tokenizer: Any | None, encoded: dict[str, Encoded]
) -> Iterator["pd.DataFrame"]:
    """The task's rows, training rows first, with the columns ENCODED of the first rows of each split; rows beyond have
    none there, and expectations pass over them. What was encoded is left in `encoded`, by split."""
    for split in SPLITS:
        rows = dataset.rows(split, task.name)
        for start in range(0, len(rows), FRAME_ROWS):
            frame = rows.select(range(start, min(start + FRAME_ROWS, len(rows)))).to_pandas()
            if tokenizer is not None:
                first = frame.iloc[: MEASURED if start == 0 else 0]
                found = encode(tokenizer, task, first["input"].tolist(), first["target"].tolist())
                encoded.setdefault(split, found)
                for name in ENCODED:
                    values = getattr(found, name)
                    frame[name] = _padded(values, len(frame))
            yield frame


def _padded(values: list[Any], rows: int) -> "pd.Series[Any]":
    import pandas as pd

    missing = rows - len(values)
    if values and isinstance(values[0], str):
        return pd.Series([*values, *[None] * missing], dtype="object")
    return pd.Series([*map(float, values), *[float("nan")] * missing], dtype="float64")


def _encoded_facts(
    task: TaskSpec, tokenizer: Any, config: Any | None, labels: tuple[str, ...], encoded: dict[str, Encoded]
) -> tuple[dict[str, float], dict[str, str]]:
    """Counts of what encoding does to a task, and words for them."""
    same = labels_as_one(tokenizer, task, labels)
    train = encoded.get("train")
    targets = len(train.target_tokens) if train else 0
    prompts = [length for found in encoded.values() for length in found.prompt_tokens]
    facts: dict[str, float] = {
        "labels_as_one": len(same),
        "unlearnable_targets": 0 if train and train.learnable else targets,
    }
    if config is not None:
        facts["tokens_over_room"] = over_room(config, tokenizer, task, labels, prompts)
    return facts, {"labels_as_one": listed(same)}


def _profile(train: "pd.DataFrame", manifest: TaskManifest) -> Profile:
    lengths = {
        name: [int(n) for n in train[f"{name}_tokens"].dropna()] if f"{name}_tokens" in train else []
        for name in ("input", "target")
    }
    found = profile(train["input"].tolist(), lengths["input"], lengths["target"], manifest["label_counts"]["train"])
    found["rows"] = manifest["rows"]["train"]
    if "test" in manifest["sources"]:
        found["test_rows"] = manifest["rows"]["test"]
    return found


class _Rows:
    """Finds the place of a row by its number over all frames."""

    def __init__(self, dataset: TaskDataset, task: str) -> None:
        self._dataset = dataset
        self._task = task
        self._splits = {split: dataset.placed_rows(split, task) for split in SPLITS}

    def placed(self, numbers: Sequence[int], values: Sequence[str]) -> tuple[str, ...]:
        """Places and values of rows of the frames, in the order of files and lines."""
        found = sorted((*self._origin(number), value) for number, value in zip(numbers, values, strict=False))
        return tuple(f"{self.at(file, line)}: {value}" for file, line, value in found)

    def _origin(self, number: int) -> tuple[int, int]:
        for rows in self._splits.values():
            if number < len(rows):
                return rows[number]["file"], rows[number]["line"]
            number -= len(rows)
        raise IndexError(number)

    def at(self, file: int, line: int) -> str:
        return self._dataset.place(self._task, file, line)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _VALUE else text[:_VALUE] + "..."


def _row_item(check: Check, result: Result, rows: _Rows) -> Item:
    task = rows._task
    if result.error:
        reason = f"{check.name} cannot be checked: {result.error}"
        return Item(task, check.name, check.severity, reason, "mend the expectation in the spec")
    if not result.checked:
        about = "its row_condition lets no row pass, or its column is empty" if check.native else "there was none"
        remedy = (
            "mend the expectation in the spec: what looks at nothing finds nothing" if check.native else check.remedy
        )
        return Item(task, check.name, check.severity, f"{check.name} checked no value: {about}", remedy)
    mostly = getattr(check.expectation, "mostly", 1.0)
    if result.checked and isinstance(mostly, int | float) and not check.native:
        success = result.unexpected <= (1 - mostly) * result.checked + 1e-9  # over all frames, not each
    else:
        success = result.success
    if success:
        return Item(task, check.name, "ok", checked=result.checked, unexpected=result.unexpected)
    share = f"{result.unexpected:,} of {result.checked:,} ({result.unexpected / max(result.checked, 1):.1%})"
    values = listed([str(v) for v, _ in Counter(map(str, result.values)).most_common()])
    text = check.wrong.format(found=share, limit=check.limit, values=values)
    if check.native:
        counted = f"{result.unexpected:,} of {result.checked:,} values"
        seen = counted if result.observed is None else f"found {result.observed}"
        text = f"{text}: {seen}"
    shown = [f"{v:g} tokens" if str(check.column).endswith("_tokens") else _short(v) for v in result.values]
    placed = rows.placed(result.indices, shown)
    return Item(task, check.name, check.severity, text, check.remedy, placed, result.checked, result.unexpected)


def _unmeasured(task: str, check: Check) -> Item:
    text = f"{check.name}: not checked, as the backbone is not at hand"
    return Item(task, check.name, "unchecked", text, "a run fetches the backbone, and checks it")


def _noted(task: str, note: Note) -> Item:
    """What was met while the rows were read."""
    return Item(task, note["check"], "warn", note["text"], note["remedy"], tuple(note["places"]), 1, note["count"])


def _count_items(
    task: TaskSpec,
    dataset: TaskDataset,
    facts: dict[str, float],
    words: dict[str, str],
    known_languages: int,
    others: list[int],
    rows: _Rows,
) -> tuple[list[Item], Suite]:
    import pandas as pd

    manifest = dataset.manifest["tasks"][task.name]
    checks = [check for check in count_checks(task) if check.column in facts]  # without a tokenizer some are not asked
    suite = Suite(f"{task.name} counts", [c.expectation for c in checks])
    suite.run(pd.DataFrame([facts]))
    items = []
    for check, result in zip(checks, suite.results, strict=True):
        column = str(check.column)
        if column == "other_language_share" and not known_languages:
            text = f"{check.name}: checked no value, as no input's language can be told by its words"
            items.append(Item(task.name, check.name, check.severity, text, "unset quality > language for such inputs"))
            continue
        if result.success:
            items.append(Item(task.name, check.name, "ok", checked=1))
            continue
        form = "{:.1%}" if column.endswith("share") else "{}"
        found, limit = form.format(facts[column]), form.format(check.limit)
        text = check.wrong.format(found=found, limit=limit, values=words.get(column, ""))
        examples = manifest["examples"].get(check.examples or "", [])[:SHOWN]
        placed = tuple(rows.at(file, line) for file, line in sorted((e["file"], e["line"]) for e in examples))
        if column == "other_language_share":
            train = dataset.rows("train", task.name)
            placed = rows.placed(others[:SHOWN], [_short(train[i]["input"]) for i in others[:SHOWN]])
        items.append(Item(task.name, check.name, check.severity, text, check.remedy, placed, 1, 1))
    return items, suite


def _facts(manifest: TaskManifest, labels: tuple[str, ...]) -> tuple[dict[str, float], dict[str, str]]:
    """A table of one row, and words for the counts that are lists of labels."""
    train = manifest["label_counts"]["train"]
    every = sorted({*labels, *(label for counts in manifest["label_counts"].values() for label in counts)})
    by_case = _together(every, lambda label: comparable(label).casefold())
    labels_by_kind = {
        "labels_by_case": by_case,
        "labels_alike": [
            label for label in _together(every, lambda label: look(comparable(label))) if label not in by_case
        ],
        "untrained_labels": [label for label in labels if label not in train],
        "rare_labels": [f"{label} ({rows})" for label, rows in train.items() if rows <= RARE],
    }
    facts = {
        **{f"{split}_rows": manifest["rows"][split] for split in SPLITS},
        "duplicate_share": manifest["duplicates"] / max(manifest["read"], 1),
        "leakage_share": manifest["leaked_inputs"] / max(manifest["test_inputs"], 1),
        "contradiction_share": manifest["contradictions"] / max(manifest["inputs"], 1),
        "by_case": manifest["by_case"],
        "train_labels": len(train),
        "label_share": max(train.values(), default=0) / max(sum(train.values()), 1),
        **{name: len(found) for name, found in labels_by_kind.items()},
    }
    words = {name: listed([_shown(label) for label in found]) for name, found in labels_by_kind.items()}
    return facts, words


def _together(labels: Sequence[str], key: Callable[[str], str]) -> list[str]:
    """Labels whose key another one has too."""
    same: dict[str, list[str]] = {}
    for label in labels:
        same.setdefault(key(label), []).append(label)
    return [label for alike in same.values() if len(alike) > 1 for label in alike]


def _shown(label: str) -> str:
    """A label whose characters are told apart: where not all are ASCII's, by their numbers."""
    return label if label.isascii() else f"{label} ({ascii(label)[1:-1]})"
