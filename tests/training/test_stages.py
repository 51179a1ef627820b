from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from alter_core import numerics as precision
from alter_core.backbone import load_backbone
from alter_core.errors import SpecError
from alter_core.mta import MTAConfig, inject, load_bundle
from alter_core.spec import StageSpec
from alter_core.training import assembly
from alter_core.training.forward import TargetForward
from alter_core.training.loop import set_training_mode
from alter_core.training.result import Score, trained_in_all
from alter_core.training.stages import enter_stage, make_optimizer, rate_at, scores_due, stage_for_added
from alter_core.training.subject import trained_digest
from tests.mta.conftest import plain_config, tiny
from tests.training.conftest import Domain

RECIPES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "recipes.yaml").read_text())
Train = Callable[..., Any]


def stage(**fields: Any) -> StageSpec:
    return StageSpec.model_validate(
        {"trains": ["gates"], "gate": "soft", **({} if "epochs" in fields else {"steps": 10}), **fields}
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_pair_of_stages_and_each_lowers_the_loss(
    name: str, domain: Domain, train: Train, tmp_path: Path
) -> None:
    recipe = RECIPES[name]
    common = {"steps": 12, "rows_per_step": 16, "learning_rate": 3e-3}
    stages = {s: {**common, **recipe[s]} for s in ("stage_one", "stage_two") if s in recipe}
    start = None
    loss = float("inf")
    for which in stages:
        job = domain.job(tmp_path / which, which, start=start, mta=recipe["mta"], stage_one=stages["stage_one"])
        spec = job.spec.model_copy(update={s: StageSpec.model_validate(v) for s, v in stages.items()})
        result, _ = train(job.model_copy(update={"spec": spec}))
        losses = {when: sum(tasks.values()) for when, tasks in result.validation.losses.items()}
        assert losses["after"] < losses["before"] < loss
        loss = losses["after"] + 1e-3
        start = tmp_path / which / "bundle"
    assert start is not None
    mta, _, metadata = load_bundle(start, domain.backbone)
    assert {layer.gate.mode for layer in mta.layers} == {"soft"}
    assert metadata["spec"]["name"] == "tiny"


def test_opening_the_gates_costs_nothing_that_shows(domain: Domain, train: Train, tmp_path: Path) -> None:
    recipe = RECIPES["R2 shared and home adapters together in weight space, then gates open"]
    one = domain.job(tmp_path / "one", mta=recipe["mta"], trains=["adapters"], active="all", steps=30)
    train(one)
    two = domain.job(tmp_path / "two", "stage_two", start=tmp_path / "one" / "bundle", mta=recipe["mta"], steps=1)
    result, rows = train(two)
    losses = result.validation.losses
    told = [row for row in rows if row["phase"] == "validate"]
    assert [row["when"] for row in told] == ["before", "opened", "after"]
    assert [row.get("macro") is not None for row in told] == [True, True, False]
    assert losses["opened"] == pytest.approx(losses["before"], abs=0.01)
    assert losses["opened"] != losses["before"]
    opening = result.validation.opening
    assert opening["opened"].macro == pytest.approx(opening["before"].macro, abs=0.05)
    assert set(opening["opened"].tasks) == {"colour", "match", "thing"}
    assert {row["phase"] for row in rows if "done" in row} >= {"score"}
    assert result.gates["before"]["decoder.1"]["colour"]["match"] == 0
    assert result.gates["after"]["decoder.1"]["colour"]["match"] > 0


@pytest.mark.parametrize(
    ("one", "two", "teaches"),
    [
        ({"trains": ["adapters"], "epochs": 3}, {"trains": ["task_adapters", "gates"], "epochs": 0.1}, "stage_one"),
        ({"trains": ["shared_adapters"], "epochs": 3}, {"trains": ["task_adapters"], "epochs": 2}, "stage_two"),
        ({"trains": ["shared_adapters"], "epochs": 3}, {"trains": ["gates"], "epochs": 0.1}, "stage_one"),
        ({"trains": ["task_adapters"], "epochs": 3}, None, "stage_one"),
    ],
)
def test_an_added_task_is_taught_as_the_tasks_before_it_were(
    one: dict[str, Any], two: dict[str, Any] | None, teaches: str, domain: Domain
) -> None:
    stages = {"stage_one": stage(**one), "stage_two": two and stage(**two)}
    spec = domain.spec.model_copy(update=stages)
    assert stage_for_added(spec, 1000) == stages[teaches]


def test_a_stage_of_so_many_steps_gives_an_added_task_its_share_of_them(domain: Domain) -> None:
    spec = domain.spec.model_copy(update={"stage_one": stage(trains=["adapters"], steps=100, rows_per_step=16)})
    assert stage_for_added(spec, 800).count_steps(800) == 100
    assert stage_for_added(spec, 800).count_steps(200) == 25


def test_a_stage_that_would_train_nothing_is_refused(domain: Domain) -> None:
    mta = inject(load_backbone(domain.backbone)[0], plain_config(layers="last_1"), domain.spec.task_names)
    with pytest.raises(SpecError, match=r"nothing would train: trains names shared_adapters"):
        enter_stage(mta, StageSpec(trains=("shared_adapters",), steps=1), seed=0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"trains": ["gates"], "gate": "hard"}, "gates train where they are not hard"),
        (
            {"trains": ["gates"], "gate": "hard", "steps": 1, "epochs": 1},
            "exactly one of epochs, steps; and trains: gates train where",
        ),
        (
            {"trains": ["task_adapters"], "active": "shared"},
            "task_adapters take no part in a stage with active: shared",
        ),
        (
            {"trains": ["shared_adapters"], "active": "task"},
            "shared_adapters take no part in a stage with active: task",
        ),
    ],
)
def test_a_stage_whose_parts_are_not_in_use_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        stage(**fields)


def test_adapters_that_are_not_in_use_do_not_train() -> None:
    assert stage(trains=["adapters"], active="shared", steps=1).parts == {"shared_adapters"}
    assert stage(trains=["adapters"], active="task", steps=1).parts == {"task_adapters"}
    assert stage(trains=["adapters"], steps=1).parts == {"shared_adapters", "task_adapters"}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5", "bart"])
def test_what_is_frozen_below_the_first_mta_layer_drops_nothing(architecture: str) -> None:
    encoder = {"encoder_layers": "last_1"} if architecture in ("t5", "bart") else {}
    mta = inject(tiny(architecture), plain_config(layers="last_1", **encoder), ["a", "b"])
    set_training_mode(TargetForward(mta), stage(trains=["task_adapters"], steps=1))
    blocks = {side: [block.training for block in blocks] for side, blocks in mta.sides.items()}
    assert set(map(tuple, blocks.values())) == {(False, True)}
    above = {id(module) for blocks in mta.sides.values() for module in blocks[1].modules()}
    assert not [name for name, module in mta.model.named_modules() if module.training and id(module) not in above]


def test_switching_adapters_off_that_lie_beneath_changes_the_model() -> None:
    config = MTAConfig(layers="last_1", adapter="lora", shared_adapters=1, shared_adapter="ffn", shared_place="beneath")
    mta = inject(tiny("llama"), config, ["a", "b"])
    both = stage(trains=["task_adapters"], steps=1)
    assert enter_stage(mta, both.model_copy(update={"active": "task"}), seed=0)[1]
    assert enter_stage(mta, both, seed=0)[1]
    assert not enter_stage(mta, both, seed=0)[1]


def test_a_score_on_no_validation_rows_is_refused_before_any_training(
    domain: Domain, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alter_core.training.assembly.chosen_rows", lambda *_: [])
    with pytest.raises(SpecError, match="raise split > validation"):
        train(domain.job(tmp_path, evaluate_every=2))


def test_early_stopping_keeps_the_best(domain: Domain, train: Train, tmp_path: Path) -> None:
    # So high a rate that the first score is hardly ever beaten, and one that does not depend on the number of steps.
    stage = {"learning_rate": 3.0, "warmup": 0, "schedule": "constant", "steps": 40}
    result, _ = train(domain.job(tmp_path / "stopped", evaluate_every=2, patience=2, stage_one=stage))
    scores = result.validation.scores
    best = max(scores, key=lambda s: (s.macro, -s.step))
    assert result.stopped_early
    assert result.validation.best_step == best.step
    assert result.cost.steps == scores[-1].step < 40
    assert set(scores[0].tasks) == {"colour", "match", "thing"}
    train(domain.job(tmp_path / "short", stage_one={**stage, "steps": best.step}))
    saved, wanted = (tmp_path / run / "bundle" / "mta.safetensors" for run in ("stopped", "short"))
    assert saved.read_bytes() == wanted.read_bytes()


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_and_then_follows_its_schedule(schedule: str) -> None:
    given = stage(schedule=schedule, warmup=0.2)
    rates = [rate_at(given, step, 20) for step in range(20)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1
    assert rates[19] == 1 if schedule == "constant" else rates[19] < 0.1


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_next_stage_goes_on_where_a_schedule_ends(schedule: str) -> None:
    rates = [rate_at(stage(schedule=schedule, schedule_end=0.3), step, 200) for step in range(200)]
    after_warm_up = rates[10:]
    assert after_warm_up == sorted(after_warm_up, reverse=True)
    assert rates[-1] == pytest.approx(0.3, abs=0.01)
    assert after_warm_up[0] == 1


def test_steps_are_given_or_counted_from_epochs() -> None:
    assert stage().count_steps(1000) == 10
    assert stage(epochs=1.5, rows_per_step=32).count_steps(100) == 5
    assert stage(epochs=0.1, rows_per_step=32).count_steps(10) == 1


def test_scores_are_taken_as_often_as_the_stage_asks() -> None:
    assert scores_due(stage(), 10) == []
    assert list(scores_due(stage(evaluate_every=4), 10)) == [4, 8, 10]
    assert list(scores_due(stage(patience=1), 50))[:2] == [5, 10]
    assert [len(scores_due(stage(patience=1), steps)) for steps in (1, 9, 34, 1136)] == [1, 9, 9, 10]


def test_patience_is_so_many_scores_without_a_better_one_and_the_best_is_kept(
    domain: Domain, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.4, 0.5, 0.5, 0.3, 0.9, 0.9])
    monkeypatch.setattr(assembly, "scorer", lambda *_: lambda: Score(next(scores), {}))
    result, _ = train(domain.job(tmp_path, steps=6, evaluate_every=1, patience=2))
    assert (result.stopped_early, result.cost.steps, result.validation.best_step) == (True, 4, 2)


@pytest.mark.parametrize(("later", "best"), [([0.4, 0.5], 0), ([0.6, 0.5], 1)], ids=["worse", "better"])
def test_a_stage_that_opens_the_gates_ends_no_worse_than_they_were_then(
    later: list[float], best: int, domain: Domain, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(domain.job(tmp_path / "one", steps=2))
    scores = iter([0.7, 0.5, *later])
    monkeypatch.setattr(assembly, "scorer", lambda *_: lambda: Score(next(scores), {}))
    job = domain.job(tmp_path / "two", "stage_two", start=tmp_path / "one" / "bundle", steps=2, evaluate_every=1)
    result, _ = train(job)
    mta, _, _ = load_bundle(tmp_path / "one" / "bundle", domain.backbone)
    assert job.spec.stage_two
    before, _ = enter_stage(mta, job.spec.stage_two, job.seed)
    assert [result.validation.opening[when].macro for when in ("before", "opened")] == [0.7, 0.5]
    assert result.validation.best_step == best
    assert (result.trained_digest == trained_digest(before)) == (best == 0)


def test_gates_that_open_before_anything_is_taught_are_not_scored(domain: Domain, train: Train, tmp_path: Path) -> None:
    result, _ = train(domain.job(tmp_path, steps=1, gate="soft", trains=["adapters", "gates"]))
    assert result.validation.opening == {}


@pytest.mark.parametrize(("schedule", "share"), [("cosine", 0.853553), ("linear", 0.75), ("constant", 1.0)])
def test_a_quarter_through_a_schedule_the_rate_is_what_its_name_says(schedule: str, share: float) -> None:
    assert rate_at(stage(schedule=schedule, warmup=0), 50, 200) == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize(("own", "peak"), [(None, 3e-3), (0.05, 0.05)])
def test_gates_train_at_the_common_rate_unless_they_have_one_and_do_not_decay(own: float | None, peak: float) -> None:
    named = [(name, torch.nn.Parameter(torch.zeros(1))) for name in ("a.gate.logits.0", "a.weight")]
    given = stage(learning_rate=3e-3, gate_learning_rate=own, weight_decay=0.1)
    others, gates = make_optimizer(named, given).param_groups
    assert (others["peak"], gates["peak"], gates["weight_decay"]) == (3e-3, peak, 0.0)


def test_the_gates_open_as_wide_as_the_stage_says_and_only_once(domain: Domain) -> None:
    mta = inject(load_backbone(domain.backbone)[0], domain.spec.mta, domain.spec.task_names)
    enter_stage(mta, stage(trains=["gates"], keep=0.6), seed=0)
    assert mta.gate_table()["decoder.1"]["colour"]["colour"] == pytest.approx(0.6)
    with torch.no_grad():
        mta.layers[0].gate.logits[0].zero_()
    enter_stage(mta, stage(trains=["gates"], keep=0.6), seed=0)
    assert mta.gate_table()["decoder.1"]["colour"]["colour"] == pytest.approx(1 / 3)


def test_task_adapters_start_anew_where_the_stage_says_so(domain: Domain) -> None:
    mta = inject(load_backbone(domain.backbone)[0], domain.spec.mta, domain.spec.task_names)
    bank = mta.layers[0].tasks[0]
    with torch.no_grad():
        bank.b["up"].fill_(1.0)
    enter_stage(mta, stage(trains=["task_adapters"], start="zero"), seed=0)
    assert not bank.b["up"].any()


def test_a_part_that_two_stages_train_counts_once() -> None:
    assert trained_in_all([{"task_adapters": 10, "gates": 3}, {"task_adapters": 10}]) == 13


@pytest.mark.parametrize(("seconds", "wanted"), [(0.5, "bf16"), (0.95, "fp32"), (2.0, "fp32")])
def test_bf16_is_taken_where_it_pays(seconds: float, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_fastest", lambda x, _: seconds if x.dtype == torch.bfloat16 else 1.0)
    assert precision.choose_precision("auto", torch.device("cpu"))[0] == wanted
