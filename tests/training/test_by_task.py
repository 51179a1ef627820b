"""Stages that end with each task's best, leave rows to the next, drop adapters, average, and hold their gates."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from alter_core.backbone import load_backbone
from alter_core.errors import Stopped
from alter_core.mta import inject, load_bundle
from alter_core.training.by_task import Losses, take_better
from alter_core.training.encoded import encode_rows, is_left
from alter_core.training.forward import TargetForward
from alter_core.training.result import StageResult, TaskBest
from alter_core.training.run import run
from alter_core.training.session import Training
from alter_core.training.stages import dropped_at
from tests.training.conftest import Domain
from tests.training.test_stages import stage

Train = Callable[..., tuple[StageResult, list[dict[str, Any]]]]
BOTH = {"trains": ["adapters"], "active": "all"}
STRENGTHS = {"trains": ["task_adapters", "gates"], "gate": "strength", "best_by_task": True, "warmup": 0}


@pytest.fixture(scope="module")
def taught(domain: Domain, train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a stage one."""
    output = tmp_path_factory.mktemp("taught")
    train(domain.job(output, **BOTH, steps=15, learning_rate=3e-3))
    return output


def two(domain: Domain, taught: Path, output: Path, **changes: Any) -> Any:
    return domain.job(output, "stage_two", start=taught / "bundle", epochs=None, **changes)


def tensors(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "bundle" / "mta.safetensors")


def test_a_better_state_is_taken_where_luck_does_not_explain_it_and_for_its_task_alone(domain: Domain) -> None:
    mta = inject(load_backbone(domain.backbone)[0], domain.spec.mta, domain.spec.task_names)
    trained = mta.set_trainable({"task_adapters"})
    best = {name: torch.full_like(parameter, 7.0) for name, parameter in trained}
    task_ids = np.repeat(np.arange(3), 4)
    before = np.ones(12)
    clear, lucky, worse = [0.6, 0.5, 0.7, 0.6], [2.0, 0.0, 1.0, 0.9], [1.1, 1.2, 1.1, 1.2]
    found: dict[str, TaskBest] = {}
    take_better(found, best, "step 1", mta, trained, (task_ids, before, np.array([*clear, *lucky, *worse])))
    assert found == {mta.tasks[0]: TaskBest("step 1", pytest.approx(0.4), pytest.approx(0.0408, abs=1e-4))}
    for name, parameter in trained:
        assert torch.equal(best[name][0], parameter[0])
        assert torch.equal(best[name][1:], torch.full_like(parameter[1:], 7.0))
    take_better(found, best, "step 2", mta, trained, (task_ids, before, before - 0.1))
    assert [at.state for at in found.values()] == ["step 1", "step 2", "step 2"]


def test_where_no_step_does_better_every_task_ends_as_it_began(
    domain: Domain, taught: Path, train: Train, tmp_path: Path
) -> None:
    way = {"trains": ["task_adapters"], "gate": "hard", "best_by_task": True, "steps": 3, "learning_rate": 300.0}
    result, _ = train(two(domain, taught, tmp_path, **way))
    assert result.validation.by_task == {}
    assert all(torch.equal(t, tensors(taught)[name]) for name, t in tensors(tmp_path).items())
    assert result.validation.losses["after"] == result.validation.losses["before"]


def test_a_task_that_does_better_ends_with_that_and_no_task_with_worse(
    domain: Domain, taught: Path, train: Train, tmp_path: Path
) -> None:
    result, rows = train(two(domain, taught, tmp_path, **STRENGTHS, steps=8, learning_rate=3e-3))
    found, losses = result.validation.by_task, result.validation.losses
    assert found
    for task, before in losses["before"].items():
        gain = found[task].gain if task in found else 0.0
        assert losses["after"][task] == pytest.approx(before - gain, abs=1e-6)
    assert next(row for row in rows if row.get("when") == "after")["by_task"].keys() == found.keys()
    mta, _, _ = load_bundle(tmp_path / "bundle", domain.backbone)
    assert {layer.gate.mode for layer in mta.layers} == {"strength"}


@pytest.mark.parametrize("way", [STRENGTHS, {"trains": ["adapters"], "gate": "hard", "average": 0.8}], ids=str)
def test_a_stage_that_is_stopped_ends_as_one_that_is_not(
    way: dict[str, Any], domain: Domain, taught: Path, train: Train, tmp_path: Path
) -> None:
    train(two(domain, taught, tmp_path / "whole", **way, steps=6, learning_rate=3e-3))
    job = two(domain, taught, tmp_path / "stopped", **way, steps=6, learning_rate=3e-3)
    asked = iter([False] * 3 + [True] * 9)
    with pytest.raises(Stopped):
        run(job, lambda **_: None, lambda: next(asked))
    train(job)
    whole = tensors(tmp_path / "whole")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors(tmp_path / "stopped").items())


def test_the_mean_of_the_last_steps_is_what_an_averaging_stage_ends_with(
    domain: Domain, train: Train, tmp_path: Path
) -> None:
    common = {"schedule": "constant", "warmup": 0}
    for name, fields in {"three": {"steps": 3}, "four": {"steps": 4}, "mean": {"steps": 4, "average": 0.5}}.items():
        train(domain.job(tmp_path / name, stage_one={**common, **fields}))
    three, four, mean = (tensors(tmp_path / name) for name in ("three", "four", "mean"))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (three[name] + four[name]) / 2)


def test_rows_that_stage_one_leaves_are_what_stage_two_learns_from(domain: Domain) -> None:
    _, tokenizer = load_backbone(domain.backbone)
    every = partial(encode_rows, domain.dataset, "train", domain.spec, tokenizer)
    whole = every()
    parts = [every(wanted=lambda text: not is_left(0.3, text)), every(wanted=lambda text: is_left(0.3, text))]
    assert sum(map(len, parts)) == len(whole)
    assert 0.1 < len(parts[1]) / len(whole) < 0.5


def test_a_stage_that_leaves_rows_takes_no_fewer_steps(domain: Domain, train: Train, tmp_path: Path) -> None:
    result, _ = train(domain.job(tmp_path, epochs=0.1, steps=None, leaves=0.9))
    whole = sum(domain.dataset.counts("train").values())
    assert result.cost.steps == -(-whole // (10 * domain.spec.stage_one.rows_per_step))


def test_adapters_are_dropped_less_and_less_and_by_task() -> None:
    given = stage(trains=["adapters"], gate="hard", drop_adapters=0.5, steps=400)
    dropped = np.zeros((400, 4))
    for step in range(400):
        dropped[step, dropped_at(given, step, 400, 4, seed=0)] = 1
    quarters = dropped.reshape(4, 100, 4).mean((1, 2))
    assert quarters == pytest.approx([0.4375, 0.3125, 0.1875, 0.0625], abs=0.08)
    assert len({tuple(row) for row in dropped[:50]}) > 8  # each task for itself


def test_dropped_adapters_learn_on_the_other_steps(domain: Domain, train: Train, tmp_path: Path) -> None:
    results = [train(domain.job(tmp_path / str(p), **BOTH, steps=4, drop_adapters=p))[0] for p in (0.0, 0.9)]
    assert results[0].trained_digest != results[1].trained_digest


def test_gates_that_are_held_stay_nearer_to_where_they_began(
    domain: Domain, taught: Path, train: Train, tmp_path: Path
) -> None:
    moved = []
    for hold in (0.0, 10.0):
        way = {"trains": ["gates"], "gate": "signed", "hold": hold, "gate_learning_rate": 0.05, "steps": 12}
        result, _ = train(two(domain, taught, tmp_path / str(hold), **way))
        pairs = [
            abs(weight - result.gates["before"][layer][task][name])
            for layer, rows in result.gates["after"].items()
            for task, weights in rows.items()
            for name, weight in weights.items()
        ]
        moved.append(max(pairs))
    assert 0 < moved[1] < moved[0] / 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"trains": ["adapters"], "gate": "hard", "best_by_task": True}, "train task_adapters and gates alone"),
        ({"best_by_task": True}, "adapters that other tasks chose"),
        ({"gate": "signed", "trains": ["task_adapters", "gates"], "best_by_task": True}, "set gate: strength or hard"),
        ({"gate": "strength", "best_by_task": True, "patience": 2}, "drop patience"),
        ({"average": 0.5, "evaluate_every": 2}, "drop what asks for its best"),
        ({"hold": 0.1}, "holds gates that are signed or strength; this one is soft"),
        ({"drop_adapters": 0.3}, "dropped where gates are hard only"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        stage(**fields)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"stage_one": {"leaves": 0.1}, "stage_two": None}, "keeps rows for it"),
        ({"stage_two": {"leaves": 0.1}}, "no stage comes after this one"),
        (
            {"stage_one": {"drop_adapters": 0.1}, "mta": {"shared_adapters": 0, "shared_place": "beside"}},
            "shared adapter",
        ),
        ({"mta": {"mixing": "output"}, "stage_two": {"gate": "signed"}}, "mixing: weight"),
    ],
)
def test_stages_that_do_not_fit_the_domain_are_refused(parts: dict[str, Any], says: str, domain: Domain) -> None:
    values = domain.spec.model_dump(mode="json")
    for name, changes in parts.items():
        values[name] = changes if changes is None else {**values[name], **changes}
    with pytest.raises(ValidationError, match=says):
        type(domain.spec).model_validate(values)


def test_a_rows_loss_is_its_own_whatever_line_it_lies_on(domain: Domain, train: Train, tmp_path: Path) -> None:
    kept: dict[str, Any] = {}

    real = Training.validation_losses

    def looked(job: Training, forward: TargetForward) -> Losses:
        kept["rows"], kept["losses"], kept["mta"] = job.validation, real(job, forward), job.mta
        return kept["losses"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "validation_losses", looked)
        train(domain.job(tmp_path, steps=1))
    rows, mta = kept["rows"], kept["mta"]
    for row in (0, 5, len(rows) - 1):
        ids = torch.from_numpy(np.concatenate((rows.prompts[row], rows.targets[row]))).long()
        answer = len(rows.targets[row])
        with torch.no_grad(), mta.routing(torch.tensor([rows.task_ids[row]])):
            logits = mta.model(input_ids=ids[None, :-1], use_cache=False).logits[0, -answer:]
        alone = torch.nn.functional.cross_entropy(logits.float(), ids[-answer:])
        assert kept["losses"][row] == pytest.approx(float(alone), rel=1e-3)
