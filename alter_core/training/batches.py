"""Rows as token ids, which of them each training step takes, and how they lie in a padded batch.

    EncodedRows -> SamplingPlan.rows(step) -> share of a process -> parts -> Batch

All of it is a pure function of the rows, the seed and the step: nothing here needs to be saved to resume.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alter_core.errors import DataError
from alter_core.prompts import PROMPT_FORMAT, encode_prompts, encode_targets
from alter_core.spec import DomainSpec
from alter_core.training.lines import Rows, share_lines, width_of
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


@dataclass(frozen=True)
class SamplingPlan:
    """Which rows each step takes: tasks by p proportional to rows^(1/temperature), each task's rows in passes.

    A task's share is met exactly over time, not on average, and it sees all of its rows once before any twice; at
    temperature 1 an epoch is therefore every row once.
    """

    draws: np.ndarray[Any, np.dtype[np.int64]]
    """(step, row of the step): places in EncodedRows."""

    @classmethod
    def make(cls, task_ids: Rows, steps: int, rows_per_step: int, temperature: float, seed: int) -> "SamplingPlan":
        """Plan `steps` steps. The same arguments always give the same plan; a longer plan starts as a shorter one."""
        tasks, counts = np.unique(task_ids, return_counts=True)
        share = counts ** (1 / temperature)
        share = share / share.sum()
        streams = [_Stream(np.flatnonzero(task_ids == task), seed, int(task)) for task in tasks]
        draws = np.empty((steps, rows_per_step), dtype=np.int64)
        taken = np.zeros(len(tasks), dtype=np.int64)
        for step in range(steps):
            owed = share * rows_per_step * (step + 1) - taken
            now = np.maximum(np.floor(owed), 0).astype(np.int64)
            for task in np.argsort(-(owed - now), kind="stable"):  # what is left goes where most is owed
                if now.sum() >= rows_per_step:
                    break
                now[task] += 1
            for task in np.argsort(owed - now, kind="stable"):
                surplus = int(now.sum()) - rows_per_step
                if surplus <= 0:
                    break
                now[task] -= min(surplus, now[task])
            draws[step] = np.concatenate([s.next(int(n)) for s, n in zip(streams, now, strict=True)])
            taken += now
        return cls(draws)

    def __len__(self) -> int:
        return len(self.draws)

    def rows(self, step: int) -> Rows:
        """Places of the rows of `step`, over all processes."""
        row: Rows = self.draws[step]
        return row


class _Stream:
    """A task's rows, pass after pass, each pass in an order of its own."""

    def __init__(self, rows: Rows, seed: int, task: int) -> None:
        self._rows = rows
        self._seed = (seed, task)
        self._pass = 0
        self._left: Rows = rows[:0]

    def next(self, count: int) -> Rows:
        parts = []
        while count > 0:
            if not len(self._left):
                self._left = np.random.default_rng((*self._seed, self._pass)).permutation(self._rows)
                self._pass += 1
            parts.append(self._left[:count])
            self._left = self._left[count:]
            count -= len(parts[-1])
        return np.concatenate(parts) if parts else self._rows[:0]


def divide(rows: Rows, lengths: Rows, process: int, processes: int, parts: int) -> list[Rows]:
    """The rows of a step that one process takes, in `parts` parts of like lengths, so that little is padded.

    Together, the processes' parts are the step's rows, each once, whatever the number of processes and parts.
    """
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    own = ordered[process::processes]
    return [part for part in np.array_split(own, parts) if len(part)]


def divide_by_task(
    rows: Rows, lengths: Rows, task_ids: Rows, process: int, processes: int, parts: int, most: int
) -> list[Rows]:
    """The rows of a step that one process takes, in parts of whole tasks, so that rows that share lines fill them.

    With all tasks in one part, the last line of each is as long as the longest row of any. Tasks of fewer than
    TOKENS_PER_TASK tokens share a part with the next longer ones. parts: at the least. most: tokens of a part.
    """
    tasks, at = np.unique(task_ids[rows], return_inverse=True)
    longest = np.zeros(len(tasks), dtype=np.int64)
    np.maximum.at(longest, at, lengths[rows])
    ordered = np.lexsort((lengths[rows], at, longest[at]))
    own, owners = rows[ordered][process::processes], at[ordered][process::processes]
    groups: list[list[Rows]] = [[]]
    for task in dict.fromkeys(owners.tolist()):
        if sum(int(lengths[held].sum()) for held in groups[-1]) >= TOKENS_PER_TASK:
            groups.append([])
        groups[-1].append(own[owners == task])
    whole = [np.concatenate(group) for group in groups if group]
    each = -(-parts // max(len(whole), 1))
    counts = [max(each, -(-int(lengths[group].sum()) // most)) for group in whole]
    return [
        part for group, count in zip(whole, counts, strict=True) for part in np.array_split(group, count) if len(part)
    ]


def spread(rows: Rows, lengths: Rows, task_ids: Rows, packed: bool, tokens: int) -> list[Rows]:
    """`rows` in parts of up to so many tokens, padding counted: of like lengths, or by task where they share lines."""
    by_length = np.argsort(-lengths[rows], kind="stable")
    ordered = rows[by_length[np.argsort(task_ids[rows][by_length], kind="stable")] if packed else by_length]
    total = np.cumsum(lengths[ordered])
    parts = []
    at = 0
    while at < len(ordered):
        end = at + tokens // int(lengths[ordered[at]])
        if packed:
            end = int(np.searchsorted(total, (total[at - 1] if at else 0) + tokens, side="right"))
        parts.append(ordered[at : max(end, at + 1)])
        at += len(parts[-1])
    return parts


@dataclass(frozen=True)
class Batch:
    """Rows laid out for a model, padded on the right: one row a line, or several of one task (`share_lines`).

    With a causal model `inputs` is prompt and answer without its end.
    """

    rows: Rows
    """Places in EncodedRows, line by line."""
    lines: Rows
    """The line that each of `rows` lies on."""
    offsets: Rows
    """Where on its line each of `rows` begins, after what it shares."""
    shared: Rows
    """Tokens of each of `rows` that lie at the start of its line, for all of them there."""
    task_ids: Int[Tensor, " line"]
    """On the CPU, wherever the rest is: `routing` reads them."""
    inputs: Int[Tensor, "line seq"]
    lengths: Int[Tensor, " line"]
    """Tokens of each line of `inputs`; what follows is padding."""
    positions: Int[Tensor, "line seq"] | None
    """Place of each token in its own row, where rows share lines."""
    owners: Int[Tensor, "line seq"] | None
    """Whose each token is there: a number for each row of a line, 0 for what all share, -1 for padding."""
    answer_inputs: Int[Tensor, "line answer"] | None
    """What the decoder of an encoder-decoder reads: its start token and the answer without its end."""
    at: Int[Tensor, "target 2"]
    """(line, place) in `inputs`, or in `answer_inputs`, of each token that predicts a target token; row by row."""
    number: Int[Tensor, " target"]
    """Place of each of `at` among those of its line."""
    most: int
    """Of `at` on one line."""
    targets: Int[Tensor, " target"]
    weights: Float[Tensor, " target"]
    """1 / answer tokens of the row, so that the weighted sum of losses is a mean per row, summed."""

    @property
    def mask(self) -> Bool[Tensor, "line seq"]:
        """True where `inputs` is no padding."""
        return torch.arange(self.inputs.shape[1], device=self.inputs.device) < self.lengths[:, None]

    def attention(self, dtype: torch.dtype) -> Float[Tensor, "line 1 seq seq"] | None:
        """What is added to attention's scores where rows share lines: each token sees its own row up to itself."""
        if self.owners is None:
            return None
        reader, read = self.owners[:, :, None], self.owners[:, None, :]
        seen = ((read == reader) | (read == 0)).tril()
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[
            :, None
        ]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`, but for the task ids."""
        moved: dict[str, Any] = {
            name: part.to(device, non_blocking=True)  # no wait for what the device does
            for name, part in vars(self).items()
            if isinstance(part, Tensor)
        }
        return replace(self, **moved | {"task_ids": self.task_ids})


TOKENS_PER_TASK = 192
"""With fewer, a part's own cost (weights brought to the computing precision, gradients summed) is what it takes."""


def collate(
    encoded: EncodedRows, rows: Rows, pad: int, decoder_start: int | None = None, packed: bool = False
) -> Batch:
    """Lay out `rows`. decoder_start: the decoder's first token for an encoder-decoder, None for a causal model.

    packed: rows of one task share lines where they fit on one, which saves most of the padding and what they begin
    with alike; for causal models that take an attention mask of our own (TargetForward.can_pack).
    """
    if decoder_start is not None:
        return _collate_pairs(encoded, rows, pad, decoder_start)
    lengths = encoded.prompts.lengths[rows] + encoded.targets.lengths[rows] - 1
    lines, offsets = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
    shared = offsets
    if packed:
        prompts = [encoded.prompts[int(row)] for row in rows]
        lines, offsets, shared = share_lines(encoded.task_ids[rows], prompts, lengths)
        order = np.lexsort((offsets, lines))
        rows, lengths, lines, offsets, shared = (each[order] for each in (rows, lengths, lines, offsets, shared))
    starts = np.flatnonzero(offsets == shared)
    texts = [np.concatenate((encoded.prompts[int(r)], encoded.targets[int(r)][:-1])) for r in rows]
    positions = owners = None
    if packed:
        positions = _padded(_joined([np.arange(n) for n in lengths], starts, shared), 0)
        numbers = np.arange(1, len(rows) + 1)
        marks = [np.repeat(np.array((0, i)), (p, n - p)) for i, p, n in zip(numbers, shared, lengths, strict=True)]
        owners = _padded(_joined(marks, starts, shared), -1)
    joined = _joined(texts, starts, shared)
    return Batch(
        rows=rows,
        lines=lines,
        offsets=offsets,
        shared=shared,
        task_ids=torch.from_numpy(encoded.task_ids[rows[starts]]),
        inputs=_padded(joined, pad),
        lengths=torch.tensor([len(line) for line in joined]),
        positions=positions,
        owners=owners,
        answer_inputs=None,
        **_answers(encoded, rows, lines, offsets - shared + encoded.prompts.lengths[rows] - 1),
    )


def _collate_pairs(encoded: EncodedRows, rows: Rows, pad: int, decoder_start: int) -> Batch:
    start = np.array([decoder_start], dtype=np.int32)
    inputs = [encoded.prompts[int(r)] for r in rows]
    lines, first = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
    return Batch(
        rows=rows,
        lines=lines,
        offsets=first,
        shared=first,
        task_ids=torch.from_numpy(encoded.task_ids[rows]),
        inputs=_padded(inputs, pad),
        lengths=torch.tensor([len(i) for i in inputs]),
        positions=None,
        owners=None,
        answer_inputs=_padded([np.concatenate((start, encoded.targets[int(r)][:-1])) for r in rows], pad),
        **_answers(encoded, rows, lines, first),
    )


def _answers(encoded: EncodedRows, rows: Rows, lines: Rows, first: Rows) -> dict[str, Any]:
    """Where the rows' answers are predicted: row i's on line lines[i], from the place first[i] on."""
    answers = [encoded.targets[int(r)] for r in rows]
    sizes = np.array([len(a) for a in answers])
    place = np.concatenate([np.arange(f, f + n) for f, n in zip(first, sizes, strict=True)])
    line = np.repeat(lines, sizes)
    counts = np.bincount(line)
    return {
        "at": torch.from_numpy(np.stack((line, place), axis=1)),
        "number": torch.from_numpy(np.arange(len(line)) - (counts.cumsum() - counts)[line]),
        "most": int(counts.max()),
        "targets": torch.from_numpy(np.concatenate(answers).astype(np.int64)),
        "weights": torch.from_numpy(np.repeat((1 / sizes).astype(np.float32), sizes)),
    }


def _joined(parts: Sequence[np.ndarray[Any, Any]], starts: Rows, shared: Rows) -> list[np.ndarray[Any, Any]]:
    """Lines that begin at the places `starts`: the first row's part whole, others' without what they share."""
    cut = shared.copy()
    cut[starts] = 0
    own = [part[n:] for part, n in zip(parts, cut, strict=True)]
    return [np.concatenate(own[a:b]) for a, b in zip(starts, [*starts[1:], len(own)], strict=True)]


def _padded(sequences: Sequence[np.ndarray[Any, Any]], pad: int) -> Tensor:
    width = width_of(max(len(s) for s in sequences))
    out = np.full((len(sequences), width), pad, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        out[row, : len(sequence)] = sequence
    return torch.from_numpy(out)
