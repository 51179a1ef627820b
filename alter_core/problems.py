"""Problems of a source, gathered while it is read, so that a person sees them all at once."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any, TypedDict

from pydantic import ValidationError

from alter_core.errors import DataError

SHOWN = 20


class TooManyProblems(Exception):
    """Enough was found to show; reading on would only take time."""


class Note(TypedDict):
    """What was met in a source and does not stop it, but must be told."""

    check: str
    text: str
    remedy: str
    places: list[str]
    """The first ones."""
    count: int


class Problems:
    """Collects lines of the form `TASK: FILE:LINE: what is wrong; what to do`; without `TASK: ` where it is empty."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.task = ""
        """Set to the task that is being read."""
        self._notes: dict[str, dict[tuple[str, str], Note]] = {}

    def add(self, place: str, text: str) -> None:
        """Raises TooManyProblems when as many are known as a message shows."""
        self.lines.append(f"{self.task}: {place}: {text}" if self.task else f"{place}: {text}")
        if len(self.lines) >= SHOWN:
            raise TooManyProblems

    def note(self, place: str, check: str, text: str, remedy: str) -> None:
        """Add a place to what is told of the task that is being read."""
        new = Note(check=check, text=text, remedy=remedy, places=[], count=0)
        note = self._notes.setdefault(self.task, {}).setdefault((check, text), new)
        note["count"] += 1
        if len(note["places"]) < SHOWN:
            note["places"].append(place)

    def notes(self) -> list[Note]:
        """Those of the task that is being read."""
        return list(self._notes.get(self.task, {}).values())

    def raise_if_any(self, headline: str) -> None:
        """Raises DataError with every line when there is one."""
        if self.lines:
            count = counted(len(self.lines), "problem")
            if len(self.lines) >= SHOWN:
                count = f"at least {count}, the first are"
            raise DataError(f"{headline}: {count}", self.lines)


def place(name: str, by_line: bool, number: int) -> str:
    """How messages name a row: `FILE:LINE`, or `SOURCE, row N`."""
    return f"{name}:{number}" if by_line else f"{name}, row {number}"


def counted(number: int, noun: str) -> str:
    """Such as "1 row" or "1,060 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def kind_of(value: Any) -> str:
    """A value of JSON, a database or a callable, in words of JSON and not of Python."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return f"the number {value}"
    words = ((str, "a text"), (Mapping, "an object"), (list | tuple, "a list"), (bytes, "bytes"))
    return next((word for kind, word in words if isinstance(value, kind)), f"a {type(value).__name__}")


def listed(values: Sequence[str], most: int = 12) -> str:
    """Names for a message: the first ones, and how many more there are."""
    text = ", ".join(repr(v) for v in values[:most])
    return f"{text} and {len(values) - most} more" if len(values) > most else text


def first(problems: Sequence[str], most: int, what: str = "") -> list[str]:
    """The first lines for a message, and how many more there are. what: of them, such as rows."""
    more = [f"and {len(problems) - most} more{what and f' {what}'}"] if len(problems) > most else []
    return [*problems[:most], *more]


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """For a message's end: the known name that is nearest to one that is not known; empty where none is near."""
    close = difflib.get_close_matches(given, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def lines_of(error: ValidationError) -> list[str]:
    """Each place that pydantic found wrong, and what is wrong there."""
    return [f"{' > '.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
