"""Tasks come and go, adapters are pruned; the other tasks do not notice, or it is measured how much."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alter_core.errors import MTAError
from alter_core.mta import MTAConfig, MTAModel, fold, inject, load_bundle, save_bundle
from tests.mta.conftest import TASKS, batch_for, logits, plain_logits, stir, tiny
from tests.mta.naive import naive_layer

SETTINGS = [
    {"adapter": "ffn"},
    {"adapter": "lora", "shared_adapters": 1},
    {"adapter": "bottleneck"},
    {"adapter": "lora", "shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beneath"},
    {"adapter": "ffn", "mixing": "output"},
    {"adapter": "lora", "mixing": "output"},
]
OLD_ROWS = ["title", "intent", "nli", "title", "intent"]


def made(mode: Any, **settings: Any) -> MTAModel:
    mta = inject(tiny("llama"), MTAConfig(layers="all", rank=2, width=3, **settings), TASKS)
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


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_removing_a_task_leaves_the_others_bit_identical(mode: str, settings: dict[str, Any]) -> None:
    mta = made(mode, **settings)
    batch = batch_for(mta.model)
    before = {task: logits(mta, batch, [task] * 5) for task in ("intent", "title")}
    mta.remove_task("nli")
    assert mta.tasks == ["intent", "title"]
    for task, wanted in before.items():
        assert torch.equal(logits(mta, batch, [task] * 5), wanted)


def test_adding_and_removing_the_same_task_ends_where_it_began() -> None:
    mta = made("soft")
    before = checksum(mta)
    mta.add_task("toxic")
    mta.remove_task("toxic")
    assert checksum(mta) == before
    dropped = mta.prune(1e-9).dropped
    assert dropped == {"decoder.0": ["toxic"], "decoder.1": ["toxic"]}
    assert mta.parameter_counts()["total"] == made("soft").parameter_counts()["total"]


class TestPrune:
    """Pruning drops what no task weighs, and says what that changed."""

    def test_an_unused_adapter_goes_and_the_change_is_measured(self, tmp_path: Path) -> None:
        mta = made("soft", shared_adapters=1)
        with torch.no_grad():
            mta.layers[0].gate.logits[0][:, 0] = -0.35  # the shared adapter of one layer
        weight = max(row["shared 0"] for row in mta.gate_table()["decoder.0"].values())
        batch = batch_for(mta.model)
        before = logits(mta, batch, OLD_ROWS)
        report = mta.prune(2 * weight, batch, OLD_ROWS)
        after = logits(mta, batch, OLD_ROWS)
        assert report.dropped == {"decoder.0": ["shared 0"]}
        assert report.parameters_dropped == 3 * 16 * 24 + 3
        assert 0 < report.largest_weight_change < 2 * weight
        assert report.largest_logit_change == pytest.approx(float((after - before).abs().max()))
        assert json.loads(json.dumps(report.to_dict()))["dropped"] == report.dropped
        assert all(sum(row.values()) == pytest.approx(1) for row in mta.gate_table()["decoder.0"].values())

        save_bundle(mta, None, tmp_path / "bundle")
        loaded, _, _ = load_bundle(tmp_path / "bundle")
        assert torch.equal(logits(loaded, batch, OLD_ROWS), after)

    def test_the_change_is_told_in_nats_and_as_a_share_of_answers(self) -> None:
        mta = made("soft", shared_adapters=1)
        with torch.no_grad():
            mta.layers[0].gate.logits[0][:, 0] = -0.05
        weight = max(row["shared 0"] for row in mta.gate_table()["decoder.0"].values())
        batch = batch_for(mta.model)
        before = logits(mta, batch, OLD_ROWS).log_softmax(-1)
        report = mta.prune(weight * 1.01, batch, OLD_ROWS)
        after = logits(mta, batch, OLD_ROWS).log_softmax(-1)
        kl = (before.exp() * (before - after)).sum(-1).mean()
        assert report.mean_kl == pytest.approx(float(kl), rel=1e-3)
        assert report.mean_kl > 0
        assert report.same_top == pytest.approx(float((before.argmax(-1) == after.argmax(-1)).float().mean()))

    def test_a_task_whose_home_was_pruned_can_only_use_soft_gates(self) -> None:
        mta = made("soft")
        with torch.no_grad():
            for layer in mta.layers:
                layer.gate.logits[0][:, 1] = -1.0
        mta.prune(0.01)
        mta.set_gate_mode("hard")
        with pytest.raises(MTAError, match="no home adapter"):
            mta.gate_table()

    def test_nothing_is_dropped_when_everything_would_be(self) -> None:
        mta = made("soft")
        before = checksum(mta)
        with pytest.raises(MTAError, match="nothing was pruned") as caught:
            mta.prune(1.1)
        assert "decoder.0" in str(caught.value)
        assert "decoder.1" in str(caught.value)
        assert checksum(mta) == before

    def test_no_task_is_left_without_an_adapter(self) -> None:
        mta = made("soft")
        with torch.no_grad():
            for layer in mta.layers:
                layer.gate.logits[0].zero_()
        mta.add_task("toxic")
        with pytest.raises(MTAError, match=r"intent, nli, title would have no adapter left; take a smaller"):
            mta.prune(0.5)

    def test_a_probe_needs_its_tasks(self) -> None:
        mta = made("soft")
        with pytest.raises(MTAError, match="task ids"):
            mta.prune(0.1, batch_for(mta.model))


@pytest.mark.parametrize("removed", ["intent", "nli"])
def test_a_bundle_outlives_a_task_that_others_were_at_home_with(removed: str, tmp_path: Path) -> None:
    mta = inject(tiny("llama"), MTAConfig(layers="all", homes={"nli": "intent"}), TASKS)
    mta.remove_task(removed)
    wanted = logits(mta, batch_for(mta.model), ["title"] * 5)
    save_bundle(mta, None, tmp_path / "bundle", {})
    again, _, _ = load_bundle(tmp_path / "bundle")
    assert torch.equal(logits(again, batch_for(again.model), ["title"] * 5), wanted)


def test_a_task_that_comes_back_gets_a_column_of_its_own_name() -> None:
    mta = made("soft")
    mta.remove_task("title")
    mta.add_task("title")
    assert list(mta.gate_table()["decoder.0"]["title"]) == ["intent", "nli", "title", "title_2"]


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda m: m.add_task("nli"), "exists already"),
        (lambda m: m.add_task("toxic", home="mood"), "'mood' is no task"),
        (lambda m: m.add_task("toxic", keep=1.0), "keep must lie between 0 and 1"),
        (lambda m: m.remove_task("mood"), "no task 'mood'"),
        (lambda m: [m.remove_task(t) for t in TASKS], "only task"),
    ],
)
def test_a_change_that_cannot_be_says_why(act: Any, says: str) -> None:
    mta = made("hard")
    with pytest.raises(MTAError, match=says):
        act(mta)
    mta.gate_table()  # raises where a half of the layers has changed
