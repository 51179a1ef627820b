"""The gate's table: hard, soft, opened; which adapters train and where they start."""

import json
from typing import Any

import pytest
import torch

from alter_core.errors import MTAError
from alter_core.mta import MTAModel, fold, inject
from tests.mta.conftest import TASKS, batch_for, logits, plain_config, plain_logits, stir, tiny

ROWS = ["title", "intent", "nli", "title", "intent"]


def made(**settings: Any) -> MTAModel:
    return inject(tiny("llama"), plain_config(layers="all", rank=2, **settings), TASKS)


def test_hard_gates_share_the_weight_between_home_and_shared_adapters() -> None:
    table = made(shared_adapters=1).gate_table()["decoder.0"]
    assert table["nli"] == {"shared 0": 0.5, "intent": 0.0, "nli": 0.5, "title": 0.0}
    assert made().gate_table()["decoder.1"]["nli"] == {"intent": 0.0, "nli": 1.0, "title": 0.0}


def test_soft_gates_are_the_softmax_of_logits_over_the_temperature() -> None:
    mta = made(temperature=0.5)
    mta.set_gate_mode("soft")
    with torch.no_grad():
        mta.layers[0].gate.logits[0].copy_(torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    table = mta.gate_table()["decoder.0"]
    total = 1 + torch.e + torch.e**2
    assert table["intent"] == pytest.approx({"intent": 1 / total, "nli": torch.e / total, "title": torch.e**2 / total})
    assert table["nli"] == pytest.approx({"intent": 1 / 3, "nli": 1 / 3, "title": 1 / 3})


def test_fresh_soft_gates_lean_towards_home_so_that_copies_part() -> None:
    mta = made()
    mta.set_gate_mode("soft")
    row = mta.gate_table()["decoder.0"]["nli"]
    assert row["nli"] > row["intent"] == pytest.approx(row["title"])


@pytest.mark.parametrize("shared", [0, 2])
@pytest.mark.parametrize("keep", [0.5, 0.97])
def test_opened_gates_start_at_what_was_asked(keep: float, shared: int) -> None:
    mta = made(shared_adapters=shared)
    hard = mta.gate_table()
    mta.open_gates(keep)
    for layer, rows in mta.gate_table().items():
        for task, row in rows.items():
            others = sum(1 for weight in hard[layer][task].values() if weight == 0)
            for adapter, weight in row.items():
                was = hard[layer][task][adapter]
                assert weight == pytest.approx(keep * was if was else (1 - keep) / others, abs=1e-6)


def test_gates_opened_for_shared_adapters_alone_keep_their_lead_over_what_comes_later() -> None:
    mta = made(adapter="lora", shared_adapters=1)
    mta.use_adapters(task=False, shared=True)
    mta.open_gates(0.9)
    assert mta.gate_table()["decoder.0"]["nli"]["shared 0"] == pytest.approx(1)
    mta.use_adapters(task=True, shared=True)
    row = mta.gate_table()["decoder.0"]["nli"]
    assert row.pop("shared 0") == pytest.approx(0.9)
    assert list(row.values()) == pytest.approx([0.1 / 3] * 3)


def test_opening_the_gates_almost_keeps_the_logits() -> None:
    mta = made(adapter="lora", shared_adapters=1)
    stir(mta)
    batch = batch_for(mta.model)
    hard = logits(mta, batch, ROWS)
    mta.open_gates(0.999)
    near = (logits(mta, batch, ROWS) - hard).abs().max()
    mta.open_gates(0.5)
    assert near < 0.1 * (logits(mta, batch, ROWS) - hard).abs().max()


def test_a_task_alone_with_its_adapter_has_nothing_to_open() -> None:
    mta = inject(tiny("llama"), plain_config(layers="all"), ["only"])
    mta.open_gates()
    assert mta.gate_table()["decoder.0"] == {"only": {"only": 1.0}}


@pytest.mark.parametrize("keep", [0.0, 1.0, 1.5, -0.1])
def test_gates_cannot_be_opened_to_a_share_outside_0_and_1(keep: float) -> None:
    with pytest.raises(MTAError, match=f"got {keep}"):
        made().open_gates(keep)


def test_soft_weights_of_active_adapters_sum_to_one() -> None:
    mta = made(shared_adapters=1)
    stir(mta)
    mta.set_gate_mode("soft")
    mta.use_adapters(task=True, shared=False)
    for row in mta.gate_table()["decoder.0"].values():
        assert row["shared 0"] == 0
        assert sum(row.values()) == pytest.approx(1)
    mta.use_adapters(task=False, shared=True)
    assert mta.gate_table()["decoder.0"]["nli"] == {"shared 0": 1.0, "intent": 0.0, "nli": 0.0, "title": 0.0}


@pytest.mark.parametrize("mode", ["signed", "strength"])
@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": "ffn", "shared_adapters": 1},
        {"adapter": "lora", "shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beneath"},
    ],
)
def test_free_gates_begin_with_the_weights_in_force_and_then_turn_adapters_down_or_up(
    settings: dict[str, Any], mode: Any
) -> None:
    mta = made(**settings)
    stir(mta)
    hard, before = mta.gate_table(), logits(mta, batch_for(mta.model), ROWS)
    mta.free_gates(mode)
    assert mta.gate_table() == hard
    torch.testing.assert_close(logits(mta, batch_for(mta.model), ROWS), before)
    with torch.no_grad():
        for layer in mta.layers:
            layer.gate.logits[0].copy_(torch.tensor([[-0.5, 2.0, 0.25, 1.5][: len(layer.gate.columns)]] * 3))
    row = mta.gate_table()["decoder.0"]["intent"]
    others = [row["nli"], row["title"]]
    assert others == [0, 0] if mode == "strength" else all(others)
    plain = fold(mta, "intent")
    torch.testing.assert_close(
        plain_logits(plain, batch_for(mta.model)),
        logits(mta, batch_for(mta.model), ["intent"] * 5),
        rtol=1e-4,
        atol=1e-4,
    )


def test_soft_weights_become_signed_ones_unchanged() -> None:
    mta = made(adapter="lora", shared_adapters=1)
    mta.open_gates(0.8)
    soft = mta.gate_table()
    mta.free_gates("signed")
    assert mta.gate_table() == soft


def test_free_gates_are_refused_where_outputs_are_mixed() -> None:
    with pytest.raises(MTAError, match="mixing: weight"):
        made(mixing="output").free_gates("signed")


def test_a_task_that_is_left_out_runs_what_is_shared_alone_and_the_others_do_not_notice() -> None:
    mta = made(adapter="lora", shared_adapters=1, shared_adapter="ffn", shared_place="beneath")
    stir(mta)
    batch = batch_for(mta.model)
    whole = logits(mta, batch, ROWS)
    with mta.leaving_out([mta.tasks.index("title")]):
        without = logits(mta, batch, ROWS)
    mta.use_adapters(task=False, shared=True)
    shared = logits(mta, batch, ROWS)
    left_out = torch.tensor([task == "title" for task in ROWS])
    torch.testing.assert_close(without[left_out], shared[left_out])
    torch.testing.assert_close(without[~left_out], whole[~left_out])


def test_a_tasks_own_places_are_its_adapters_and_its_rows_of_the_gates() -> None:
    mta = made(adapter="lora", shared_adapters=1)
    mta.add_task("later")
    stir(mta)
    mta.free_gates("signed")
    before = logits(mta, batch_for(mta.model), ROWS)
    named = dict(mta.model.named_parameters())
    with torch.no_grad():
        for name, places in mta.own_places(mta.tasks.index("later")).items():
            named[name][places] += 1
    torch.testing.assert_close(logits(mta, batch_for(mta.model), ROWS), before, rtol=0, atol=0)
    with torch.no_grad():
        for name, places in mta.own_places(mta.tasks.index("nli")).items():
            named[name][places] += 1
    changed = (logits(mta, batch_for(mta.model), ROWS) != before).flatten(1).any(1)
    assert changed.tolist() == [task == "nli" for task in ROWS]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(MTAError, match="is unknown: hard, soft, signed, strength"):
        made().set_gate_mode("ajar")  # type: ignore[arg-type]


def test_the_gate_table_is_json() -> None:
    table = made(shared_adapters=1).gate_table()
    assert json.loads(json.dumps(table)) == table


class TestTrainable:
    """Freezing is by part, tested by the exact key set."""

    @pytest.mark.parametrize(
        ("parts", "marks"),
        [
            ({"gates"}, (".gate.",)),
            ({"task_adapters"}, (".tasks.",)),
            ({"shared_adapters", "gates"}, (".shared.", ".gate.")),
        ],
    )
    def test_only_the_named_parts_train(self, parts: set[str], marks: tuple[str, ...]) -> None:
        mta = made(shared_adapters=1)
        names = {name for name, _ in mta.set_trainable(parts)}
        assert names == {n for n, _ in mta.model.named_parameters() if any(m in n for m in marks)}
        assert names == {n for n, p in mta.model.named_parameters() if p.requires_grad}

    def test_the_backbone_is_everything_else(self) -> None:
        mta = made(shared_adapters=1)
        names = {name for name, _ in mta.set_trainable({"backbone"})}
        inside = {n.replace(".base.", ".") for n in names}
        assert inside == {n for n, _ in tiny("llama").named_parameters()}

    def test_parameters_are_counted_by_part(self) -> None:
        mta = made(shared_adapters=1)
        mta.set_trainable({"gates"})
        ffn = 3 * 16 * 24
        counts = mta.parameter_counts()
        assert counts["task_adapters"] == 2 * 3 * ffn
        assert counts["shared_adapters"] == 2 * ffn
        assert counts["gates"] == counts["trained"] == 2 * 3 * 4
        assert counts["backbone"] == sum(p.numel() for p in tiny("llama").parameters())
        assert counts["total"] == sum(counts[p] for p in ("backbone", "shared_adapters", "task_adapters", "gates"))

    def test_an_unknown_part_lists_the_known(self) -> None:
        with pytest.raises(MTAError, match="adaptors") as caught:
            made().set_trainable({"adaptors"})
        assert "task_adapters" in str(caught.value)


class TestStart:
    """Where task adapters start, after stage one has trained the shared one."""

    @staticmethod
    def shared_only(mta: MTAModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mta.use_adapters(task=False, shared=True)
        out = logits(mta, batch, ROWS)
        mta.use_adapters(task=True, shared=True)
        return out

    @pytest.mark.parametrize(
        "settings",
        [
            {"adapter": "ffn", "shared_adapters": 1},
            {"adapter": "lora", "shared_adapters": 1},
            {"adapter": "ffn", "shared_adapter": "lora", "shared_adapters": 1},
            {"adapter": "ffn", "shared_adapters": 1, "shared_place": "beneath"},
            {"adapter": "lora", "shared_adapter": "ffn", "shared_adapters": 1, "shared_place": "beneath"},
        ],
    )
    def test_from_shared_keeps_what_the_shared_adapter_computes(self, settings: dict[str, Any]) -> None:
        mta = made(**settings)
        stir(mta)
        batch = batch_for(mta.model)
        wanted = self.shared_only(mta, batch)
        assert (logits(mta, batch, ROWS) - wanted).abs().max() > 1e-2
        mta.start_adapters("shared")
        torch.testing.assert_close(logits(mta, batch, ROWS), wanted, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("kind", ["ffn", "lora"])
    @pytest.mark.parametrize("start", ["pretrained", "zero"])
    def test_from_the_pretrained_ffn_gives_the_backbone_back(self, kind: str, start: Any) -> None:
        mta = made(adapter=kind)
        stir(mta)
        mta.start_adapters(start)
        batch = batch_for(mta.model)
        torch.testing.assert_close(logits(mta, batch, ROWS), plain_logits(tiny("llama"), batch))

    @pytest.mark.parametrize(
        ("settings", "start", "says"),
        [
            ({}, "shared", "no shared adapter"),
            ({"shared_adapters": 2}, "shared", "2 shared adapters"),
            ({"adapter": "lora", "shared_adapter": "ffn", "shared_adapters": 1}, "shared", "the shared one is ffn"),
            ({"shared_adapters": 1, "shared_place": "beneath"}, "pretrained", "use zero"),
            ({}, "afresh", "pretrained, shared or zero"),
        ],
    )
    def test_a_start_that_cannot_be_says_why(self, settings: dict[str, Any], start: Any, says: str) -> None:
        with pytest.raises(MTAError, match=says):
            made(**settings).start_adapters(start)
