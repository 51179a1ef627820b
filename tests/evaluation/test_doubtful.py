"""Held-out rows whose label the model finds unlikely are named with their places, and none is left out."""

from collections.abc import Sequence
from random import Random

import pytest

from alter_core.data.dataset import TaskDataset
from alter_core.evaluation.doubtful import FEWEST_ROWS, MOST_NAMED, doubted
from alter_core.evaluation.rows import Row, rows_of
from alter_core.inference.prediction import Prediction
from tests.data.conftest import MadeDomain, made

__all__ = ["made"]


def held_out(made: MadeDomain, count: int, labels: int) -> tuple[TaskDataset, list[Row]]:
    """A data set of `count` rows, and its validation and test rows."""
    made.write("rows.jsonl", [{"input": f"row {n}", "target": f"label {n % labels}"} for n in range(count)])
    dataset = made.ingest(split={"test": 0.4, "validation": 0.3})
    return dataset, [row for split in ("validation", "test") for row in rows_of(dataset, "task", split, None)]


def answered(rows: Sequence[Row], wrong: Sequence[int], labels: int) -> list[Prediction]:
    """To each row its label, and to those that are `wrong` the next one, which the model is surer of."""
    draw = Random(0)
    return [
        Prediction(f"label {(int(row['target'].split()[1]) + 1) % labels}", draw.uniform(0.99, 0.999), False)
        if number in wrong
        else Prediction(row["target"], draw.uniform(0.8, 0.98), False)
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize("labels", [2, 3, 12])
def test_rows_that_are_surely_answered_otherwise_are_found(made: MadeDomain, labels: int) -> None:
    dataset, rows = held_out(made, 400, labels)
    wrong = [3, 40, len(rows) - 1]
    found = doubted(dataset, "task", rows, answered(rows, wrong, labels))
    assert (found.looked_at, found.found) == (len(rows), len(wrong))
    assert {row.input for row in found.rows} == {rows[number]["input"] for number in wrong}
    assert [row.probability for row in found.rows] == sorted(row.probability for row in found.rows)
    for row in found.rows:
        assert row.place == f"rows.jsonl:{int(row.input.split()[1]) + 1}"
        assert row.likely == f"label {(int(row.label.split()[1]) + 1) % labels}"
        assert row.probability < 0.1


def test_of_many_the_least_likely_are_named_and_all_are_counted(made: MadeDomain) -> None:
    dataset, rows = held_out(made, 900, 2)
    wrong = range(0, len(rows), 7)
    answers = answered(rows, wrong, 2)
    found = doubted(dataset, "task", rows, answers)
    assert found.found == len(wrong) > MOST_NAMED == len(found.rows)
    surest = sorted(1 - answers[number].score for number in wrong)[:MOST_NAMED]
    assert [row.probability for row in found.rows] == pytest.approx(surest)


def test_labels_that_are_never_answered_and_answers_that_are_no_rows_label_are_borne(made: MadeDomain) -> None:
    """A task of many labels has few rows of each."""
    dataset, rows = held_out(made, 120, 60)
    answers = [Prediction(row["target"] if n % 5 else "a label of no row", 0.8, False) for n, row in enumerate(rows)]
    found = doubted(dataset, "task", rows, answers)
    unlikely = {row["input"] for n, row in enumerate(rows) if not n % 5}
    assert found.looked_at == len(rows)
    assert {row.input for row in found.rows} <= unlikely


def test_nothing_is_found_where_all_is_right(made: MadeDomain) -> None:
    dataset, rows = held_out(made, 200, 3)
    found = doubted(dataset, "task", rows, answered(rows, [], 3))
    assert (found.looked_at, found.found, found.rows) == (len(rows), 0, ())


@pytest.mark.parametrize("count", [1, FEWEST_ROWS - 1])
def test_few_rows_are_not_judged(made: MadeDomain, count: int) -> None:
    dataset, rows = held_out(made, 200, 3)
    found = doubted(dataset, "task", rows[:count], answered(rows[:count], [0], 3))
    assert (found.looked_at, found.found) == (0, 0)
