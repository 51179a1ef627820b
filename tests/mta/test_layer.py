"""The fast layer equals the naive loop, in value and gradient, for every kind and mixing."""

from typing import Any

import pytest
import torch

from alter_core.mta import inject
from alter_core.mta.mixing import GROUPED_TOKENS
from tests.mta.conftest import TASKS, batch_for, logits, plain_config, plain_logits, stir, tiny
from tests.mta.naive import naive_layer

ROWS = [2, 0, 2, 1, 0]
KINDS = [
    pytest.param({"adapter": "ffn"}, id="ffn"),
    pytest.param({"adapter": "lora", "alpha": 6.0}, id="lora"),
    pytest.param({"adapter": "ffn", "shared_adapters": 2}, id="ffn-shared"),
    pytest.param({"adapter": "lora", "shared_adapters": 1}, id="lora-shared"),
    pytest.param({"adapter": "lora", "shared_adapters": 1, "shared_adapter": "ffn"}, id="lora-beside-ffn"),
    pytest.param({"adapter": "ffn", "shared_adapters": 1, "shared_adapter": "lora"}, id="ffn-beside-lora"),
    pytest.param({"adapter": "ffn", "shared_adapters": 1, "shared_place": "beneath"}, id="ffn-on-ffn"),
    pytest.param(
        {"adapter": "lora", "shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beneath"}, id="lora-on-ffn"
    ),
    pytest.param({"adapter": "lora", "shared_adapters": 1, "shared_place": "beneath"}, id="lora-on-lora"),
    pytest.param(
        {"adapter": "ffn", "shared_adapters": 1, "shared_adapter": "lora", "shared_place": "beneath"}, id="ffn-on-lora"
    ),
]


def made(architecture: str, mixing: str, settings: dict[str, Any], **more: Any) -> Any:
    config = plain_config(layers="last_1", mixing=mixing, rank=3, **settings, **more)
    mta = inject(tiny(architecture), config, TASKS)
    stir(mta)
    return mta


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("mixing", ["weight", "output"])
@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_layer_equals_the_naive_loop_in_value_and_gradient(
    architecture: str, settings: dict[str, Any], mixing: str, mode: str
) -> None:
    mta = made(architecture, mixing, settings)
    mta.set_gate_mode(mode)
    layer = mta.layers[0]
    wanted_hidden = torch.randn(5, 4, 16, requires_grad=True)
    got_hidden = wanted_hidden.detach().clone().requires_grad_(True)
    direction = torch.randn(5, 4, 16)
    parameters = dict(layer.named_parameters())

    wanted = naive_layer(layer, wanted_hidden, ROWS)
    wanted_grads = torch.autograd.grad(
        (wanted * direction).sum(), [wanted_hidden, *parameters.values()], allow_unused=True
    )
    with mta.routing(torch.tensor(ROWS)):
        got = layer(got_hidden)
        with torch.no_grad():
            generating = layer(got_hidden)
    got_grads = torch.autograd.grad((got * direction).sum(), [got_hidden, *parameters.values()], allow_unused=True)

    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(generating, wanted, rtol=1e-4, atol=1e-5)
    for name, ours, theirs in zip(["hidden", *parameters], got_grads, wanted_grads, strict=True):
        zero = torch.zeros(())
        ours, theirs = (zero if g is None else g for g in (ours, theirs))
        assert (ours - theirs).abs().max() < 3e-4, name


@pytest.mark.parametrize("settings", KINDS)
def test_a_row_alone_gets_what_it_gets_in_a_mixed_batch(settings: dict[str, Any]) -> None:
    mta = made("llama", "weight", settings)
    mta.set_gate_mode("soft")
    batch = batch_for(mta.model)
    mixed = logits(mta, batch, ROWS)
    for row, task in enumerate(ROWS):
        alone = logits(mta, {"input_ids": batch["input_ids"][row : row + 1]}, [task])
        torch.testing.assert_close(mixed[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", KINDS)
def test_long_batches_take_another_path_to_the_same_values(settings: dict[str, Any]) -> None:
    mta = made("gpt2", "weight", settings)
    mta.set_gate_mode("soft")
    hidden = torch.randn(5, GROUPED_TOKENS, 16)
    with mta.routing(ROWS):
        learning = mta.layers[0](hidden)
        with torch.no_grad():
            generating = mta.layers[0](hidden)
    torch.testing.assert_close(generating, learning, rtol=1e-4, atol=1e-4)


def test_tasks_give_different_logits_once_adapters_differ() -> None:
    mta = made("llama", "weight", {"adapter": "ffn"})
    batch = batch_for(mta.model, rows=1)
    assert (logits(mta, batch, ["intent"]) - logits(mta, batch, ["nli"])).abs().max() > 1e-2


@pytest.mark.parametrize(("task", "shared"), [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize("mixing", ["weight", "output"])
@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("place", ["beside", "beneath"])
def test_adapters_switched_off_contribute_nothing(mixing: str, mode: str, place: str, task: bool, shared: bool) -> None:
    mta = made(
        "llama", mixing, {"adapter": "lora", "shared_adapters": 1, "shared_adapter": "ffn", "shared_place": place}
    )
    mta.set_gate_mode(mode)
    mta.use_adapters(task=task, shared=shared)
    hidden = torch.randn(5, 4, 16)
    with mta.routing(ROWS):
        got = mta.layers[0](hidden)
    if task or shared:
        torch.testing.assert_close(got, naive_layer(mta.layers[0], hidden, ROWS), rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(got, mta.layers[0].base(hidden))
        batch = batch_for(mta.model)
        assert torch.equal(logits(mta, batch, ROWS), plain_logits(tiny("llama"), batch))


@pytest.mark.parametrize("mixing", ["weight", "output"])
@pytest.mark.parametrize("kind", ["ffn", "lora"])
def test_float32_adapters_work_on_a_bfloat16_backbone(kind: str, mixing: str) -> None:
    model = tiny("llama").bfloat16()
    mta = inject(model, plain_config(layers="last_1", adapter=kind, mixing=mixing), TASKS, dtype=torch.float32)
    mta.set_gate_mode("soft")
    trained = mta.set_trainable({"task_adapters", "gates"})
    assert {p.dtype for _, p in trained} == {torch.float32}
    batch = batch_for(model)
    with mta.routing(ROWS):
        out = model(**batch).logits
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    assert sum(float(p.grad.abs().sum()) for _, p in trained if p.grad is not None) > 0
    torch.testing.assert_close(out, plain_logits(tiny("llama").bfloat16(), batch), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("mixing", ["weight", "output"])
def test_autocast_runs_in_bfloat16_close_to_float32(mixing: str, settings: dict[str, Any]) -> None:
    mta = made("gpt2", mixing, settings)
    mta.set_gate_mode("soft")
    hidden = torch.randn(5, 4, 16)
    with mta.routing(ROWS):
        exact = mta.layers[0](hidden)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = mta.layers[0](hidden)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_float16_t5_keeps_its_float32_projection() -> None:
    model = tiny("t5").half()
    for block in [*model.encoder.block, *model.decoder.block]:
        block.layer[-1].DenseReluDense.wo.float()
    hidden = torch.randn(5, 4, 16).half()
    base = model.decoder.block[1].layer[-1].DenseReluDense
    wanted = base(hidden)
    mta = inject(model, plain_config(layers="last_1"), TASKS, dtype=torch.float32)
    with mta.routing(ROWS):
        got = mta.layers[-1](hidden)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


class TestFormedWeights:
    """Generation keeps formed weights; whatever changes them must show."""

    def test_an_optimiser_step_shows(self) -> None:
        mta = made("llama", "weight", {"adapter": "ffn"})
        mta.set_gate_mode("soft")
        batch = batch_for(mta.model)
        before = logits(mta, batch, ROWS)
        assert torch.equal(before, logits(mta, batch, ROWS))
        with torch.no_grad():
            mta.layers[0].tasks[0].weight["up"].mul_(1.5)
        assert not torch.equal(before, logits(mta, batch, ROWS))

    def test_a_change_of_the_gates_shows(self) -> None:
        mta = made("llama", "weight", {"adapter": "ffn", "shared_adapters": 1})
        batch = batch_for(mta.model)
        seen = [logits(mta, batch, ROWS)]
        mta.set_gate_mode("soft")
        seen.append(logits(mta, batch, ROWS))
        mta.use_adapters(task=True, shared=False)
        seen.append(logits(mta, batch, ROWS))
        mta.open_gates(0.9)
        seen.append(logits(mta, batch, ROWS))
        for i, a in enumerate(seen):
            for b in seen[:i]:
                assert not torch.equal(a, b)

    def test_a_write_to_data_shows_after_train_and_eval(self) -> None:
        mta = made("llama", "weight", {"adapter": "ffn"})
        mta.set_gate_mode("soft")
        batch = batch_for(mta.model)
        before = logits(mta, batch, ROWS)
        mta.model.train()
        mta.layers[0].tasks[0].weight["up"].data.mul_(1.5)
        mta.model.eval()
        assert not torch.equal(before, logits(mta, batch, ROWS))


def test_dropout_inside_the_ffn_stays_in_force_when_training() -> None:
    model = tiny("bart")
    model.config.activation_dropout = 0.5
    model.model.decoder.layers[1].activation_dropout = 0.5
    mta = inject(model, plain_config(layers="last_1", encoder_layers="none"), TASKS)
    layer = mta.layers[0]
    hidden = torch.randn(5, 4, 16)
    with mta.routing(ROWS):
        still = layer(hidden)
        assert torch.equal(still, layer(hidden))
        layer.train()
        assert not torch.allclose(layer(hidden), still)


def test_a_lora_delta_is_scaled_by_alpha_over_rank() -> None:
    layer = inject(tiny("llama"), plain_config(layers="last_1", adapter="lora", rank=2, alpha=6.0), ["only"]).layers[0]
    bank: Any = layer.tasks[0]
    with torch.no_grad():
        bank.a["up"].fill_(1.0)
        bank.b["up"].fill_(1.0)
    formed, base = layer.form([0], torch.float32)[0].weights["up"], layer.ffn.read(layer.base).weights["up"]
    torch.testing.assert_close(formed - base, torch.full((24, 16), 2 * 6.0 / 2))


def test_the_dropout_that_closes_gpt2s_ffn_stays_in_force_when_training() -> None:
    model = tiny("gpt2")
    model.transformer.h[1].mlp.dropout.p = 0.5
    mta = inject(model, plain_config(layers="last_1"), TASKS)
    layer, hidden = mta.layers[0], torch.randn(5, 4, 16)
    with mta.routing([0, 1, 2, 0, 1]):
        in_use = layer(hidden)
        layer.train()
        in_training = layer(hidden)
    assert (in_use != 0).all()
    assert (in_training == 0).float().mean() == pytest.approx(0.5, abs=0.15)
