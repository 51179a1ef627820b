"""From a source's row to a canonical one: columns, template, filter, label map and tidy text."""

import re
from collections import Counter
from typing import Any, NamedTuple

from alter_core.data.cells import MISSING, CellError, Cells, cell_text, is_number, spellings
from alter_core.data.rows import missing_column
from alter_core.problems import kind_of
from alter_core.spec import SourceSpec, TaskSpec
from alter_core.spec.template import filled, template_columns
from alter_core.text import clean, damage, tidied, tidying

_WHOLE = re.compile(r"(-?\d+)\.0+")
_VALUES = 20  # different ones of a filtered column that are kept to be shown


class RowError(Exception):
    """A row that cannot be used; the text says why and what to do."""


class MissingColumn(RowError):
    """A column is not in the row; `args` are the column and the names that are there."""

    def message(self, place: str) -> str:
        column, names = self.args
        return missing_column(place, column, names).removeprefix(f"{place}: ")


class Canonical(NamedTuple):
    """A row as the rest of the factory knows it, before its split is told."""

    input: str
    target: str
    id: str
    group: str


def columns_of(source: SourceSpec, by_group: bool) -> tuple[str, ...]:
    """Source columns that are read, without doubles."""
    named = source.columns
    inputs = template_columns(source.template) if source.template else (named.get("input", "input"),)
    own_id = (named["id"],) if "id" in named else ()
    group = (named.get("group", "group"),) if by_group else ()
    return tuple(dict.fromkeys((*inputs, named.get("target", "target"), *own_id, *group, *source.where)))


class Mapper:
    """Makes canonical rows, and counts what its rows lose on the way."""

    def __init__(self, task: TaskSpec, source: SourceSpec, by_group: bool) -> None:
        named = source.columns
        self._input = named.get("input", "input")
        self._target = named.get("target", "target")
        self._id = named.get("id")
        self._group = named.get("group", "group") if by_group else None
        self._fields = template_columns(source.template) if source.template else ()
        self._template = str(source.template)
        self._labels = {clean(key): clean(label) for key, label in source.label_map.items()}
        self._wanted = {column: _many(value) for column, value in source.where.items()}
        self._met = {column: Counter[str]() for column in self._wanted}
        self._layout = task.layout
        self._labelled = task.task_type.labelled
        self.tidied: Counter[str] = Counter()
        """`target: blanks` and the like -> rows in which tidying changed what may carry meaning."""

    def __call__(self, row: Cells) -> Canonical | None:
        """The canonical row, or None where `where` leaves it out. Raises RowError."""
        try:
            if not self._passes(row):
                return None
            target = row[self._target]
            if type(target) is not str:
                target = _text(target, self._target)
            text = self._input_of(row)
            own_id = clean(_text(row[self._id], self._id)) if self._id else ""
            group = comparable(_text(row[self._group], self._group)) if self._group else ""
        except KeyError as error:
            raise MissingColumn(error.args[0], tuple(row)) from None
        target = self._tidy("target", target)
        if self._labels:
            target = self._labels.get(clean(target), target)
        if not text:
            said = f"columns {', '.join(map(repr, self._fields))} are" if self._fields else f"column {self._input!r} is"
            raise RowError(f"{said} empty; {MISSING}")
        if not target:
            raise RowError(f"column {self._target!r} is empty; {MISSING}")
        for part in (text, target, own_id, group):
            if damaged := damage(part):
                raise RowError(f"{damaged}: mend it in the source")
        if self._group and not group:
            raise RowError(
                f"column {self._group!r} is empty, and rows are split by it; fill it, or set split > by: row"
            )
        return Canonical(text, target, own_id, group)

    def unmet(self) -> dict[str, tuple[list[str], list[str]]]:
        """Column of `where` -> its values that no row has, and values that rows have."""
        unmet = {}
        for column, wanted in self._wanted.items():
            if never := [value for value in wanted if not self._met[column][clean(value)]]:
                met = [value for value, _ in self._met[column].most_common() if value not in map(clean, wanted)]
                unmet[column] = (never, met)
        return unmet

    def _passes(self, row: Cells) -> bool:
        passes = True
        for column, wanted in self._wanted.items():
            texts = spellings(row[column])
            found = next((clean(value) for value in wanted if clean(value) in texts), None)
            met = self._met[column]
            if found is not None:
                met[found] += 1
            else:
                passes = False
                text = texts[0] if texts else kind_of(row[column])
                if text in met or len(met) < _VALUES + len(wanted):
                    met[text] += 1
        return passes

    def _input_of(self, row: Cells) -> str:
        if self._fields:
            texts = {name: self._tidy("input", _text(row[name], name)) for name in self._fields}
            return tidied(filled(self._template, texts), self._layout) if any(texts.values()) else ""
        text = row[self._input]
        if not isinstance(text, str):
            raise RowError(f"column {self._input!r} must hold text, got {_instead(text, self._input)}")
        return self._tidy("input", str.__str__(text))

    def _tidy(self, role: str, text: str) -> str:
        if role == "target" and self._labelled:
            return clean(text)
        written = tidied(text, self._layout)
        if written != text and (changed := tidying(text, written)):
            self.tidied[f"{role}: {changed}"] += 1
        return written


def _many(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (value,)


def comparable(value: str) -> str:
    """Labels and groups that are told apart by their spelling alone are equal in this: 1.0 is 1, and True true.

    A column of whole numbers becomes one of floats where it has a gap.
    """
    text = clean(value)
    if text.lower() in ("true", "false"):
        return text.lower()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _text(value: Any, column: str) -> str:
    """A cell's text. Raises RowError where it has none."""
    try:
        return cell_text(value)
    except CellError as error:
        if is_number(value) and "not exact" in str(error):
            raise RowError(f"column {column!r} holds {error}") from None
        raise RowError(f"column {column!r} must hold text or a number, got {error}") from None


def _instead(value: Any, column: str) -> str:
    """What stands there instead of text, and what to do about it."""
    try:
        cell_text(value)
    except CellError as error:
        return str(error)
    return f"{kind_of(value)}; source > template: '{{{column}}}' writes it as text"
