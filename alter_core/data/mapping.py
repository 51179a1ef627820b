"""From a source's row to a canonical one: columns, template, filter, label map and tidy text."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from alter_core.data.files import missing_column
from alter_core.problems import kind_of
from alter_core.spec import SourceSpec, TaskSpec
from alter_core.spec.template import filled, template_columns
from alter_core.text import clean, damage

Scalar = str | int | float | bool
EXACT = 2.0**53  # floats from here on are not all the whole numbers any more
_MISSING = "fill it, or take the row out of the source"
_WHOLE = re.compile(r"(-?\d+)\.0+")


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


Mapper = Callable[[Mapping[str, Any]], Canonical | None]


def columns_of(source: SourceSpec, by_group: bool) -> tuple[str, ...]:
    """Source columns that are read, without doubles."""
    named = source.columns
    inputs = template_columns(source.template) if source.template else (named.get("input", "input"),)
    optional = tuple(named[c] for c in ("id",) if c in named)
    group = (named.get("group", "group"),) if by_group else ()
    return tuple(dict.fromkeys((*inputs, named.get("target", "target"), *optional, *group, *source.where)))


def mapper(task: TaskSpec, source: SourceSpec, by_group: bool) -> Mapper:
    """A function that makes a canonical row, or None where `where` leaves it out. It raises RowError."""
    named = source.columns
    input_column = named.get("input", "input")
    target_column = named.get("target", "target")
    id_column = named.get("id")
    group_column = named.get("group", "group") if by_group else None
    fields = template_columns(source.template) if source.template else ()
    labels = {clean(key): clean(label) for key, label in source.label_map.items()}
    wanted = {column: {comparable(v) for v in _many(value)} for column, value in source.where.items()}

    def make(row: Mapping[str, Any]) -> Canonical | None:
        try:
            for column, values in wanted.items():
                if comparable(row[column]) not in values:
                    return None
            target = row[target_column]
            if type(target) is not str:
                target = _text(target, target_column)
            if fields:
                parts = {name: clean(_text(row[name], name)) for name in fields}
                text = filled(str(source.template), parts) if any(parts.values()) else ""
            else:
                text = row[input_column]
                if not isinstance(text, str):
                    raise RowError(f"column {input_column!r} must hold text, got {_kind(text, input_column)}")
            own_id = clean(_text(row[id_column], id_column)) if id_column else ""
            group = comparable(_text(row[group_column], group_column)) if group_column else ""
        except KeyError as error:
            raise MissingColumn(error.args[0], tuple(row)) from None
        text, target = clean(text), clean(target)
        if labels:
            target = labels.get(target, target)
        if not text:
            empty = f"columns {', '.join(map(repr, fields))} are" if fields else f"column {input_column!r} is"
            raise RowError(f"{empty} empty; {_MISSING}")
        if not target:
            raise RowError(f"column {target_column!r} is empty; {_MISSING}")
        for part in (text, target, own_id, group):
            if damaged := damage(part):
                raise RowError(f"{damaged}: mend it in the source")
        if group_column and not group:
            raise RowError(
                f"column {group_column!r} is empty, and rows are split by it; fill it, or set split > by: row"
            )
        return Canonical(text, target, own_id, group)

    return make


def _many(value: Scalar | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return value if isinstance(value, tuple) else (value,)


def comparable(value: Any) -> str:
    """Values of filters and groups are compared as text, which is all that a CSV file knows: 1.0 is 1, and True true.

    A column of whole numbers becomes one of floats where it has a gap.
    """
    text = clean(as_text(value))
    if text.lower() in ("true", "false"):
        return text.lower()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def as_text(value: Any) -> str:
    """A text, number or truth value as rows hold it."""
    if isinstance(value, str):
        return str.__str__(value)  # an enumeration of texts says its name, not its text
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: Any, column: str) -> str:
    """Text, a number or a truth value as text. Raises RowError for anything else."""
    if isinstance(value, float) and not abs(value) < EXACT:  # JSON's large whole numbers are read as such, and NaN
        raise RowError(f"column {column!r} holds {value}, a number that is not exact; write it as text in the source")
    if isinstance(value, str | bool | int | float):
        return as_text(value)
    raise RowError(f"column {column!r} must hold text or a number, got {_kind(value, column)}")


def _kind(value: Any, column: str) -> str:
    """What stands there instead of text, and what to do about it."""
    if value is None:
        return f"nothing (null); {_MISSING}"
    if isinstance(value, list | tuple | Mapping):
        return f"a nested value ({kind_of(value)}); flatten it in the source"
    if isinstance(value, bool | int | float):
        return f"{kind_of(value)}; source > template: '{{{column}}}' writes it as text"
    return f"{kind_of(value)} ({value})"[:80] + "; write it as text in the source"
