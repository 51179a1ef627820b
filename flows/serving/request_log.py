"""RequestLog: what was asked and answered, as JSONL, bounded in size and age."""

import logging
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import orjson

from alter_core.errors import WorkspaceError
from alter_core.inference.prediction import Prediction
from flows.serving.served import Served

log = logging.getLogger(__name__)
PARTS = 8  # files that the bounds are divided by: the oldest goes as a whole
DAY = 86400.0
_STAMP = "%Y%m%dT%H%M%S%f"
_NAME = re.compile(r"requests-(\d{8}T\d{12})-\d+\.jsonl")


class RequestLog:
    """A folder of files `requests-BEGIN-PROCESS.jsonl`, readable by their owner alone; the oldest go first.

    Several processes may share it, with one bound on the size of all. Files of other names stay, and are not counted.
    A row holds time, domain, version, task, input, prediction, score, truncated and abstain.
    """

    def __init__(self, folder: Path, most_bytes: int, most_days: float) -> None:
        """Raises WorkspaceError where the folder cannot be written."""
        self._folder, self._most_bytes, self._most_seconds = folder, most_bytes, most_days * DAY
        self._file: IO[bytes] | None = None
        self._begun = 0.0
        self._failing = self._untidy = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._roll(time.time())
        except OSError as error:
            raise WorkspaceError(f"the request log cannot be written to {folder}: {error.strerror}") from error

    def write(self, served: Served, tasks: Sequence[str], inputs: Sequence[str], answers: Sequence[Prediction]) -> bool:
        """Add rows; False, told once in the process's own log, where they cannot be written: requests go on."""
        now = time.time()
        when = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        try:
            for task, text, answer in zip(tasks, inputs, answers, strict=True):
                row = {
                    "time": when,
                    "domain": served.domain,
                    "version": served.version,
                    "task": task,
                    "input": text,
                    **answer.to_json(),
                }
                self._part(now).write(orjson.dumps(row) + b"\n")
            self._part(now).flush()
        except OSError as error:
            if not self._failing:
                log.error("the request log cannot be written: %s", error)
            self._failing = True
            return False
        self._failing = False
        return True

    def tidy(self) -> None:
        """Remove what is too old, or more than may be kept; told once in the process's own log where that fails."""
        try:
            self._remove_oldest(time.time())
        except OSError as error:
            if not self._untidy:
                log.error("the request log's oldest files cannot be removed: %s", error)
            self._untidy = True
        else:
            self._untidy = False

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _remove_oldest(self, now: float) -> None:
        begun, sizes = dict[Path, float](), dict[Path, int]()
        for file in sorted(self._folder.iterdir()):
            if found := _NAME.fullmatch(file.name):
                with suppress(FileNotFoundError):  # another process has removed it
                    sizes[file] = file.stat().st_size
                    begun[file] = datetime.strptime(found[1], _STAMP).replace(tzinfo=UTC).timestamp()
        kept, most = sum(sizes.values()), self._most_bytes - self._most_bytes // PARTS  # one is still to be filled
        for file in sizes:
            if kept > most or begun[file] < now - self._most_seconds:
                if self._file is not None and Path(self._file.name) == file:
                    self._roll(now)
                file.unlink(missing_ok=True)
                kept -= sizes[file]

    def _part(self, now: float) -> IO[bytes]:
        """The file that is written now."""
        full = self._file is None or self._file.tell() > self._most_bytes // PARTS
        if full or now > self._begun + self._most_seconds / PARTS:
            self._roll(now)
            self.tidy()
        assert self._file is not None
        return self._file

    def _roll(self, now: float) -> None:
        self.close()
        name = f"requests-{datetime.fromtimestamp(now, UTC).strftime(_STAMP)}-{os.getpid()}.jsonl"
        self._file = open(self._folder / name, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))
        self._begun = now
