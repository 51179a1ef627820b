"""A column that says which split each row belongs to, in so many words."""

import re
from collections.abc import Collection

from alter_core.data.cells import Cells

TEST = ("test", "testing", "tst", "eval", "evaluation", "holdout", "held out", "held-out", "heldout")
TRAIN = ("train", "training", "trn")
VALIDATION = ("validation", "valid", "val", "dev", "development")
_WORDS = {*TEST, *TRAIN, *VALIDATION}
_NAME = re.compile(r"(?:^|[^a-z])(?:splits?|folds?|subset|partition)(?:$|[^a-z])", re.I)
_MOST = 20  # different values; a column with more is about something else


def may_say_a_split(name: str) -> bool:
    """Whether a column's name is that of a split."""
    return bool(_NAME.search(name))


class SplitColumns:
    """Watches the columns that nothing in the spec names, and keeps those whose every value is a split's name, or that
    are called a split or a fold and have few values."""

    def __init__(self, named: Collection[str]) -> None:
        self._named = set(named)
        self._open: dict[str, dict[str, int]] | None = None

    def look_at(self, row: Cells) -> None:
        if self._open is None:
            self._open = {name: {} for name in row if isinstance(name, str) and name not in self._named}
        gone = []
        for name, values in self._open.items():
            value = row.get(name)
            if value is None or value == "":
                continue
            text = str(value).strip().casefold()
            if text not in _WORDS and not (may_say_a_split(name) and len(values) < _MOST):
                gone.append(name)
            else:
                shown = str(value).strip()
                values[shown] = values.get(shown, 0) + 1
                if len(values) > _MOST:
                    gone.append(name)
        for name in gone:
            del self._open[name]

    def found(self) -> dict[str, dict[str, int]]:
        """Column -> value -> rows, of those that say a split: two values at least, one of them a split's word or the
        column's name a split's."""
        return {name: values for name, values in (self._open or {}).items() if len(values) > 1}


def parts_of(values: Collection[str]) -> tuple[list[str], list[str]]:
    """Values that are to train on, and those that are to test on: the test's by their names, else the last one."""
    testing = [value for value in values if value.casefold() in TEST]
    if not testing:
        testing = sorted(values)[-1:]
    return [value for value in values if value not in testing], testing
