"""What becomes of rows with equal inputs: duplicates, contradictions and leakage, in one pass over sorted rows."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from alter_core.data.sorted_rows import Row
from alter_core.spec import TaskSpec

_RANK = {"test": 0, "validation": 1, "train": 2}
EXAMPLES = 20


class Deduplicated:
    """Inputs are alike when their case-folded texts are equal. Of rows with inputs alike

    - one stays of those whose targets are equal, to the letter (the others are duplicates);
    - one split's stay, test before validation before train (the others leak);
    - none stays when a label task gives equal inputs different labels (they contradict each other); other tasks keep
      them. Inputs that differ by case and have different targets all stay: case means something there.
    """

    def __init__(self, task: TaskSpec) -> None:
        self._labelled = task.task_type.labelled
        self._own_test = task.test is not None
        self._limits = {"source": task.source.limit, "test": task.test.limit if task.test else None}
        self._kept = {"source": 0, "test": 0}
        self._counts = dict.fromkeys(
            ("inputs", "duplicates", "leakage", "contradictions", "contradicting", "by_case", "over_limit"), 0
        )
        self._test_inputs = 0
        self._leaked_inputs = 0
        self._examples: dict[str, list[dict[str, int]]] = {
            kind: [] for kind in ("duplicates", "leakage", "contradictions", "by_case")
        }

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows that stay, in the order given: by key."""
        for _, same in groupby(rows, key=itemgetter(0)):
            different: dict[tuple[str, str], Row] = {}
            for row in same:  # duplicates are let go at once: a million equal rows need the memory of one
                if different.setdefault((row.split, row.target), row) is not row:
                    self._note("duplicates", [row])
            self._counts["inputs"] += 1
            yield from self._within_limit(self._settled(list(different.values())))

    def summary(self) -> dict[str, Any]:
        """Counts of rows, and the first places of each kind.

        Of inputs count `inputs`, `contradictions` (with more than one target; `contradicting` are the rows dropped for
        it) and `by_case` (that case alone tells from one with another target).
        """
        shared = {"test_inputs": self._test_inputs, "leaked_inputs": self._leaked_inputs}
        return self._counts | shared | {"examples": self._examples}

    def _settled(self, group: list[Row]) -> list[Row]:
        splits = {row.split for row in group}
        self._test_inputs += "test" in splits
        if len(splits) > 1:
            best = min(splits, key=_RANK.__getitem__)
            leaking = [row for row in group if row.split != best]
            self._note("leakage", leaking)
            self._leaked_inputs += best == "test" and "train" in splits
            group = [row for row in group if row.split == best]
        if len(group) > 1:
            return self._uncontradicted(group)
        return group

    def _uncontradicted(self, group: list[Row]) -> list[Row]:
        times = Counter(row.input for row in group)
        if len(times) > 1:
            self._note("by_case", group, count=1)
        against = [row for row in group if times[row.input] > 1]
        if against:
            self._note("contradictions", against, count=1)
            if self._labelled:
                self._counts["contradicting"] += len(against)
                return [row for row in group if times[row.input] == 1]
        return group

    def _within_limit(self, group: list[Row]) -> Iterator[Row]:
        for row in group:
            role = "test" if self._own_test and row.split == "test" else "source"
            limit = self._limits[role]
            if limit is None or self._kept[role] < limit:
                self._kept[role] += 1
                yield row
            else:
                self._counts["over_limit"] += 1

    def _note(self, kind: str, rows: list[Row], count: int | None = None) -> None:
        self._counts[kind] += len(rows) if count is None else count
        free = EXAMPLES - len(self._examples[kind])
        if free > 0:
            self._examples[kind] += [{"file": row.file, "line": row.line} for row in rows[:free]]
