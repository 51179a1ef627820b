"""What becomes of rows with equal inputs: duplicates, contradictions and leakage, in one pass over sorted rows."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

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
        self.counts = Counter[str]()
        """Of rows and inputs, as a TaskManifest has them."""
        self.examples: dict[str, list[dict[str, int]]] = {
            kind: [] for kind in ("duplicates", "leakage", "contradictions", "by_case")
        }
        """The first places of each kind."""

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows that stay, in the order given: by key."""
        for _, same in groupby(rows, key=itemgetter(0)):
            different: dict[tuple[str, str], Row] = {}
            for row in same:  # duplicates are let go at once: a million equal rows need the memory of one
                if different.setdefault((row.split, row.target), row) is not row:
                    self._note("duplicates", [row])
            self.counts["inputs"] += 1
            yield from self._within_limit(self._settled(list(different.values())))

    def _settled(self, group: list[Row]) -> list[Row]:
        splits = {row.split for row in group}
        self.counts["test_inputs"] += "test" in splits
        if len(splits) > 1:
            best = min(splits, key=_RANK.__getitem__)
            leaking = [row for row in group if row.split != best]
            self._note("leakage", leaking)
            self.counts["leaked_inputs"] += best == "test" and "train" in splits
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
                self.counts["contradicting"] += len(against)
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
                self.counts["over_limit"] += 1

    def _note(self, kind: str, rows: list[Row], count: int | None = None) -> None:
        self.counts[kind] += len(rows) if count is None else count
        free = EXAMPLES - len(self.examples[kind])
        if free > 0:
            self.examples[kind] += [{"file": row.file, "line": row.line} for row in rows[:free]]
