import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alter_core.errors import TrainingError, WorkspaceError
from alter_core.training import trunk_cache
from alter_core.training.batches import collate
from alter_core.training.encoded import EncodedRows
from alter_core.training.trunk_cache import TrunkCache, trunk_digest
from tests.training.test_batches import encoded
from tests.training.test_forward import forward_and_batch


def quiet(*_args: Any, **_fields: Any) -> None:
    pass


def many_rows(count: int = 24) -> EncodedRows:
    rows = encoded([(2 + i % 5, 1 + i % 3) for i in range(count)], [i % 3 for i in range(count)])
    return type(rows)(rows.task_ids, *(type(r)(r.flat % 40 + 3, r.offsets) for r in (rows.prompts, rows.targets)))


def cache_at(
    root: Path, rows: EncodedRows | None = None, architecture: str = "llama", dtype: torch.dtype = torch.float32
) -> TrunkCache:
    forward, _ = forward_and_batch(architecture)
    forward.model.to(dtype)
    return TrunkCache(root, forward, rows or many_rows(), 0, trunk_digest(forward))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "t5", "bart"])
def test_states_are_those_of_the_trunk(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    rows = many_rows()
    rows.prompts.flat[rows.prompts.offsets[:-1]] = 7  # so that they share the first state
    cache = cache_at(tmp_path, rows, architecture, dtype)
    cache.fill(np.arange(24), quiet)
    batch = collate(cache.rows, np.array([3, 17, 8]), 0, cache.forward.decoder_start)
    states = cache.states(batch)
    real = batch.mask[..., None]
    rounding = {"rtol": 0.02, "atol": 0.01} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(states, torch.where(real, cache.forward.states(batch), 0.0), **rounding)


def test_only_rows_that_are_wanted_are_computed_and_never_twice(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    assert cache.fill(np.array([4, 1, 4]), quiet) == cache.lengths[[1, 4]].sum()
    again = cache_at(tmp_path)
    assert again.missing(np.arange(6)).tolist() == [0, 2, 3, 5]
    assert again.fill(np.array([1, 4, 5]), quiet) == cache.lengths[5]


def test_a_build_that_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunk_cache, "TOKENS_PER_BATCH", 16)

    class Halt(Exception):
        pass

    calls: list[None] = []

    def stop() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise Halt

    cache = cache_at(tmp_path)
    with pytest.raises(Halt):
        cache.fill(np.arange(24), quiet, stop)
    left = len(cache.missing(np.arange(24)))
    assert 0 < left < 24
    told: list[tuple[float, float]] = []
    cache_at(tmp_path).fill(np.arange(24), lambda done, total, **_: told.append((done, total)))
    assert told[-1] == (left, left)


def test_other_tokens_weights_or_formats_have_another_key(tmp_path: Path) -> None:
    forward, _ = forward_and_batch("llama")
    digest = trunk_digest(forward)
    keys = {
        cache_at(tmp_path).key,
        cache_at(tmp_path, many_rows(23)).key,
        cache_at(tmp_path, architecture="qwen2").key,
    }
    with torch.no_grad():
        next(forward.blocks[1].parameters()).add_(1.0)
    assert trunk_digest(forward) == digest  # above the trunk
    with torch.no_grad():
        next(forward.blocks[0].parameters()).add_(1.0)
    assert trunk_digest(forward) != digest
    forward.model.to(torch.bfloat16)
    keys.add(TrunkCache(tmp_path, forward, many_rows(), 0, digest).key)
    assert len(keys) == 4


def test_the_folder_that_a_backbone_was_read_from_is_in_no_key() -> None:
    forward, _ = forward_and_batch("llama")
    digests = set()
    for folder in ("one/backbone", "another/backbone"):
        forward.model.config._name_or_path = folder
        digests.add(trunk_digest(forward))
    assert len(digests) == 1


def test_a_short_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9 - 1000, 1000))
    cache = cache_at(tmp_path)
    with pytest.raises(WorkspaceError, match=r"cache of 24 rows \(trunk_cache: false does without\) needs .* MB free"):
        cache.fill(np.arange(24), quiet)
    assert not (cache.folder / "states").exists()
    assert cache.bytes == cache.lengths.sum() * 16 * 4


def test_the_disk_needs_room_for_the_rows_that_are_wanted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_at(tmp_path)
    free = int(cache.lengths[:3].sum()) * 16 * 4
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9 - free, free))
    cache.fill(np.arange(3), quiet)
    with pytest.raises(WorkspaceError, match="cache of 21 rows"):
        cache.fill(np.arange(24), quiet)


def test_a_row_that_is_not_filled_is_never_read_as_zeros(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.fill(np.arange(3), quiet)
    with pytest.raises(TrainingError, match="lacks rows of this step"):
        cache.states(collate(cache.rows, np.arange(4), 0))


def test_a_configuration_that_computes_otherwise_has_another_trunk() -> None:
    forward, _ = forward_and_batch("llama")
    before = trunk_digest(forward)
    forward.model.config.rms_norm_eps = 0.1
    assert trunk_digest(forward) != before
