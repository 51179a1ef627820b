"""One text for a cell, whatever door it came through: a file, a query, a data set or code."""

import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from numbers import Number
from typing import Any
from uuid import UUID

from alter_core.problems import kind_of
from alter_core.text import clean

Cells = Mapping[str, object]
"""A source's row, column -> value: of whatever type its door gives."""
MISSING = "fill it, or take the row out of the source"
_EXACT = {8: 2.0**53, 4: 2.0**24, 2: 2.0**11}
"""Bytes of a float -> from here on not every whole number is one."""


class CellError(Exception):
    """A value that has no text of its own; the message says what stands there and what to do."""


class WrittenNumber:
    """A number of JSON, as its digits stand in the file: 1.10 stays 1.10, and a long one loses none."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WrittenNumber) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


Number.register(WrittenNumber)


def cell_text(value: Any) -> str:
    """The text of a cell. Raises CellError where there is none.

    A text is itself. A number is as JSON writes it, else the shortest text of its own type (the 32-bit float 3.7 is
    3.7) or a decimal's digits with its scale. A truth value is true or false. Dates and times are as ISO 8601 has them
    (2024-01-31, 2024-01-31T12:30:00). Null, nested values and floats that are not exact have no text.
    """
    if isinstance(value, str):
        return str.__str__(value)  # an enumeration of texts says its name, not its text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float_text(float(value), 8)
    if isinstance(value, int):
        return str(int(value))
    if value is None:
        raise CellError(f"nothing (null); {MISSING}")
    return _rarer_text(value)


def _rarer_text(value: Any) -> str:
    if isinstance(value, WrittenNumber):
        return value.text
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, list | tuple | Mapping):
        raise CellError(f"a nested value ({kind_of(value)}); flatten it in the source")
    if isinstance(value, UUID):
        return str(value)
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind and not getattr(value, "shape", ()):  # a scalar of numpy
        if kind == "f" and value.dtype.itemsize in _EXACT:
            return _float_text(value, value.dtype.itemsize)
        if kind in "biu":
            return cell_text(value.item())
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' missing values; the latter is a date too
        raise CellError(f"nothing ({value}); {MISSING}")
    if isinstance(value, date | time):
        return value.isoformat()
    raise CellError(f"{kind_of(value)} ({value})"[:80] + "; write it as text in the source")


def _float_text(value: Any, size: int) -> str:
    if math.isnan(value):
        raise CellError(f"nothing (NaN); {MISSING}")
    if not abs(value) < _EXACT[size]:
        raise CellError(f"{value}, a number that is not exact; write it as text in the source")
    return repr(float(str(value)))  # numpy's digits of a shorter float, in Python's notation


def is_number(value: Any) -> bool:
    return isinstance(value, Number) or getattr(getattr(value, "dtype", None), "kind", "") in ("b", "i", "u", "f")


def spellings(value: Any) -> tuple[str, ...]:
    """Every text that `source > where` may have for a cell: a text is itself alone; a whole number may stand in a
    column of floats, where one has a gap, and a truth value is written either way. Empty where the cell has none."""
    if isinstance(value, str):
        return (clean(value),)
    try:
        text = cell_text(value)
    except CellError:
        return ()
    if text in ("true", "false"):
        return text, text.capitalize()
    whole, point, rest = text.partition(".")
    return (text, whole) if point and not rest.strip("0") else (text,)
