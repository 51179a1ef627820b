"""Work on several trials at once: threads that each wait for a process, so that no processor stands idle.

A training of a small model keeps one or two processors busy, and a GPU only in part.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from alter_core.job import Job, StopAsked
from alter_core.process import module_command, run_job

Item = TypeVar("Item")


class SideBySide:
    """Calls functions on items, `at_once` at a time; what one of them raises stops the others, and is raised."""

    def __init__(self, at_once: int, stop_asked: StopAsked) -> None:
        self.at_once = at_once
        self._stop_asked = stop_asked
        self._failed = threading.Event()

    def each(self, function: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Call `function` on every item; in this thread where one at a time is wanted."""
        if self.at_once == 1:
            for item in items:
                function(item)
            return
        with ThreadPoolExecutor(self.at_once) as pool:
            futures = [pool.submit(function, item) for item in items]
            done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
            for future in waiting:
                future.cancel()
            errors = [error for future in done if (error := future.exception())]
            if errors:
                self._failed.set()  # the others end their processes, which keeps what they have
        if errors:
            raise errors[0]

    def run(self, module: str, job: Job, folder: Path, what: str) -> None:
        """Run `python -m module` on `job` in a process with its share of the processors.

        folder: its job file and log lie there. what: for messages.
        Raises Stopped when this process or that one was asked to stop, AlterError when that one failed.
        """
        run_job(
            module_command(module),
            job,
            folder,
            on_row=None,
            what=what,
            stop_asked=lambda: self._stop_asked() or self._failed.is_set(),
            threads=max(1, (os.cpu_count() or 1) // self.at_once),
        )
