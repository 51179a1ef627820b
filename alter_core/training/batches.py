"""Batch: rows as they lie before a model, padded, one or several on a line."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alter_core.training.encoded import EncodedRows
from alter_core.training.lines import Rows, share_lines, width_of


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
