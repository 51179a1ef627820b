"""Arms held against each other by loss alone."""

from pathlib import Path
from typing import Any

import pytest

from alter_core.ablation.arm import Arm
from alter_core.ablation.duration import expected_seconds
from alter_core.ablation.job import run
from alter_core.ablation.screening import Screening, to_markdown
from alter_core.ablation.trials import SPLITS
from alter_core.errors import SpecError
from tests.ablation.test_ablation import Told, bench, job_for, ready

__all__ = ["ready"]
BOTH = {"trains": ["shared_adapters", "task_adapters"], "active": "all"}
GATES = {"trains": ["gates"], "gate": "strength", "steps": 4}
VARIANTS = {
    "at_rest": {"stage_one": BOTH, "stage_two": {**GATES, "gate_learning_rate": 1e-30}},
    "strength": {"stage_one": BOTH, "stage_two": {**GATES, "gate_learning_rate": 0.5}},
}
ARMS = ("mta_stage_one", "at_rest", "strength")


def screened(ready: dict[str, Any], folder: Path, **changes: Any) -> tuple[Screening, Told]:
    log = Told()
    job = job_for(ready, folder, screen=True, **{"arms": ARMS, "variants": VARIANTS, **changes})
    found = run(job, log, log.stopped)
    assert isinstance(found, Screening)
    return found, log


@pytest.fixture(scope="module")
def first(ready: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Screening, Path, Told]:
    folder = tmp_path_factory.mktemp("screening")
    return *(found := screened(ready, folder))[:1], folder, found[1]


def test_arms_are_held_against_the_first_one_and_against_their_own_stage_one(
    first: tuple[Screening, Path, Told],
) -> None:
    found, folder, _ = first
    control, at_rest, strength = found.arms
    assert [arm.name for arm in found.arms] == list(ARMS)
    assert control.against_first is None
    assert control.against_stage_one is None
    assert at_rest.against_stage_one
    assert at_rest.against_stage_one.value == 0
    assert strength.against_stage_one
    assert strength.against_stage_one.value != 0
    for arm in (at_rest, strength):
        assert arm.against_first
        assert arm.against_first.value == pytest.approx(arm.losses["test"] - control.losses["test"])
        assert arm.against_first.low <= arm.against_first.value <= arm.against_first.high
        assert set(arm.tasks) == {"colour", "match", "thing"}
    assert Screening.read(folder / "screening.json") == found
    assert (folder / "screening.md").read_text(encoding="utf-8") == to_markdown(found)


def test_nothing_is_answered_and_arms_that_share_a_stage_one_train_it_once(first: tuple[Screening, Path, Told]) -> None:
    found, folder, log = first
    assert not [row for row in log.rows if row["phase"].startswith("score")]
    assert not [*folder.glob("trials/*/validation.json"), *folder.glob("trials/*/test.json")]
    trained = {arm: len([row for row in log.of("train") if row["arm"] == arm]) for arm in ARMS}
    assert trained["strength"] == GATES["steps"] * len(found.arms[0].seeds)
    assert trained["at_rest"] > trained["strength"]


def test_a_second_screening_trains_nothing(first: tuple[Screening, Path, Told], ready: dict[str, Any]) -> None:
    found, folder, _ = first
    again, log = screened(ready, folder)
    assert again == found
    assert not log.of("train")
    assert log.of("ablate")[0]["seconds_left"] == 0


def test_its_losses_are_those_that_an_ablation_takes(
    first: tuple[Screening, Path, Told], ready: dict[str, Any], tmp_path: Path
) -> None:
    log = Told()
    table = run(job_for(ready, tmp_path, arms=ARMS, variants=VARIANTS, seeds=1, max_rates=1), log, log.stopped)
    assert not isinstance(table, Screening | None)
    single, _ = screened(ready, tmp_path, seeds=1)
    for arm in single.arms:
        (theirs,) = (row.losses for row in table.arms if row.name == arm.name)
        assert theirs
        assert arm.losses == {split: pytest.approx(theirs.mean[split]) for split in SPLITS}


def test_screenings_side_by_side_find_the_same(ready: dict[str, Any], tmp_path: Path) -> None:
    single = {"seeds": 1, "max_rates": 1}  # each trial is a process of its own, and costs its imports
    found, _ = screened(ready, tmp_path / "together", at_once=2, code="", **single)
    wanted, _ = screened(ready, tmp_path / "one_by_one", **single)
    for ours, theirs in zip(found.arms, wanted.arms, strict=True):
        assert ours.losses == {split: pytest.approx(loss, abs=1e-4) for split, loss in theirs.losses.items()}


def test_each_arm_takes_the_rate_of_the_least_validation_loss(ready: dict[str, Any], tmp_path: Path) -> None:
    found, _ = screened(ready, tmp_path, arms=("mta_stage_one",), rates=(1e-5, 1e-3), seeds=1)
    (arm,) = found.arms
    assert arm.grid["0.001"] < arm.grid["1e-05"]
    assert arm.rate == 1e-3


def test_what_is_expected_is_of_reading_the_top_and_of_no_answers(
    first: tuple[Screening, Path, Told], ready: dict[str, Any], tmp_path: Path
) -> None:
    begin = first[2].of("ablate")[0]
    assert begin["seconds_left"] > 0
    assert "widened" not in begin["text"]
    stage = ready["spec"].stage_one.model_copy(update={"steps": 10, "rows_per_step": 4})
    arms = [Arm("one", "one", "mta", ready["spec"].model_copy(update={"stage_one": stage, "stage_two": None}))]
    counts = {"train": {"tone": 100}, "validation": {"tone": 1}, "test": {"tone": 1000}}
    guess = expected_seconds(bench(ready, tmp_path, screen=True), arms, counts)["one"]
    assert guess.first / guess.test == pytest.approx(3 * 10 * 4 / 1000)  # forward and backward, and forward


def test_arms_that_do_not_train_are_left_out_and_nothing_else_is_an_error(
    ready: dict[str, Any], tmp_path: Path
) -> None:
    found, _ = screened(ready, tmp_path, arms=("zero_shot", "mta_stage_one"), seeds=1)
    assert [arm.name for arm in found.arms] == ["mta_stage_one"]
    with pytest.raises(SpecError, match="none of these does"):
        screened(ready, tmp_path, arms=("zero_shot", "bag_of_words"))
