from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from alter_core.mta import inject
from alter_core.training.batches import Batch, collate
from alter_core.training.encoded import EncodedRows
from alter_core.training.forward import TargetForward, _only_at
from tests.mta.conftest import MODELS, TASKS, plain_config, stir, tiny
from tests.training.test_batches import encoded

LENGTHS = [(4, 2), (2, 3), (5, 1), (1, 2)]


def forward_and_batch(architecture: str, **config: Any) -> tuple[TargetForward, Batch]:
    settings = {"layers": "last_1", "adapter": "ffn", "shared_adapters": 1, **config}
    mta = inject(tiny(architecture), plain_config(**settings), TASKS)
    stir(mta)
    forward = TargetForward(mta)
    return forward, collate(some_rows(), np.arange(len(LENGTHS)), 0, forward.decoder_start)


def some_rows() -> EncodedRows:
    rows = encoded(LENGTHS, [2, 0, 1, 0])
    return type(rows)(rows.task_ids, *(type(r)(r.flat % 40 + 3, r.offsets) for r in (rows.prompts, rows.targets)))


def logits_by_the_whole_model(forward: TargetForward, batch: Batch) -> torch.Tensor:
    """The model's own forward with an attention mask, all logits, then those at the targets."""
    inputs: dict[str, Any] = {"input_ids": batch.inputs, "attention_mask": batch.mask.long()}
    if batch.answer_inputs is not None:
        inputs["decoder_input_ids"] = batch.answer_inputs
    with forward.mta.routing(batch.task_ids):
        whole: torch.Tensor = forward.model(**inputs, use_cache=False).logits
    return whole[batch.at[:, 0], batch.at[:, 1]]


def gradients(forward: TargetForward, logits: torch.Tensor) -> list[torch.Tensor]:
    trained = [p for _, p in forward.mta.set_trainable({"task_adapters", "gates"})]
    return list(torch.autograd.grad(logits.square().sum(), trained, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("architecture", MODELS)
def test_logits_at_targets_are_those_of_the_whole_forward(architecture: str) -> None:
    forward, batch = forward_and_batch(architecture)
    torch.testing.assert_close(forward.logits(batch), logits_by_the_whole_model(forward, batch))


@pytest.mark.parametrize("architecture", MODELS)
def test_a_skipped_trunk_changes_neither_logits_nor_gradients(architecture: str) -> None:
    forward, batch = forward_and_batch(architecture)
    assert forward.first == 1
    forward.mta.set_gate_mode("soft")
    forward.mta.set_trainable({"task_adapters", "gates"})
    cached = forward.logits(batch, forward.states(batch))
    whole = logits_by_the_whole_model(forward, batch)
    torch.testing.assert_close(cached, whole)
    for one, two in zip(gradients(forward, cached), gradients(forward, whole), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", MODELS)
def test_nothing_computed_outlives_its_step(
    architecture: str, tensors_left: Callable[[Callable[[], object]], int]
) -> None:
    """A circle of references would keep it until some garbage collection: gigabytes, in a large model."""
    forward, batch = forward_and_batch(architecture)
    forward.mta.set_trainable({"task_adapters", "gates"})

    def step() -> None:
        gradients(forward, forward.logits(batch, forward.states(batch)))

    step()  # some things are made once
    assert tensors_left(step) == 0


@pytest.mark.parametrize("architecture", ["t5", "mt5", "umt5", "bart"])
def test_an_encoder_without_mta_layers_is_all_trunk(architecture: str) -> None:
    forward, batch = forward_and_batch(architecture, encoder_layers="none")
    assert forward.first == 2
    torch.testing.assert_close(forward.logits(batch, forward.states(batch)), logits_by_the_whole_model(forward, batch))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    forward, batch = forward_and_batch("llama")
    forward.mta.set_trainable({"task_adapters", "gates"})
    plain = gradients(forward, forward.logits(batch))
    forward.model.train()
    forward.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    for one, two in zip(plain, gradients(forward, forward.logits(batch)), strict=True):
        torch.testing.assert_close(one, two)


def test_the_model_is_left_as_it_was() -> None:
    forward, batch = forward_and_batch("llama")
    names = [name for name, _ in forward.model.named_modules()]
    before = logits_by_the_whole_model(forward, batch)
    forward.logits(batch, forward.states(batch))
    assert [name for name, _ in forward.model.named_modules()] == names
    torch.testing.assert_close(logits_by_the_whole_model(forward, batch), before, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", MODELS)
def test_rows_that_share_lines_give_the_logits_and_gradients_of_rows_apart(architecture: str) -> None:
    forward, apart = forward_and_batch(architecture)
    assert forward.can_pack(longest=9) != forward.is_encoder_decoder
    if forward.is_encoder_decoder:
        return
    rows = some_rows()
    rows.prompts.flat[rows.prompts.offsets[3]] = rows.prompts.flat[rows.prompts.offsets[1]]  # as instructions do
    packed = collate(rows, np.arange(len(LENGTHS)), 0, packed=True)
    assert packed.inputs.shape[0] < len(LENGTHS)
    forward.mta.set_gate_mode("soft")
    forward.mta.set_trainable({"task_adapters", "gates"})
    one, two = forward.logits(apart), forward.logits(packed)
    order = [int(np.flatnonzero(packed.rows == row)[0]) for row in apart.rows]
    pieces = two.split([LENGTHS[row][1] for row in packed.rows])
    torch.testing.assert_close(torch.cat([pieces[i] for i in order]), one, rtol=1e-4, atol=1e-5)
    for first, second in zip(gradients(forward, one), gradients(forward, two), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_a_model_that_does_not_keep_rows_apart_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, _ = forward_and_batch("llama")
    assert forward.can_pack(longest=9)
    whole = forward.model.forward

    def careless(input_ids: torch.Tensor, **rest: Any) -> Any:
        # A mask that is given switches transformers' own keeping apart off; the positions still count.
        return whole(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **rest)

    monkeypatch.setattr(forward.model, "forward", careless)
    assert not forward.can_pack(longest=9)


@pytest.mark.parametrize("architecture", MODELS)
@torch.no_grad()
def test_what_a_step_reads_of_its_batch_it_reads_before_the_batch_leaves_the_cpu(
    architecture: str, no_autocast: None
) -> None:
    """A tensor on the device `meta` has no contents: to read one would be to wait for the device."""
    forward, batch = forward_and_batch(architecture)
    for layer in forward.mta.layers:
        layer.to("meta")  # type: ignore[attr-defined]
    moved = batch.to(torch.device("meta"))
    assert moved.task_ids.device.type == "cpu"
    assert moved.at.device.type == "meta"
    read = batch.inputs if batch.answer_inputs is None else batch.answer_inputs
    hidden = torch.zeros(*read.shape, forward.model.get_input_embeddings().weight.shape[1], device="meta")
    with _only_at(forward.mta.layers[-1], moved), forward.mta.routing(moved.task_ids):
        out = forward.mta.layers[-1](hidden)  # type: ignore[operator]
    assert out.shape == hidden.shape
