"""Answers that were written before: what a model answers to a row does not depend on the run that asks.

    <folder>/<key>.json    {digest of an input: [text, score, truncated, behind]}

The key is all that a task's answers depend on beside the code, which the folder stands for: weights, tokenizer,
precision, prompt and labels. So the backbone's answers, a champion's, and those of a stage that another left as it was
for a task, are computed once. A label's score is at the temperature of whoever asked first; `behind` gives it at any.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from alter_core.inference.prediction import Prediction
from alter_core.whole import digest_of, write_text

MOST = 64
"""Files that stay, those that were used last; each holds one task's answers of one model."""


class KeptAnswers:
    """The answers in a folder, by the key of a task's model; without a folder, those of this process."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[str, dict[str, Prediction]] = {}
        self._new: set[str] = set()

    def missing(self, key: str, inputs: Sequence[str]) -> tuple[int, ...]:
        """Places of the inputs that are not answered."""
        held = self._of(key)
        return tuple(place for place, text in enumerate(inputs) if digest_of(text) not in held)

    def of(self, key: str, inputs: Sequence[str]) -> list[Prediction]:
        """The answers to inputs of which none is missing."""
        held = self._of(key)
        return [held[digest_of(text)] for text in inputs]

    def add(self, key: str, answers: Mapping[str, Prediction]) -> None:
        """Keep the answers to inputs."""
        self._of(key).update({digest_of(text): answer for text, answer in answers.items()})
        self._new.add(key)

    def write(self) -> None:
        """Bring what is new to disk."""
        if self._folder is None:
            return
        for key in self._new:
            rows = {row: (a.text, a.score, a.truncated, a.behind) for row, a in self._held[key].items()}
            write_text(self._folder / f"{key}.json", json.dumps(rows))
        self._new.clear()
        files = sorted(self._folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for file in files[:-MOST]:
            file.unlink(missing_ok=True)

    def _of(self, key: str) -> dict[str, Prediction]:
        if key not in self._held:
            self._held[key] = {}
            if self._folder is not None:
                file = self._folder / f"{key}.json"
                with suppress(OSError, ValueError):  # none, or half of one
                    rows = json.loads(file.read_text(encoding="utf-8"))
                    self._held[key] = {
                        row: Prediction(text, score, truncated, behind=tuple(map(tuple, behind)))
                        for row, (text, score, truncated, behind) in rows.items()
                    }
                    os.utime(file)
        return self._held[key]
