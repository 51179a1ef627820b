"""What a person sees while a run goes on: a live bar in a terminal, one line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LINE_SECONDS = 10.0


class Display:
    """Shows phases by name, each with its progress. Safe to call often: it draws at its own pace."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bars: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        )

    def note(self, text: str) -> None:
        """One line that stays."""
        (self._progress.console if self._live else self._console).print(text, highlight=False, markup=False)

    def update(self, phase: str, done: float, total: float, fields: Mapping[str, Any]) -> None:
        """Progress of a phase: `done` of `total` and what else is known of it."""
        note = describe(fields)
        if self._live:
            bar = self._bars.get(phase)
            if bar is None:
                bar = self._bars[phase] = self._progress.add_task(phase, total=total, note="")
            self._progress.update(bar, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if done >= total or now - self._last_line.get(phase, -LINE_SECONDS) >= LINE_SECONDS:
            self._last_line[phase] = now
            self._console.print(f"{phase}: {done:g}/{total:g}  {note}", highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def shown(self) -> Iterator["Display"]:
        """Make this the display that `current()` gives, and draw it while the block runs."""
        token = _CURRENT.set(self)
        try:
            if self._live:
                with self._progress:
                    yield self
            else:
                yield self
        finally:
            _CURRENT.reset(token)


_CURRENT: ContextVar[Display | None] = ContextVar("display", default=None)


def current() -> Display | None:
    """The display of this run; None where nobody watches, such as in a worker."""
    return _CURRENT.get()


def console_display(quiet: bool = False) -> Display:
    """A display on stderr, so that stdout stays for results."""
    return Display(Console(file=sys.stderr, quiet=quiet, soft_wrap=False))


def describe(fields: Mapping[str, Any]) -> str:
    """Known fields as a short line: loss, speed, time left."""
    parts = []
    if (loss := fields.get("loss")) is not None:
        parts.append(f"loss {loss:.3f}")
    if (rate := fields.get("rows_per_second")) is not None:
        parts.append(f"{rate:,.1f} rows/s")
    if (left := fields.get("seconds_left")) is not None:
        minutes, seconds = divmod(round(left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    if text := fields.get("text"):
        parts.append(str(text))
    return ", ".join(parts)
