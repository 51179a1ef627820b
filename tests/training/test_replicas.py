"""A step by replicas is the step of one model: the same gradients, and the same bits however they run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from alter_core.errors import Stopped
from alter_core.mta.layer import MTALayer
from alter_core.training.batches import collate
from alter_core.training.encoded import EncodedRows
from alter_core.training.forward import TargetForward
from alter_core.training.lines import Rows
from alter_core.training.replicas import Replicas, map_rows, share_out
from alter_core.training.row_losses import losses_of
from alter_core.training.run import run
from tests.training.conftest import Domain
from tests.training.test_forward import forward_and_batch
from tests.training.test_trunk_cache import many_rows

PARTS = [np.arange(0, 9), np.arange(9, 11), np.arange(11, 24)]


def trained_of(forward: TargetForward) -> list[nn.Parameter]:
    forward.mta.set_gate_mode("soft")  # type: ignore[attr-defined]
    return [p for _, p in forward.mta.set_trainable({"task_adapters", "shared_adapters", "gates"})]  # type: ignore[attr-defined]


def loss_with(rows: EncodedRows) -> Callable[[TargetForward, Rows], Tensor]:
    def loss_of(forward: TargetForward, part: Rows) -> Tensor:
        return forward.logits(collate(rows, part, 0, forward.decoder_start)).square().sum()

    return loss_of


def gradients_by(count: int, forward: TargetForward, rows: EncodedRows, in_turn: bool = False) -> list[Tensor]:
    """Loss and gradients."""
    trained = trained_of(forward)
    for parameter in trained:
        parameter.grad = None
    replicas = Replicas(forward, count)
    lengths = rows.prompts.lengths + rows.targets.lengths
    loss = replicas.gradients(loss_with(rows), PARTS, lengths, trained, in_turn)
    replicas.close()
    return [loss, *(torch.zeros_like(p) if p.grad is None else p.grad for p in trained)]


@given(st.data())
def test_every_row_has_one_replica_and_shares_are_even(data: st.DataObject) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=40)))
    cuts = data.draw(st.lists(st.integers(1, len(lengths)), max_size=5))
    parts = [part for part in np.split(np.random.default_rng(0).permutation(len(lengths)), sorted(cuts)) if len(part)]
    count = data.draw(st.integers(1, 4))
    shares = share_out(parts, lengths, count)
    assert len(shares) == count
    assert np.concatenate([part for share in shares for part in share]).tolist() == np.concatenate(parts).tolist()
    tokens = [sum(int(lengths[part].sum()) for part in share) for share in shares]
    assert max(tokens) - min(tokens) <= 2 * lengths.max()
    assert all(any(set(part) <= set(whole) for whole in parts) for share in shares for part in share)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "t5"])
def test_gradients_are_those_of_one_model(architecture: str, threads: Callable[[int], None]) -> None:
    forward, _ = forward_and_batch(architecture)
    threads(3)
    one, three, again, in_turn = (
        gradients_by(count, forward, many_rows(), in_turn)
        for count, in_turn in ((1, False), (3, False), (3, False), (3, True))
    )
    torch.testing.assert_close(three, one, rtol=1e-4, atol=1e-4)  # of gradients up to some hundreds
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(three, again, in_turn, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(three, one, strict=True))  # or replicas were not used


def test_replicas_follow_a_step_of_the_optimizer(threads: Callable[[int], None]) -> None:
    threads(2)
    forward, _ = forward_and_batch("llama")
    rows, trained = many_rows(), trained_of(forward)
    replicas, lengths = Replicas(forward, 2), rows.prompts.lengths + rows.targets.lengths
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    losses = []
    for _ in range(2):
        losses.append(replicas.gradients(loss_with(rows), PARTS, lengths, trained))
        optimizer.step()
        optimizer.zero_grad()
    replicas.close()
    assert losses[1] < losses[0]
    with torch.no_grad():
        assert loss_with(rows)(replicas.forwards[1], PARTS[0]) == loss_with(rows)(forward, PARTS[0])


def test_a_model_that_draws_random_numbers_has_no_replicas(threads: Callable[[int], None]) -> None:
    threads(2)
    forward, _ = forward_and_batch("gpt2")
    replicas, rows = Replicas(forward, 2), many_rows()
    assert replicas.differ(lambda one: loss_with(rows)(one, PARTS[0])) is None
    forward.model.train()
    for module in forward.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    state = torch.get_rng_state()
    assert "random numbers" in str(Replicas(forward, 2).differ(lambda one: loss_with(rows)(one, PARTS[0])))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_that_computes_otherwise_is_not_used(threads: Callable[[int], None]) -> None:
    threads(2)
    forward, _ = forward_and_batch("llama")
    own = forward.blocks[0]
    own.register_forward_hook(lambda block, _args, out: out if block is own else out * 2)  # knows one block by name
    replicas, rows = Replicas(forward, 2), many_rows()
    assert "another loss" in str(replicas.differ(lambda one: loss_with(rows)(one, PARTS[0])))


def test_a_replica_that_fails_fails_the_step(threads: Callable[[int], None]) -> None:
    threads(2)
    forward, _ = forward_and_batch("llama")

    def fail(replica: TargetForward, part: Rows) -> int:
        if replica is not forward:
            raise MemoryError("no more")
        return len(part)

    with pytest.raises(MemoryError, match="no more"):
        list(map_rows(forward, fail, PARTS))


def test_losses_by_row_do_not_depend_on_replicas(threads: Callable[[int], None], monkeypatch: Any) -> None:
    from alter_core.training import row_losses

    monkeypatch.setattr(row_losses, "TOKENS_PER_BATCH", 40)
    forward, _ = forward_and_batch("llama")
    found = []
    for count in (1, 2):
        threads(count)
        found.append(losses_of(forward, many_rows(), 0, None))
    np.testing.assert_array_equal(*found)


def test_a_look_at_losses_holds_an_ffn_for_the_tasks_of_one_part_alone(
    threads: Callable[[int], None], monkeypatch: Any
) -> None:
    from alter_core.training import row_losses

    threads(1)
    monkeypatch.setattr(row_losses, "TOKENS_PER_BATCH", 40)
    forward, _ = forward_and_batch("llama")
    rows, real, held = many_rows(), row_losses.token_losses, []

    def counted(replica: TargetForward, batch: Any, *more: Any) -> Tensor:
        losses = real(replica, batch, *more)
        layers = [module for module in replica.model.modules() if isinstance(module, MTALayer)]
        held.append((max(len(layer._memo.held[1]) for layer in layers), len(set(rows.task_ids[batch.rows]))))
        return losses

    monkeypatch.setattr(row_losses, "token_losses", counted)
    losses_of(forward, rows, 0, None)
    assert any(formed for formed, _ in held)
    assert all(formed <= tasks for formed, tasks in held)


@pytest.mark.parametrize("stage", [{}, {"drop_adapters": 0.5}], ids=["plain", "dropped"])
def test_a_training_by_replicas_that_is_stopped_ends_with_the_same_bits(
    stage: dict[str, Any], domain: Domain, train: Callable[..., Any], threads: Callable[[int], None], tmp_path: Path
) -> None:
    threads(2)
    expected, rows = train(domain.job(tmp_path / "smooth", steps=12, **stage))
    assert not [row for row in rows if "part after part" in row.get("text", "")]
    for at in (1, 7):
        job = domain.job(tmp_path / str(at), steps=12, **stage)
        asked = iter([False] * at)
        with pytest.raises(Stopped):
            run(job, lambda **_fields: None, lambda asked=asked: next(asked, True))  # type: ignore[misc]
        resumed, _ = train(job)
        assert resumed.trained_digest == expected.trained_digest
    threads(1)
    alone, _ = train(domain.job(tmp_path / "alone", steps=12, **stage))
    after = [sum(result.validation.losses["after"].values()) for result in (alone, expected)]
    assert after[0] == pytest.approx(after[1], rel=1e-3)
