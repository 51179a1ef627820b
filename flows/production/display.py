"""What a person sees while a run goes on: a live bar in a terminal, one line now and then elsewhere."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LINE_SECONDS = 10.0  # at least, between lines of a phase where there is no terminal
LINE_SHARE = 0.1  # of the time that the phase has taken: hours of training make dozens of lines, not thousands
PACE_SECONDS = 3.0  # before a pace says how long the rest takes
FINE = 100  # parts; fewer are tasks or steps of work, which are too unlike to tell one from the other


class Display:
    """Shows phases by name, each with its progress. Safe to call often: it draws at its own pace."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bars: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, float, float]] = {}  # when, at how many, and how many are done
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
        console = self._progress.console if self._live else self._console
        console.print(text, highlight=False, markup=False, soft_wrap=not self._live)

    def update(self, phase: str, done: float, total: float, fields: Mapping[str, Any]) -> None:
        """Progress of a phase: `done` of `total` and what else is known of it.

        Where the phase does not say how many seconds are left, its own pace does.
        """
        now = self._console.get_time()
        begin, first, before = self._begun.get(phase, (now, done, done))
        if done < before:  # the same phase of another domain
            begin, first = now, done
        self._begun[phase] = (begin, first, done)
        spent = now - begin
        if fields.get("seconds_left") is None and total >= FINE and done > first and spent >= PACE_SECONDS:
            fields = {**fields, "seconds_left": spent / (done - first) * (total - done)}
        note = describe(fields)
        if self._live:
            bar = self._bars.get(phase)
            if bar is None:
                bar = self._bars[phase] = self._progress.add_task(phase, total=total, note="")
            self._progress.update(bar, completed=done, total=total, note=note)
            return
        pause = max(LINE_SECONDS, spent * LINE_SHARE)
        if done >= total or now - self._last_line.get(phase, float("-inf")) >= pause:
            self._last_line[phase] = now
            text = f"{phase}: {done:,.10g}/{total:,.10g}  {note}".rstrip()
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

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


def console_display(quiet: bool) -> Display:
    """A display on stderr, so that stdout stays for results."""
    return Display(Console(file=sys.stderr, quiet=quiet, soft_wrap=False))


def plain_console(width: int | None = None) -> Console:
    """Where results go: stdout, each text as it stands. width: where it is no terminal's."""
    return Console(soft_wrap=True, highlight=False, markup=False, width=width)


def describe(fields: Mapping[str, Any]) -> str:
    """Known fields as a short line: loss, speed, time left."""
    parts = []
    if (loss := fields.get("loss")) is not None:
        parts.append(f"loss {loss:.3f}")
    if (rate := fields.get("rows_per_second")) is not None:
        parts.append(f"{rate:,.1f} rows/s")
    if (left := fields.get("seconds_left")) is not None:
        minutes, seconds = divmod(round(left), 60)
        hours, rest = divmod(minutes, 60)
        parts.append(f"{hours}:{rest:02d}:{seconds:02d} left" if hours else f"{minutes}:{seconds:02d} left")
    if text := fields.get("text"):
        parts.append(str(text))
    return ", ".join(parts)
