"""Training rows whose label is probably wrong are shown, with their places, and none is dropped."""

import json
from pathlib import Path
from random import Random

import pytest

from alter_core.data.dataset import TaskDataset
from alter_core.data.ingest import ingest
from alter_core.quality.doubtful import LEAST_ROWS, doubtful_rows
from alter_core.quality.page import write_report
from alter_core.quality.report import validate
from tests.data.conftest import MadeDomain

WRONG = 8


def rows(count: int) -> list[dict[str, str]]:
    """Texts about two things; the label of the first WRONG is that of the other thing."""
    draw = Random(0)
    words = {"fruit": ["apple", "pear", "plum", "grape"], "metal": ["iron", "zinc", "lead", "tin"]}
    made = []
    for number in range(count):
        target = ("fruit", "metal")[number % 2]
        text = f"row {number}: " + " ".join(draw.choices(words[target], k=5))
        made.append({"input": text, "target": ("metal", "fruit")[number % 2] if number < WRONG else target})
    return made


def dataset_of(made: MadeDomain, count: int) -> TaskDataset:
    made.write("rows.jsonl", rows(count))
    return ingest(made.spec(), made.folder, made.workspace)


def test_rows_with_the_label_of_the_other_thing_are_found_with_their_places(made: MadeDomain, tmp_path: Path) -> None:
    dataset = dataset_of(made, 800)
    report = validate(dataset, made.spec(), None)
    (found,) = report.doubtful.values()
    train = [row["input"] for row in dataset.rows("train")]
    planted = {text for text in train if int(text.split()[1].strip(":")) < WRONG}
    assert {row.input for row in found.rows} <= planted
    assert len(found.rows) >= len(planted) / 2
    assert found.looked_at == len(train)
    for row in found.rows:
        assert {row.label, row.likely} == {"fruit", "metal"}
        assert row.place == f"rows.jsonl:{int(row.input.split()[1].strip(':')) + 1}"
    page = write_report(report, tmp_path / "quality")
    assert f"{len(found.rows)} of {len(train)} training rows" in page.read_text(encoding="utf-8")
    (file,) = (tmp_path / "quality" / "doubtful").iterdir()
    assert [json.loads(line)["input"] for line in file.read_text(encoding="utf-8").splitlines()] == [
        row.input for row in found.rows
    ]


@pytest.mark.parametrize("count", [40, LEAST_ROWS - 1])
def test_a_few_rows_are_not_judged_and_the_page_says_so(made: MadeDomain, tmp_path: Path, count: int) -> None:
    dataset = dataset_of(made, count)
    (name,) = dataset.task_names
    assert doubtful_rows(dataset, name).looked_at == 0
    page = write_report(validate(dataset, made.spec(), None), tmp_path / "quality")
    assert "Not looked at: fewer than 500 training rows" in page.read_text(encoding="utf-8")
