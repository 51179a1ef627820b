"""Quotes that are plain text: one opens a field, another lines below closes it, and the rows between are swallowed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from alter_core.problems import Problems

_CHECK = "fields over several lines"
_REMEDY = "see that it is one cell; where a quote is plain text, put its field into quotes and double it"
_FIT = 0.8  # of the lines in a field that would be rows of as many fields: others may have a line end of their own
_SUSPECTS = 1000
_RARE = 0.02  # of the rows: where more stand over several lines, such cells are usual there
_FEW = 3  # rows over several lines that are rare in any file
_LONG = 4  # lines that each would be a row of as many fields: rare in prose, whatever is usual


@dataclass(frozen=True)
class _Suspect:
    """A row with a field whose lines would be rows themselves."""

    start: int
    end: int
    pieces: tuple[tuple[str | None, ...], ...]
    """Cells of the rows that it would be; None for cells that surely are the row's own."""


class Swallowed:
    """Looks at rows that stand over several lines. Whether they are several is told when the file has been read: by
    cells that other rows have too, such as labels."""

    def __init__(self, separator: str) -> None:
        self._separator = separator
        self.suspects: list[_Suspect] = []
        self._multiline = 0

    def look_at(self, start: int, end: int, values: list[str]) -> None:
        self._multiline += 1
        if len(self.suspects) < _SUSPECTS and (pieces := self._pieces(values)):
            self.suspects.append(_Suspect(start, end, pieces))

    def report(self, rows: Iterable[list[str]], name: str, problems: Problems) -> None:
        """`rows`: all of the file once more. What surely are rows goes to `problems`; what may be is noted there."""
        seen = [Counter[str]() for _ in self.suspects[0].pieces[0]]
        count = 0
        for values in rows:
            count += 1
            for column, value in zip(seen, values, strict=False):
                if "\n" not in value:
                    column[value] += 1
        usual = self._multiline > max(_FEW, _RARE * count)
        for suspect in self.suspects:
            place = f"{name}:{suspect.start}"
            text = f"a quote opens here and closes in line {suspect.end}"
            if self._separator == "\t" or _are_rows(suspect, seen):
                problems.add(
                    place,
                    f"{text}, over what look like rows; where quotes are plain text, put the field into quotes and "
                    "double its own",
                )
            elif not usual or (len(seen) > 1 and len(suspect.pieces) >= _LONG):
                problems.note(f"{place}: {text}", _CHECK, "a field stands over lines that could be rows", _REMEDY)

    def _pieces(self, values: list[str]) -> tuple[tuple[str | None, ...], ...]:
        width = len(values)
        for place, value in enumerate(values):
            lines = [line.removesuffix("\r").split(self._separator) for line in value.split("\n")]
            if len(lines) < 2:
                continue
            own: list[str | None] = [None] * width
            first: list[str | None] = [*own[:place], *lines[0]]
            last: list[str | None] = [*lines[-1], *own[place + 1 :]]
            pieces: list[Sequence[str | None]] = [first, *lines[1:-1], last]
            fitting = [tuple(piece) for piece in pieces if len(piece) == width]
            ends_fit = len(pieces[0]) == len(pieces[-1]) == width
            if ends_fit and len(fitting) >= _FIT * len(pieces):
                return tuple(fitting)
        return ()


def _are_rows(suspect: _Suspect, seen: list[Counter[str]]) -> bool:
    """Whether half of the pieces have a cell that other rows have in that column too."""
    known = sum(any(_known(piece, seen)) for piece in suspect.pieces)
    return len(seen) > 1 and known * 2 >= len(suspect.pieces)


def _known(piece: tuple[str | None, ...], seen: list[Counter[str]]) -> Iterator[bool]:
    return (bool(value and value.strip()) and column[str(value)] > 1 for value, column in zip(piece, seen, strict=True))
