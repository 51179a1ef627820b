"""EncodedRows: the rows of one split, of all tasks, as token ids."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alter_core.errors import DataError
from alter_core.prompts import PROMPT_FORMAT, encode_prompts, encode_targets
from alter_core.spec import DomainSpec
from alter_core.training.lines import Rows
from alter_core.whole import DIGEST_LENGTH

_ENCODED_AT_ONCE = 4096  # rows a call of the tokenizer, between two signs of progress

Progress = Callable[..., None]


@dataclass(frozen=True)
class Ragged:
    """Sequences of token ids of different lengths, end to end: sequence i is flat[offsets[i]:offsets[i + 1]]."""

    flat: np.ndarray[Any, np.dtype[np.int32]]
    offsets: Rows

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> "Ragged":
        listed = list(sequences)
        offsets = np.zeros(len(listed) + 1, dtype=np.int64)
        np.cumsum([len(s) for s in listed], out=offsets[1:])
        flat = np.fromiter((token for s in listed for token in s), dtype=np.int32, count=int(offsets[-1]))
        return cls(flat, offsets)

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The sequences of all parts, in order."""
        flat = np.concatenate([np.empty(0, dtype=np.int32), *(part.flat for part in parts)])
        lengths = np.concatenate([np.empty(0, dtype=np.int64), *(part.lengths for part in parts)])
        return cls(flat, np.concatenate(([0], np.cumsum(lengths))))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Rows:
        """Tokens of each sequence."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class EncodedRows:
    """Rows of one split, of all tasks, as token ids."""

    task_ids: Rows
    """Number of each row's task, in the order of the spec."""
    prompts: Ragged
    """Instruction, input and the words that ask for the answer."""
    targets: Ragged
    """The answer and its end token."""

    def __len__(self) -> int:
        return len(self.task_ids)

    @property
    def longest(self) -> int:
        """Tokens of the longest row, prompt and answer; 0 without rows."""
        return int((self.prompts.lengths + self.targets.lengths).max(initial=0))

    def longest_by_task(self, tasks: int, answers: bool) -> list[int]:
        """Tokens of the longest row of each of so many tasks, with its answer or without; 0 for one without rows."""
        longest = np.zeros(tasks, dtype=np.int64)
        lengths = self.prompts.lengths + self.targets.lengths if answers else self.prompts.lengths
        np.maximum.at(longest, self.task_ids, lengths)
        return longest.tolist()

    @property
    def digest(self) -> str:
        """Of every token: tokenizer, prompts, rows and their order."""
        parts = (self.task_ids, self.prompts.flat, self.prompts.offsets, self.targets.flat, self.targets.offsets)
        whole = hashlib.sha256()
        for part in parts:
            whole.update(f"{part.dtype} {len(part)}\0".encode())
            whole.update(np.ascontiguousarray(part).data)
        return whole.hexdigest()[:DIGEST_LENGTH]


def encode_rows(
    dataset: Any,
    split: str,
    spec: DomainSpec,
    tokenizer: Any,
    limit: int | None = None,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
    prompt_format: int = PROMPT_FORMAT,
    wanted: Callable[[str], bool] | None = None,
) -> EncodedRows:
    """Read a split of `dataset` (a TaskDataset): tasks in the spec's order, or just `only`; at most `limit` rows each.

    prompt_format: as the model has been taught so far; a new one takes the newest. wanted: tells, of a row's input,
    whether the row is to be there; unset: all are.
    Raises DataError for a row whose target is empty.
    """
    numbers: list[int] = []
    prompts: list[Ragged] = []
    targets: list[Ragged] = []
    tables = [dataset.rows(split, task.name) if only is None or task.name in only else [] for task in spec.tasks]
    counts = [min(len(table), limit or len(table)) for table in tables]
    for number, (task, table, count) in enumerate(zip(spec.tasks, tables, counts, strict=True)):
        for first in range(0, count, _ENCODED_AT_ONCE):
            rows = table[first : min(first + _ENCODED_AT_ONCE, count)]
            if wanted:
                chosen = [place for place, text in enumerate(rows["input"]) if wanted(text)]
                rows = {column: [values[place] for place in chosen] for column, values in rows.items()}
            empty = [i for i, text in zip(rows["id"], rows["target"], strict=True) if not text]
            if empty:
                raise DataError(
                    f"task {task.name}: {len(empty)} {split} rows have no target, the first with the id {empty[0]}; "
                    "ingest the domain again (`alter data`)"
                )
            prompts.append(Ragged.of(encode_prompts(tokenizer, task, rows["input"], None, prompt_format)[0]))
            targets.append(Ragged.of(encode_targets(tokenizer, task, rows["target"], prompt_format)))
            numbers += [number] * len(rows["input"])
            if progress:
                progress(len(numbers), sum(counts), text=f"reading {split} rows")
    return EncodedRows(np.array(numbers, dtype=np.int64), Ragged.joined(prompts), Ragged.joined(targets))


def is_left(share: float, text: str) -> bool:
    """Whether stage one leaves the row with this input to stage two, by its hash: equal inputs stay together."""
    number = int.from_bytes(hashlib.blake2b(f"stage two\0{text}".encode(), digest_size=8).digest(), "big")
    return number < share * 2**64
