"""Every architecture: injection changes nothing, training changes something, bundle and fold keep it."""

from pathlib import Path

import pytest
import torch

from alter_core.errors import MTAError
from alter_core.mta import fold, inject, load_bundle, save_bundle
from alter_core.mta.architectures import ARCHITECTURES
from tests.mta.conftest import MODELS, TASKS, batch_for, logits, plain_config, plain_logits, tiny

ROWS = ["title", "intent", "nli", "title", "intent"]


def test_every_known_architecture_is_tested() -> None:
    assert set(MODELS) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("kind", ["ffn", "lora"])
@pytest.mark.parametrize("mixing", ["weight", "output"])
def test_fresh_injection_leaves_the_logits_unchanged(architecture: str, kind: str, mixing: str) -> None:
    model = tiny(architecture)
    batch = batch_for(model)
    before = plain_logits(model, batch)
    mta = inject(model, plain_config(layers="all", adapter=kind, shared_adapters=1, mixing=mixing, rank=2), TASKS)
    torch.testing.assert_close(logits(mta, batch, ROWS), before, rtol=1e-4, atol=2e-5)
    mta.set_gate_mode("soft")
    torch.testing.assert_close(logits(mta, batch, ROWS), before, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("architecture", MODELS)
def test_life_cycle(architecture: str, tmp_path: Path) -> None:
    model = tiny(architecture)
    batch = batch_for(model)
    before = plain_logits(model, batch)
    config = plain_config(layers="last_1", adapter="lora", shared_adapters=1, shared_adapter="ffn", rank=2)
    mta = inject(model, config, TASKS)
    mta.set_gate_mode("soft")
    trained = mta.set_trainable({"shared_adapters", "task_adapters", "gates"})
    optimizer = torch.optim.Adam([p for _, p in trained], lr=0.02)
    losses = []
    for _ in range(8):
        with mta.routing(ROWS):
            out = model(**batch, labels=batch.get("decoder_input_ids", batch["input_ids"]))
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(out.loss.detach()))
    assert losses[-1] < losses[0]

    after = logits(mta, batch, ROWS)
    assert (after - before).abs().max() > 1e-3
    mta.use_adapters(task=False, shared=False)
    torch.testing.assert_close(logits(mta, batch, ROWS), before, rtol=1e-4, atol=2e-5)
    mta.use_adapters(task=True, shared=True)
    assert torch.equal(logits(mta, batch, ROWS), after)

    save_bundle(mta, None, tmp_path / "bundle")
    loaded, _, _ = load_bundle(tmp_path / "bundle")
    assert torch.equal(logits(loaded, batch, ROWS), after)

    for task in TASKS:
        rows = [i for i, name in enumerate(ROWS) if name == task]
        alone = {name: tensor[rows] for name, tensor in batch.items()}
        plain = fold(mta, task)
        assert type(plain) is type(model)
        torch.testing.assert_close(plain_logits(plain, alone), after[rows], rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(mta, batch, ROWS), after)  # folding left the model as it was


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_encoder_and_decoder_are_chosen_separately(architecture: str) -> None:
    mta = inject(tiny(architecture), plain_config(layers="last_1", encoder_layers="none"), TASKS)
    assert [layer.name for layer in mta.layers] == ["decoder.1"]
    mta = inject(tiny(architecture), plain_config(layers=(0,), encoder_layers="all"), TASKS)
    assert [layer.name for layer in mta.layers] == ["encoder.0", "encoder.1", "decoder.0"]


def test_a_gated_t5_is_read_as_gated() -> None:
    assert set(inject(tiny("t5"), plain_config(layers="all"), TASKS).layers[0].ffn.linears) == {"up", "down"}
    gated = inject(tiny("mt5"), plain_config(layers="all"), TASKS).layers[0]
    assert gated.ffn.linears == {"gate": "wi_0", "up": "wi_1", "down": "wo"}


def test_layers_none_gives_a_handle_on_the_plain_model() -> None:
    mta = inject(tiny("llama"), plain_config(layers="none"), TASKS)
    batch = batch_for(mta.model)
    assert mta.layers == []
    assert torch.equal(logits(mta, batch, ROWS), plain_logits(mta.model, batch))


class TestErrors:
    """What cannot be injected says why, and what could."""

    def test_an_unknown_architecture_lists_the_known_and_says_how_to_add_one(self) -> None:
        model = tiny("llama")
        model.config.model_type = "warbler"
        with pytest.raises(MTAError, match="warbler") as caught:
            inject(model, plain_config(), TASKS)
        assert "gpt_neox" in str(caught.value)
        assert "architectures.py" in str(caught.value)

    def test_a_model_without_its_head_is_refused(self) -> None:
        with pytest.raises(MTAError, match="language model head"):
            inject(tiny("llama").model, plain_config(layers="last_1"), TASKS)

    def test_blocks_that_do_not_exist_are_named(self) -> None:
        with pytest.raises(MTAError, match="asks for 4"):
            inject(tiny("llama"), plain_config(layers="last_4"), TASKS)
        with pytest.raises(MTAError, match=r"decoder block 7;.*0 to 1"):
            inject(tiny("llama"), plain_config(layers=(1, 7)), TASKS)

    def test_an_encoder_choice_without_an_encoder_is_refused(self) -> None:
        with pytest.raises(MTAError, match="no encoder"):
            inject(tiny("llama"), plain_config(layers="all", encoder_layers="all"), TASKS)

    def test_all_mistakes_about_tasks_come_at_once(self) -> None:
        config = plain_config(layers="all", homes={"a": "b", "b": "c", "x": "a"})
        with pytest.raises(MTAError) as caught:
            inject(tiny("llama"), config, ["a", "b", "c", "a"])
        text = str(caught.value)
        assert "'a' is named twice" in text
        assert "'x' is no task" in text
        assert "'a' starts on the adapter of 'b'" in text
        with pytest.raises(MTAError, match="cannot be given adapters"):
            inject(tiny("llama"), plain_config(layers="all"), [])

    def test_a_failed_injection_leaves_the_model_as_it_was(self) -> None:
        model = tiny("t5")
        with pytest.raises(MTAError):
            inject(model, plain_config(layers=(9,), encoder_layers="all"), TASKS)
        assert inject(model, plain_config(layers="all"), TASKS).layers

    def test_a_second_injection_is_refused(self) -> None:
        mta = inject(tiny("llama"), plain_config(layers="all"), TASKS)
        with pytest.raises(MTAError, match="already"):
            inject(mta.model, plain_config(layers="all"), TASKS)


def test_tasks_with_one_home_share_one_adapter() -> None:
    mta = inject(tiny("llama"), plain_config(layers="all", homes={"nli": "intent"}), TASKS)
    table = mta.gate_table()["decoder.0"]
    assert list(table["nli"]) == ["intent", "title"]
    assert table["nli"] == table["intent"] == {"intent": 1.0, "title": 0.0}
