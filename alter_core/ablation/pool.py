"""Work on several trials at once: threads that each wait for a process, so that no processor stands idle.

A training of a small model keeps one or two processors busy, and a GPU only in part.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from alter_core.errors import Stopped, TrainingError
from alter_core.training.job import EXIT_STOPPED
from alter_core.whole import write_json

Item = TypeVar("Item")
POLL_SECONDS = 0.2
TOLD_LINES = 5


class SideBySide:
    """Calls functions on items, `at_once` at a time; what one of them raises stops the others, and is raised."""

    def __init__(self, at_once: int, stop_asked: Callable[[], bool]) -> None:
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

    def run(self, module: str, job: Mapping[str, Any], folder: Path, what: str) -> None:
        """Run `python -m module` on `job` in a process with its share of the processors.

        folder: its job file and log lie there. what: for messages.
        Raises Stopped when this process or that one was asked to stop, TrainingError when that one failed.
        """
        file, log = folder / "job.json", folder / "log.txt"
        write_json(file, job)
        share = str(max(1, (os.cpu_count() or 1) // self.at_once))
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(file)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": share, **os.environ},
            )
            while process.poll() is None:
                if self._stop_asked() or self._failed.is_set():
                    process.terminate()
                    process.wait()
                    raise Stopped(f"{what} was asked to stop; it goes on from there")
                try:
                    process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        if process.returncode == EXIT_STOPPED:
            raise Stopped(f"{what} was asked to stop; it goes on from there")
        if process.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TOLD_LINES:]
            raise TrainingError(f"{what} ended with exit code {process.returncode}; its last words ({log}):", lines)
