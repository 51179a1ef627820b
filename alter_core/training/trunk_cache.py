"""The frozen trunk's hidden states of every row, computed once and kept on disk, memory-mapped.

    <trunk cache>/<key>/cache.json   what it holds, for people
                        states       token states end to end, (token, hidden), bf16 or fp32
                        filled       a byte per row: 1 once the row's states are on disk

The key is the content: trunk weights, token ids, block number, dtype. So stages, seeds and arms of an ablation that
share them share the cache; their last bits depend on which rows ran together, so on who filled it first. Rows are
filled when a training first needs them; a row counts as filled only after its states are flushed, so a killed build is
continued, with the same batches, and no half-written state is ever read.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from alter_core.errors import TrainingError
from alter_core.mta.fingerprint import tensor_digest
from alter_core.training.batches import Batch, collate
from alter_core.training.encoded import EncodedRows
from alter_core.training.forward import TargetForward
from alter_core.training.lines import Rows
from alter_core.training.replicas import map_rows
from alter_core.training.sampling import spread
from alter_core.whole import digest_of, write_json
from alter_core.workspace import Workspace

TOKENS_PER_BATCH = 2560
"""Of the trunk's forward: small enough that activations stay near the processor, large enough for wide matmuls."""
_FLUSH_SECONDS = 10.0

Progress = Callable[..., None]


class TrunkCache:
    """Hidden states at block `forward.first` for `rows`. Opens or makes the folder; `fill` before `states`."""

    def __init__(self, root: Path, forward: TargetForward, rows: EncodedRows, pad: int, trunk: str) -> None:
        """trunk: `trunk_digest` of the model."""
        self.forward = forward
        self.rows = rows
        self.pad = pad
        parameter = next(forward.blocks.parameters())
        self.dtype = parameter.dtype
        self.hidden = int(getattr(forward.model.config, "hidden_size", 0) or forward.model.config.d_model)
        lengths = rows.prompts.lengths + (0 if forward.is_encoder_decoder else rows.targets.lengths - 1)
        self.lengths = lengths
        self._offsets = np.concatenate(([0], np.cumsum(lengths)))
        self.key = digest_of("trunk", 1, trunk, rows.digest, forward.first, str(self.dtype))
        self.folder = root / self.key
        self._states: np.ndarray[Any, Any] | None = None
        self._filled: np.ndarray[Any, Any] | None = None

    @property
    def bytes(self) -> int:
        """Size on disk when every row is filled."""
        return int(self._offsets[-1]) * self.hidden * self.dtype.itemsize

    def missing(self, wanted: Rows) -> Rows:
        """Those of `wanted` that are not filled, each once."""
        wanted = np.unique(wanted)
        path = self.folder / "filled"
        if not path.exists():
            return wanted
        filled = np.fromfile(path, dtype=np.uint8)
        missing: Rows = wanted[filled[wanted] == 0]
        return missing

    def fill(self, wanted: Rows, progress: Progress, stop: Callable[[], None] = lambda: None) -> int:
        """Compute the states of those of `wanted` that are missing; return how many tokens were run for them.

        progress: called as progress(rows done, rows in all, tokens_per_second=..., seconds_left=...). stop: called
        between batches; may raise to end early, which loses nothing.
        Raises WorkspaceError when the disk is too short for them, OSError when it is full before they are written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            todo = self.missing(wanted)
            if not len(todo):
                return 0
            tokens = int(self.lengths[todo].sum())
            size = tokens * self.hidden * self.dtype.itemsize
            Workspace(self.folder.parent).need(
                size, f"the trunk cache of {len(todo):,} rows (trunk_cache: false does without)"
            )
            if not (self.folder / "filled").exists():
                self._make()
            begin = last = time.monotonic()
            done: list[Rows] = []
            rows_done = tokens_done = tokens_run = 0
            packed = self.forward.can_pack(self.rows.longest)
            device = next(self.forward.blocks.parameters()).device

            def run(forward: TargetForward, batch_rows: Rows) -> tuple[Batch, Tensor]:
                batch = collate(self.rows, batch_rows, self.pad, forward.decoder_start, packed)
                return batch, forward.states(batch.to(device)).to(self.dtype).cpu()

            batches = spread(todo, self.lengths, self.rows.task_ids, packed, TOKENS_PER_BATCH)
            for batch_rows, (batch, hidden) in zip(batches, map_rows(self.forward, run, batches), strict=True):
                states = hidden.view(torch.int16 if self.dtype.itemsize == 2 else torch.int32).numpy()
                self._write(batch, states)
                done.append(batch_rows)
                rows_done += len(batch_rows)
                tokens_done += int(self.lengths[batch_rows].sum())
                tokens_run += int(batch.lengths.sum())
                now = time.monotonic()
                if now - last > _FLUSH_SECONDS or rows_done == len(todo):
                    last = now
                    self._settle(done)
                rate = tokens_done / (now - begin)
                progress(
                    rows_done,
                    len(todo),
                    tokens_per_second=rate,
                    seconds_left=(tokens - tokens_done) / rate,
                    text=f"trunk cache {size / 1e6:,.0f} MB",
                )
                try:
                    stop()
                except BaseException:
                    self._settle(done)
                    raise
        return tokens_run

    def states(self, batch: Batch) -> Float[Tensor, "line seq hidden"]:
        """States of a batch of filled rows, zeros where nothing lies. Raises TrainingError for one that is not."""
        if self._states is None or self._filled is None:
            self._states, self._filled = self._open("r")
        if not self._filled[batch.rows].all():
            raise TrainingError(
                f"the trunk cache {self.folder} lacks rows of this step: this is a defect, please report it"
            )
        out = torch.zeros(*batch.inputs.shape, self.hidden, dtype=self.dtype)
        view = out.view(torch.int16 if self.dtype.itemsize == 2 else torch.int32).numpy()
        for row, line, own, shared in zip(batch.rows, batch.lines, batch.offsets, batch.shared, strict=True):
            at, size = self._offsets[row], self.lengths[row]
            view[line, own : own + size - shared] = self._states[at + shared : at + size]
            if own == shared:  # the first of its line
                view[line, :shared] = self._states[at : at + shared]
        return out

    def _make(self) -> None:
        write_json(
            self.folder / "cache.json",
            {"rows": len(self.rows), "tokens": int(self._offsets[-1]), "hidden": self.hidden, "dtype": str(self.dtype)},
        )
        with (self.folder / "states").open("wb") as file:
            file.truncate(self.bytes)  # sparse: the disk fills as rows do
        scratch = self.folder / ".filled"
        scratch.write_bytes(bytes(len(self.rows)))
        scratch.replace(self.folder / "filled")

    def _write(self, batch: Batch, states: np.ndarray[Any, Any]) -> None:
        """Not through a memory map: on a disk that is full, that ends the process without a word (SIGBUS)."""
        width = self.hidden * self.dtype.itemsize
        with (self.folder / "states").open("r+b") as file:
            for row, line, own, shared in zip(batch.rows, batch.lines, batch.offsets, batch.shared, strict=True):
                file.seek(int(self._offsets[row]) * width)
                file.write(np.ascontiguousarray(states[line, :shared]).data)
                file.write(np.ascontiguousarray(states[line, own : own + self.lengths[row] - shared]).data)

    def _open(self, mode: Any) -> tuple[Any, Any]:
        kind = np.int16 if self.dtype.itemsize == 2 else np.int32
        shape = (int(self._offsets[-1]), self.hidden)
        states = np.memmap(self.folder / "states", dtype=kind, mode=mode, shape=shape)
        return states, np.memmap(self.folder / "filled", dtype=np.uint8, mode=mode, shape=(len(self.rows),))

    def _settle(self, done: list[Rows]) -> None:
        """First the states reach the disk, then the marks that say so."""
        with (self.folder / "states").open("rb") as file:
            os.fsync(file.fileno())
        _, filled = self._open("r+")
        for rows in done:
            filled[rows] = 1
        filled.flush()
        done.clear()


def trunk_digest(forward: TargetForward) -> str:
    """Of all weights that the trunk's states depend on, and of the model's configuration; not of where they lie."""
    model = forward.model
    stack = model.get_encoder() if forward.is_encoder_decoder else model.base_model
    above = {id(tensor) for block in list(forward.blocks)[forward.first :] for tensor in block.parameters()}
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    whole = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(stack.named_parameters()):
        if id(tensor) not in above:
            whole.update(f"{name} {tensor_digest(tensor)}\n".encode())
    return whole.hexdigest()
