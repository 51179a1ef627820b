"""Which rows of a split are scored."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alter_core.spec import DomainSpec

if TYPE_CHECKING:
    from datasets import Dataset

    from alter_core.data.dataset import TaskDataset

Row = Mapping[str, Any]


def chosen_rows(dataset: "TaskDataset", spec: DomainSpec, split: str, limit: int | None) -> list[Row]:
    """Rows of a split, at most `limit` a task, chosen as `rows_of` does."""
    return [row for task in spec.tasks for row in rows_of(dataset, task.name, split, limit)]


def rows_of(dataset: "TaskDataset", task: str, split: str, limit: int | None) -> "Dataset":
    """A task's rows and where they came from, at most `limit`, chosen by hash of ids: fair, lasting as data grow."""
    table = dataset.placed_rows(split, task)
    if limit is None or limit >= len(table):
        return table
    digests = [hashlib.sha256(str(row).encode()).digest() for row in table["id"]]
    return table.select(sorted(sorted(range(len(table)), key=digests.__getitem__)[:limit]))
