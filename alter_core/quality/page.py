"""The quality report as one HTML page: no scripts, no network, every text escaped."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from alter_core.data.dataset import SPLITS
from alter_core.quality.doubtful import LEAST_ROWS
from alter_core.quality.report import QualityReport, TaskReport
from alter_core.whole import write_json, write_text

TEMPLATE = "page.html.j2"
WORDS = {"ok": "passes", "warn": "passes with warnings", "block": "is blocked"}
DOUBTFUL = "doubtful"
_SHOWN = {"rows": 10, "text": 300, "labels": 25}
"""Doubtful rows, and characters of each, that the page shows; labels that are shown at once: the others unfold."""
_LIMITED = {"input": "inputs fit max_input_tokens", "target": "targets fit max_target_tokens"}


def write_report(report: QualityReport, folder: Path) -> Path:
    """Write quality.html, and beside it Great Expectations' own results as JSON and doubtful rows as TASK.jsonl in the
    folder DOUBTFUL; the path of the page."""
    page = folder / "quality.html"
    write_text(page, quality_page(report))
    write_json(folder / "great_expectations.json", report.gx_json)
    for name, found in report.doubtful.items():
        if found.rows:
            lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in found.rows)
            write_text(folder / DOUBTFUL / f"{name}.jsonl", "".join(lines))
    return page


def quality_page(report: QualityReport) -> str:
    """The whole page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("alter_core.quality").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    counts = {name: _counts(task) for name, task in report.tasks.items()}
    return template.render(
        report=report,
        words=WORDS,
        doubtful=DOUBTFUL,
        shown=_SHOWN,
        least_rows=LEAST_ROWS,
        wrong=[*report.wrong("block"), *report.wrong("warn")],
        rows=sum(sum(task["rows"].values()) for task in report.tasks.values()),
        columns=(*SPLITS, "read", "duplicates", "leakage", "contradictions"),
        counts=counts,
        sums=[sum(column) for column in zip(*counts.values(), strict=True)],
        labels={name: _labels(task) for name, task in report.tasks.items()},
        lengths={name: list(_lengths(report, name)) for name in report.tasks},
    )


def _counts(task: TaskReport) -> list[int]:
    by_split = (task["rows"][split] for split in SPLITS)
    return [*by_split, task["read"], task["duplicates"], task["leakage"], task["contradictions"]]


def _labels(task: TaskReport) -> list[tuple[str, int, int]]:
    """Label, its training rows and its test rows; none for a task without labels."""
    train, test = task["label_counts"]["train"], task["label_counts"]["test"]
    rows = [(label, train.get(label, 0), test.get(label, 0)) for label in {**train, **test}] if train else []
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _lengths(report: QualityReport, name: str) -> Iterator[tuple[str, Mapping[str, int], str]]:
    """Part of a row, its quantiles in tokens, and the share of rows over the limit where that was checked."""
    profile = report.profile[name]
    for part, lengths in (("input", profile.get("input_tokens")), ("target", profile.get("target_tokens"))):
        if lengths:
            over = next((i for i in report.items if (i.task, i.check) == (name, _LIMITED[part])), None)
            yield part, lengths, f"{over.unexpected / over.checked:.1%}" if over and over.checked else ""
