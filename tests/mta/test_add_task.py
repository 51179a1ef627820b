"""A task is added, and the others do not notice."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from alter_core.errors import MTAError
from alter_core.mta import MTAModel, fold, inject, load_bundle, save_bundle
from tests.mta.conftest import TASKS, batch_for, logits, plain_config, plain_logits, stir, tiny
from tests.mta.naive import naive_layer

SETTINGS = [
    {"adapter": "ffn"},
    {"adapter": "lora", "shared_adapters": 1},
    {"adapter": "lora", "shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beneath"},
    {"adapter": "ffn", "mixing": "output"},
    {"adapter": "lora", "mixing": "output"},
]
OLD_ROWS = ["title", "intent", "nli", "title", "intent"]


def made(mode: Any, **settings: Any) -> MTAModel:
    mta = inject(tiny("llama"), plain_config(layers="all", rank=2, **settings), TASKS)
    stir(mta)
    mta.set_gate_mode(mode)
    return mta


def checksum(mta: MTAModel) -> str:
    """Digest of the old tasks' logits, with gradients on (training's path) and off (generation's)."""
    batch = batch_for(mta.model)
    digest = hashlib.sha256(logits(mta, batch, OLD_ROWS).numpy().tobytes())
    with mta.routing(OLD_ROWS):
        digest.update(mta.model(**batch).logits.detach().numpy().tobytes())
    for task in TASKS:
        digest.update(logits(mta, batch, [task] * 5).numpy().tobytes())
    return digest.hexdigest()


def train(mta: MTAModel, new: list[tuple[str, torch.nn.Parameter]], task: str) -> tuple[float, float]:
    optimizer = torch.optim.AdamW([p for _, p in new], lr=0.02, weight_decay=0.1)
    ids = batch_for(mta.model)["input_ids"]
    losses = []
    for _ in range(6):
        with mta.routing([task] * 5):
            loss = mta.model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_an_added_task_learns_and_the_others_stay_bit_identical(
    mode: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    mta = made(mode, **settings)
    before = checksum(mta)
    new = mta.add_task("toxic")
    assert checksum(mta) == before
    first, last = train(mta, new, "toxic")
    assert last < first
    assert checksum(mta) == before
    assert mta.tasks == [*TASKS, "toxic"]
    rows = [3, 0, 3, 1, 2]
    hidden = torch.randn(5, 4, 16)
    with mta.routing(rows):
        torch.testing.assert_close(
            mta.layers[0](hidden), naive_layer(mta.layers[0], hidden, rows), rtol=1e-3, atol=1e-4
        )
    save_bundle(mta, None, tmp_path / "bundle")
    loaded, _, _ = load_bundle(tmp_path / "bundle")
    assert checksum(loaded) == before


def test_only_the_new_adapter_and_gate_rows_train() -> None:
    mta = made("soft", shared_adapters=1)
    names = {name for name, _ in mta.add_task("toxic")}
    assert {n.partition(".mlp.")[2] for n in names} == {
        "gate.logits.1",
        *(f"tasks.1.weight.{role}" for role in ("gate", "up", "down")),
    }
    assert names == {n for n, p in mta.model.named_parameters() if p.requires_grad}


def test_a_task_may_start_on_the_adapter_of_another() -> None:
    mta = made("hard")
    names = {name for name, _ in mta.add_task("toxic", home="nli")}
    assert mta.config.homes == {"toxic": "nli"}
    made_again = made("hard")
    made_again.add_task("toxic", home="nli")
    made_again.add_task("tone", home="toxic")
    assert made_again.config.homes == {"toxic": "nli", "tone": "nli"}
    assert all("gate.logits.1" in name for name in names)
    batch = batch_for(mta.model)
    assert torch.equal(logits(mta, batch, ["toxic"] * 5), logits(mta, batch, ["nli"] * 5))


def test_a_new_row_among_soft_gates_starts_near_its_home() -> None:
    mta = made("soft")
    mta.add_task("toxic")
    row = mta.gate_table()["decoder.0"]["toxic"]
    assert row["toxic"] == pytest.approx(0.97)
    assert mta.gate_table()["decoder.0"]["nli"]["toxic"] == 0


def test_a_new_task_may_start_on_the_shared_adapter_and_with_another_weight() -> None:
    mta = made("soft", adapter="lora", shared_adapters=1, shared_place="beside")
    stir(mta, seed=8)
    layer = mta.layers[0]
    mta.add_task("toxic", start="shared", keep=0.8)
    assert mta.gate_table()[layer.name]["toxic"]["toxic"] == pytest.approx(0.8 / 2)  # half of it is the shared one
    for name, weight in layer.tasks[-1].named_parameters():
        assert torch.equal(weight[0], dict(layer.shared.named_parameters())[name][0])


def test_an_added_task_folds_and_two_can_be_added() -> None:
    mta = made("soft", adapter="lora")
    mta.add_task("toxic")
    mta.add_task("tone")
    stir(mta, seed=8)
    batch = batch_for(mta.model)
    for task in ("toxic", "tone", "nli"):
        got = plain_logits(fold(mta, task), batch)
        torch.testing.assert_close(got, logits(mta, batch, [task] * 5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda m: m.add_task("nli"), "exists already"),
        (lambda m: m.add_task("toxic", home="mood"), "'mood' is no task"),
        (lambda m: m.add_task("toxic", keep=1.0), "keep must lie between 0 and 1"),
    ],
)
def test_a_change_that_cannot_be_says_why(act: Any, says: str) -> None:
    mta = made("hard")
    with pytest.raises(MTAError, match=says):
        act(mta)
    mta.gate_table()  # raises where a half of the layers has changed
