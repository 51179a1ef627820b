"""Refresh: some tasks of a bundle learn anew, and the others stay as they are, to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alter_core.errors import SpecError
from alter_core.mta import load_bundle
from alter_core.training.refresh import take_back
from alter_core.training.result import StageResult
from alter_core.training.subject import digest_of_others
from tests.training.conftest import Domain

Train = Callable[..., Any]
BOTH = {"trains": ["adapters"], "active": "all"}


@pytest.fixture(scope="module")
def strength(domain: Domain, train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose tasks are apart, each with strengths of its own."""
    folder = tmp_path_factory.mktemp("strength")
    train(domain.job(folder / "one", **BOTH, steps=8, learning_rate=3e-3))
    way = {"trains": ["gates"], "gate": "strength", "gate_learning_rate": 0.05}
    train(domain.job(folder / "two", "stage_two", start=folder / "one" / "bundle", **way, steps=4))
    return folder / "two" / "bundle"


def refresh(domain: Domain, start: Path, output: Path, *tasks: str) -> Any:
    both = {**BOTH, "learning_rate": 1e-2, "weight_decay": 0.1, "steps": None, "epochs": 3}
    return domain.job(output, "refresh", start=start, refreshed=tasks, stage_one=both)


def test_refreshed_tasks_learn_and_all_that_is_the_others_stays_to_the_bit(
    domain: Domain, strength: Path, train: Train, tmp_path: Path
) -> None:
    result, _ = train(refresh(domain, strength, tmp_path, "match"))
    (before, _, _), (after, _, _) = (load_bundle(path, domain.backbone) for path in (strength, tmp_path / "bundle"))
    digests = [digest_of_others(mta, [], ["match"]) for mta in (before, after)]
    assert digests == [result.untouched_digest] * 2
    assert set(result.validation.by_task) == {"match"}
    assert result.validation.losses["after"]["match"] < result.validation.losses["before"]["match"]
    assert set(result.validation.losses["after"]) == {"match"}
    rows = torch.tensor([[5, 6, 7, 8]] * 3)
    answers = []
    for mta in (before, after):
        with torch.no_grad(), mta.routing(["colour", "thing", "match"]):
            answers.append(mta.model(input_ids=rows).logits)
    assert [torch.equal(*pair) for pair in zip(*answers, strict=True)] == [True, True, False]


def test_where_tasks_reach_each_others_adapters_none_can_be_refreshed_alone(
    domain: Domain, strength: Path, train: Train, tmp_path: Path
) -> None:
    one = strength.parents[1] / "one" / "bundle"
    train(domain.job(tmp_path / "soft", "stage_two", start=one, trains=["gates"], steps=1))
    with pytest.raises(SpecError, match=r"gates are soft; train all tasks, with stage_two > gate: strength"):
        train(refresh(domain, tmp_path / "soft" / "bundle", tmp_path / "refreshed", "match"))


@pytest.mark.parametrize("tasks", [("stranger",), ()])
def test_a_refresh_of_tasks_that_are_not_there_is_refused(
    tasks: tuple[str, ...], domain: Domain, strength: Path, train: Train, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="name tasks of the spec: colour, match, thing"):
        train(refresh(domain, strength, tmp_path, *tasks))


def test_a_refreshed_task_gets_its_own_weights_back_and_the_others_keep_their_new_ones(
    domain: Domain, strength: Path, train: Train, tmp_path: Path
) -> None:
    train(refresh(domain, strength, tmp_path / "both", "match", "colour"))
    start = tmp_path / "both" / "bundle"
    job = domain.job(tmp_path / "back", "refresh", start=start, refreshed=("match",), taken_back=strength)
    (job.output / "metrics.jsonl").parent.mkdir()
    (tmp_path / "both" / "metrics.jsonl").touch()
    result = take_back(job)
    before, both, back = (load_bundle(path, domain.backbone)[0] for path in (strength, start, job.output / "bundle"))
    assert digest_of_others(back, [], ["colour"]) == digest_of_others(before, [], ["colour"])
    assert digest_of_others(back, [], ["match"]) == digest_of_others(both, [], ["match"])
    assert set(result.validation.by_task) <= {"colour"}
    assert StageResult.read(job.output / "result.json") == result
