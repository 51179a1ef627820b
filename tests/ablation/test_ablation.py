import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from alter_core.ablation import trials
from alter_core.ablation.arm import Arm
from alter_core.ablation.arms import USUAL, make_arms
from alter_core.ablation.duration import expected_seconds
from alter_core.ablation.intervals import macro, macro_interval, paired_difference
from alter_core.ablation.job import AblationJob
from alter_core.ablation.job import run as run_job
from alter_core.ablation.overview import overview, read_tables
from alter_core.ablation.page import reading, to_markdown
from alter_core.ablation.peft_arms import PeftHandle
from alter_core.ablation.plot import draw
from alter_core.ablation.table import Comparison, Settings, Table, Tuned, summarise
from alter_core.ablation.trials import Bench, Check, Macro, Trial, TrialCost
from alter_core.backbone import load_backbone, resolve_backbone
from alter_core.data.dataset import TaskDataset
from alter_core.data.ingest import ingest
from alter_core.errors import DataError, Diverged, SpecError, Stopped, TrainingError
from alter_core.evaluation.metrics import Interval
from alter_core.evaluation.scorecard import Scorecard
from alter_core.job import Log, StopAsked
from alter_core.mta import inject
from alter_core.spec import StageSpec
from alter_core.spec.domain import EvaluationSpec
from alter_core.spec.load import load_domain
from alter_core.training.result import StageResult
from alter_core.training.stages import enter_stage
from alter_core.workspace import Workspace
from tests.conftest import tiny_spec, write_domain


@pytest.fixture(scope="module")
def ready(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("ablation")
    workspace = Workspace(home / "home")
    values = tiny_spec(tiny_backbone) | {"evaluation": {"max_rows": 6, "max_validation_rows": 4}}
    spec = load_domain(write_domain(home / "domain", values))
    dataset = ingest(spec, home / "domain", workspace)
    return {
        "spec": spec.with_labels(dataset.labels),
        "dataset": dataset.path,
        "backbone": resolve_backbone(spec.backbone, workspace),
        "trunk_cache": workspace.trunk_cache,
    }


def run(job: AblationJob, log: Log, stop_asked: StopAsked) -> Table:
    """The table of a job that is to make one."""
    table = run_job(job, log, stop_asked)
    assert isinstance(table, Table)
    return table


def job_for(ready: dict[str, Any], folder: Path, **changes: Any) -> AblationJob:
    given = {"output": folder, "metrics": folder / "metrics.jsonl", "seeds": 2, "rates": (1e-3,), "max_rates": 2}
    return AblationJob.model_validate(ready | given | changes)


class Told:
    """Rows told so far, and a stop after so many of a phase."""

    def __init__(self, phase: str = "", stop_after: int = 0) -> None:
        self.rows: list[dict[str, Any]] = []
        self.phase, self.stop_after = phase, stop_after

    def __call__(self, **fields: Any) -> None:
        self.rows.append(json.loads(json.dumps(fields)))

    def of(self, phase: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["phase"] == phase]

    def stopped(self) -> bool:
        return bool(self.stop_after) and len(self.of(self.phase)) >= self.stop_after


@pytest.fixture(scope="module")
def finished(ready: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, Path, Told]:
    """A whole ablation of the tiny domain with every arm and one variant."""
    folder, log = tmp_path_factory.mktemp("table"), Told()
    variants = {"r2": {"mta": {"shared_place": "beside", "shared_adapter": "lora"}, "stage_one": {"active": "all"}}}
    return run(job_for(ready, folder, variants=variants), log, log.stopped), folder, log


def test_every_arm_is_in_the_table_with_what_a_reader_asks_for(finished: tuple[Table, Path, Told]) -> None:
    table, folder, _ = finished
    arms = {arm.name: arm for arm in table.arms}
    assert list(arms) == [
        "zero_shot",
        "bag_of_words",
        "plain_multi_task",
        "mta_two_stages",
        "mta_stage_one",
        "mta_one_stage",
        "peft_lora",
        "single_task",
        "peft_poly",
        "r2",
    ]
    for arm in arms.values():
        assert arm.macro.low <= arm.macro.value <= arm.macro.high
        assert arm.macro.value == pytest.approx(np.mean([task.value for task in arm.tasks.values()]))
        untrained = arm.name in ("zero_shot", "bag_of_words")
        assert arm.seeds == ((0,) if untrained else (0, 1))
        assert (arm.trained_parameters > 0) == (not untrained)
        assert arm.precision == (() if untrained else ("fp32",))
    assert json.loads((folder / "ablation.json").read_text()) == json.loads(json.dumps(table.to_json()))
    assert Table.read(folder / "ablation.json") == table
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert to_markdown(table) == (folder / "ablation.md").read_text()


SETTINGS = Settings({"a": 1}, {"a": 1}, {"a": 1}, 1, 1, 2, (1e-3,), False, None)


def summary(ready: dict[str, Any], **given: tuple[int, float, float]) -> Table:
    """The table of arms that have so many seeds, such a test score and such a validation score."""
    arms = [arm for arm in make_arms(ready["spec"], ready["backbone"], 100) if arm.name in given]
    trials: dict[str, Any] = {arm.name: [] for arm in arms}
    for name, (seeds, score, validation) in given.items():
        rows = {task: dict.fromkeys("abc", score) for task in ready["spec"].task_names}
        for seed in range(seeds):
            rate = None if name in ("zero_shot", "bag_of_words") else 1e-3
            check = Check(name, rate, seed, Macro(validation), TrialCost({}), "fp32")
            card = Scorecard({}, Interval(score, score, score), rows)
            trials[name].append(
                SimpleNamespace(
                    seed=seed,
                    rate=rate,
                    test=lambda card=card: card,
                    validation=lambda check=check: check,
                    score=lambda value=validation: value,
                    losses=lambda _: None,
                )
            )
    return summarise(ready["spec"], arms, trials, {name: Tuned(1e-3, {}, False) for name in trials}, SETTINGS)


def test_an_arm_with_fewer_seeds_than_others_is_not_compared_yet(ready: dict[str, Any]) -> None:
    table = summary(
        ready,
        zero_shot=(1, 0.1, 0.1),
        plain_multi_task=(2, 0.5, 0.5),
        mta_two_stages=(2, 0.6, 0.6),
        mta_one_stage=(1, 0.9, 0.9),
    )
    assert (table.comparison.mta, table.comparison.baseline) == ("mta_two_stages", "plain_multi_task")
    differences = {arm.name: arm.difference and round(arm.difference.value, 3) for arm in table.arms}
    assert differences == {
        "zero_shot": -0.4,
        "plain_multi_task": None,
        "mta_two_stages": 0.1,
        "mta_one_stage": None,
    }


def test_a_bag_of_words_is_named_where_it_is_ahead_and_is_never_the_best_baseline(ready: dict[str, Any]) -> None:
    table = summary(ready, bag_of_words=(1, 0.9, 0.9), plain_multi_task=(2, 0.5, 0.5), mta_two_stages=(2, 0.6, 0.6))
    assert table.comparison
    assert table.comparison.baseline == "plain_multi_task"
    assert "A bag of words or copy is ahead of MTA, two stages on colour (0.900 for 0.600), " in to_markdown(table)
    behind = summary(ready, bag_of_words=(1, 0.1, 0.1), mta_two_stages=(2, 0.6, 0.6))
    assert "A bag of words or copy is ahead of MTA, two stages on no task." in to_markdown(behind)


def test_the_plot_spans_the_arms_that_were_trained(ready: dict[str, Any]) -> None:
    table = summary(ready, zero_shot=(1, 0.1, 0.1), plain_multi_task=(2, 0.5, 0.5), mta_two_stages=(2, 0.6, 0.6))
    scores, differences = draw(table).axes
    low, high = scores.get_xlim()
    assert 0.4 < low < 0.5
    assert 0.6 < high < 0.7
    assert [text.get_text() for text in scores.texts] == ["0.600", "0.500", "\u25c2 0.100"]
    assert differences.get_xlabel() == "against plain multi-task, paired"
    assert differences.get_xlim()[0] < 0.0  # of the reference, beside +0.1
    assert [text.get_text() for text in differences.texts] == ["+0.100", "\u25c2 -0.400"]


def test_the_plot_has_scores_alone_while_nothing_is_compared(ready: dict[str, Any]) -> None:
    (scores,) = draw(summary(ready, zero_shot=(1, 0.1, 0.1))).axes
    assert [text.get_text() for text in scores.texts] == ["0.100"]


def test_the_arms_that_are_compared_are_best_on_validation_rows_and_not_on_test_rows(ready: dict[str, Any]) -> None:
    table = summary(
        ready,
        plain_multi_task=(2, 0.7, 0.4),
        mta_two_stages=(2, 0.6, 0.8),
        mta_one_stage=(2, 0.9, 0.3),
        single_task=(2, 0.5, 0.6),
    )
    assert (table.comparison.mta, table.comparison.baseline) == ("mta_two_stages", "single_task")
    assert table.comparison.value == pytest.approx(0.1)


def test_arms_that_differ_in_stage_two_train_their_stage_one_once(ready: dict[str, Any], tmp_path: Path) -> None:
    log, spec = Told(), ready["spec"]
    variants = {"long": {"stage_two": {"steps": 5}}, "other": {"stage_one": {"steps": 7}}}
    job = job_for(ready, tmp_path, variants=variants, arms=("mta_two_stages", *variants), seeds=1, max_rates=1)
    table = run(job, log, log.stopped)
    begun = [row["text"].split()[0] for row in log.of("start")]
    assert sorted(begun) == ["stage_one"] * 2 + ["stage_two"] * 3
    assert [[cost.steps for cost in arm.cost.stages.values()] for arm in table.arms] == [[6, 3], [6, 5], [7, 3]]
    together, alone = (row["text"] for row in log.of("shared"))
    assert together.startswith(
        f"{table.arms[0].title}, MTA, long: one stage one for all at each rate and seed, 6 steps of"
    )
    assert "one more variant that begins with it costs a trial 3 steps" in together
    assert alone.startswith("MTA, other: a stage one of its own")
    later = {"later": {"stage_two": {"steps": 2}}}
    run(job.model_copy(update={"variants": later, "arms": ("later",)}), log, log.stopped)
    assert [row["text"].split()[0] for row in log.of("start")[5:]] == ["stage_two"]
    assert all(task.name in table.metrics for task in spec.tasks)


def test_losses_of_the_same_rows_and_seeds_are_compared_beside_scores(finished: tuple[Table, Path, Told]) -> None:
    table, folder, _ = finished
    arms = {arm.name: arm for arm in table.arms}
    assert {name for name, arm in arms.items() if arm.losses is None} == {"zero_shot", "bag_of_words"}
    assert table.comparison
    references = {table.comparison.baseline, "mta_two_stages"} - {"zero_shot"}
    for name, arm in arms.items():
        if arm.losses:
            assert set(arm.losses.against) == references - {name}
    ours, theirs = arms["mta_stage_one"].losses, arms["mta_two_stages"].losses
    assert ours
    assert theirs
    for split in ("validation", "test"):
        found = ours.against["mta_two_stages"][split]
        assert found.low <= found.value <= found.high
        assert found.value == pytest.approx(ours.mean[split] - theirs.mean[split])
    assert "| loss, validation rows | loss, test rows | against " in (folder / "ablation.md").read_text()


def test_a_trials_loss_is_the_validation_loss_that_training_takes(ready: dict[str, Any], tmp_path: Path) -> None:
    told = Told()
    spec = ready["spec"].model_copy(update={"evaluation": EvaluationSpec()})  # all rows, which training looks at too
    trial = Trial(bench(ready, tmp_path, spec=spec, log=told), Arm("two", "two", "mta", spec), 1e-3, 0)
    trial.validation()
    (after,) = [row["losses"] for row in told.of("validate") if row["when"] == "after"][1:]
    losses = trial.losses("validation")
    assert losses
    assert {task: np.mean(list(rows.values())) for task, rows in losses.tasks.items()} == pytest.approx(after, abs=1e-5)


def test_a_readers_table_has_a_row_for_each_ablation(ready: dict[str, Any]) -> None:
    table = summary(ready, bag_of_words=(1, 0.4, 0.4), plain_multi_task=(2, 0.5, 0.5), mta_two_stages=(2, 0.6, 0.6))
    head, _, row, again = overview([table, table]).splitlines()
    assert head.startswith("| domain | best baseline | bag of words | stage one | two stages |")
    assert row == again
    assert row.startswith("| tiny | 0.500 (plain multi-task) | 0.400 |  |")


@pytest.mark.parametrize("name", ["ablation", "ablation-scholarly", "ablation-clinical"])
def test_tables_of_earlier_releases_are_read(name: str) -> None:
    (table,) = read_tables([Path("benchmarks/results") / f"{name}.json"])
    assert table.comparison
    assert table.comparison.mta == "mta_two_stages"
    with pytest.raises(DataError, match=r"nothing\.json"):
        read_tables([Path("nothing.json")])


def test_a_longer_ablation_lengthens_variants_too(ready: dict[str, Any], tmp_path: Path) -> None:
    variants = {"short": {"stage_one": {"steps": 2}, "stage_two": {"steps": 1}}}
    job = job_for(ready, tmp_path, variants=variants, arms=("short",), seeds=1, steps_factor=3.0)
    (arm,) = run(job, lambda **_: None, lambda: False).arms
    assert [cost.steps for cost in arm.cost.stages.values()] == [6, 3]


def test_the_expected_duration_comes_first(finished: tuple[Table, Path, Told]) -> None:
    first, *_, last = finished[2].rows
    assert first["phase"] == last["phase"] == "ablate"
    assert first["seconds_left"] > 0
    assert "hours" in first["text"]
    assert (last["done"], last["seconds_left"]) == (last["total"], 0)


def test_what_stays_of_a_trial_holds_no_text_of_rows(finished: tuple[Table, Path, Told]) -> None:
    kept = [file.read_text() for file in (finished[1] / "trials").glob("*/*.json")]
    assert len(kept) > 10
    assert not [text for text in kept if "kitchen" in text or "cellar" in text]


def test_weights_do_not_stay_on_disk_but_for_a_stage_one_that_others_may_begin_with(
    finished: tuple[Table, Path, Told],
) -> None:
    kept = {file.relative_to(finished[1]).parts[0] for file in finished[1].rglob("*.safetensors")}
    assert kept == {"stages"}


def test_a_second_run_trains_nothing(finished: tuple[Table, Path, Told], ready: dict[str, Any]) -> None:
    table, folder, _ = finished
    log = Told()
    names = [arm.name for arm in table.arms if arm.name != "r2"]
    again = run(job_for(ready, folder, arms=names), log, log.stopped)
    assert not log.of("train")
    assert log.rows[0]["seconds_left"] == 0
    assert log.rows[-1]["done"] == log.rows[-1]["total"] == log.rows[0]["total"]
    assert tuple(arm for arm in table.arms if arm.name != "r2") == again.arms


def test_a_stopped_ablation_goes_on_and_ends_with_the_same_table(
    finished: tuple[Table, Path, Told], ready: dict[str, Any], tmp_path: Path
) -> None:
    names = ["plain_multi_task", "mta_two_stages", "peft_lora"]
    runs = 0
    for after in (4, 9, 0):
        log = Told("train", after)
        try:
            table = run(job_for(ready, tmp_path, arms=names), log, log.stopped)
        except Stopped:
            runs += 1
    assert runs == 2
    wanted = {arm.name: arm.macro for arm in finished[0].arms if arm.name in names}
    assert {arm.name: arm.macro for arm in table.arms} == wanted


@pytest.mark.parametrize("arm", ["mta_two_stages", "peft_lora"])
def test_a_resumed_trial_computes_as_it_began(
    arm: str, ready: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_for(ready, tmp_path, seeds=1, max_rates=1, arms=[arm])
    log = Told("train", 3)
    with pytest.raises(Stopped):
        run(job, log, log.stopped)
    # the measurement now falls out differently
    monkeypatch.setattr("alter_core.training.run.choose_precision", lambda *_: ("bf16", 2.0))
    [row] = run(job, Told(), lambda: False).arms
    assert row.precision == ("fp32",)


def test_trials_side_by_side_give_the_same_table(
    finished: tuple[Table, Path, Told], ready: dict[str, Any], tmp_path: Path
) -> None:
    names = ["zero_shot", "peft_lora"]
    log = Told()
    table = run(job_for(ready, tmp_path, arms=names, seeds=1, max_rates=1, at_once=2), log, log.stopped)
    wanted = {arm.name: arm.macro_by_seed[0] for arm in finished[0].arms}
    assert {arm.name: arm.macro_by_seed for arm in table.arms} == {name: (wanted[name],) for name in names}
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {row["arm"] for row in rows if row["phase"] == "train"} == {"peft_lora"}
    assert log.rows[-1]["done"] == log.rows[-1]["total"]


def test_a_trial_that_fails_beside_others_stops_them_and_is_told(ready: dict[str, Any], tmp_path: Path) -> None:
    beside = {"adapter": "lora", "shared_adapters": 1, "shared_adapter": "ffn", "shared_place": "beside"}
    undone = {"mta": beside, "stage_one": {"trains": ["task_adapters"], "active": "all", "start": "shared"}}
    job = job_for(ready, tmp_path, arms=["undone", "peft_lora"], variants={"undone": undone}, max_rates=1, at_once=2)
    with pytest.raises(TrainingError, match=r"exit code 2(.|\n)*start shared: task adapters are lora"):
        run(job, lambda **_: None, lambda: False)


def test_a_rate_at_which_training_diverges_is_not_taken(ready: dict[str, Any], tmp_path: Path) -> None:
    job = job_for(ready, tmp_path, arms=["plain_multi_task"], seeds=1, rates=(1e-3, 1e30), max_rates=2)
    (arm,) = run(job, lambda **_: None, lambda: False).arms
    assert arm.rate == 1e-3
    assert arm.grid["1e+30"] is None
    hopeless = job_for(ready, tmp_path / "none", arms=["plain_multi_task"], seeds=1, rates=(1e30,), max_rates=1)
    with pytest.raises(TrainingError, match=r"diverges at every rate(.|\n)*rate 1e\+30: (.|\n)*the loss is nan"):
        run(hopeless, lambda **_: None, lambda: False)


def test_an_ablation_goes_on_from_trials_that_diverged(
    ready: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"arms": ["zero_shot", "plain_multi_task"], "rates": (1e-3, 1e30), "max_rates": 2}
    run(job_for(ready, tmp_path, seeds=1, **changes), lambda **_: None, lambda: False)
    train = Trial._train

    def diverge(trial: Trial) -> dict[str, StageResult]:
        if trial.seed == ready["spec"].seed + 1:
            raise Diverged("the loss is nan")
        return train(trial)

    monkeypatch.setattr(Trial, "_train", diverge)
    for again in (False, True):
        if again:  # nothing is trained any more
            monkeypatch.setattr(Trial, "_train", None)
        _, arm = run(job_for(ready, tmp_path, seeds=3, **changes), lambda **_: None, lambda: False).arms
        assert (arm.seeds, arm.diverged) == ((0, 2), (1,))
    table = Table.read(tmp_path / "ablation.json")
    assert table
    assert "plain multi-task diverged at seed 1.\n" in to_markdown(table)
    other = replace(table.arms[1], diverged=(), seeds=(0, 1, 2))
    assert "at seed 1. Its other seeds are not compared.\n" in to_markdown(replace(table, arms=(*table.arms, other)))


def test_without_validation_rows_nothing_is_trained(
    ready: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"train": {"a": 5}, "validation": {"a": 0, "b": 0}, "test": {"a": 2}}
    monkeypatch.setattr("alter_core.ablation.job._row_counts", lambda *_: counts)
    log = Told()
    with pytest.raises(SpecError, match="there are none: raise split > validation"):
        run(job_for(ready, tmp_path), log, log.stopped)
    assert not log.rows


def test_tasks_of_macro_f1_are_compared_by_accuracy_and_the_table_says_so(
    ready: dict[str, Any], tmp_path: Path
) -> None:
    tasks = tuple(t.model_copy(update={"metrics": ("macro_f1",)}) if t.labels else t for t in ready["spec"].tasks)
    spec = ready["spec"].model_copy(update={"tasks": tasks})
    table = run(job_for({**ready, "spec": spec}, tmp_path, arms=["zero_shot"]), lambda **_: None, lambda: False)
    assert table.metrics == {"colour": "accuracy", "match": "accuracy", "thing": "rouge_l"}


def test_arms_that_train_on_other_numbers_of_rows_are_named(finished: tuple[Table, Path, Told]) -> None:
    table = finished[0]
    assert "But " not in to_markdown(table)
    arms = [replace(arm, rows=144) if arm.name == "plain_multi_task" else arm for arm in table.arms]
    told = to_markdown(replace(table, arms=tuple(arms)))
    assert "But plain multi-task (144 rows in all for 72)." in told


def test_parameters_that_both_stages_train_count_once(finished: tuple[Table, Path, Told]) -> None:
    (arm,) = (arm for arm in finished[0].arms if arm.name == "mta_two_stages")
    # Stage one trains the shared adapter, stage two the task adapters and gates.
    assert arm.trained_parameters == sum(cost.trained_parameters for cost in arm.cost.stages.values())


def test_a_stop_ends_trials_side_by_side_and_loses_nothing(ready: dict[str, Any], tmp_path: Path) -> None:
    job = job_for(ready, tmp_path, arms=["plain_multi_task"], seeds=1, max_rates=1, at_once=2)
    metrics = tmp_path / "metrics.jsonl"
    with pytest.raises(Stopped):
        run(job, lambda **_: None, lambda: metrics.exists() and '"phase": "train"' in metrics.read_text())
    assert [arm.name for arm in run(job, lambda **_: None, lambda: False).arms] == ["plain_multi_task"]


@pytest.mark.parametrize("arm", ["mta_two_stages", "peft_lora"])
def test_a_scoring_that_was_cut_off_does_not_train_again(arm: str, ready: dict[str, Any], tmp_path: Path) -> None:
    job = job_for(ready, tmp_path, seeds=1, max_rates=1, arms=[arm])

    class Killed(Exception):
        pass

    def die(**fields: Any) -> None:
        if fields["phase"] == "score validation":
            raise Killed

    with pytest.raises(Killed):
        run(job, die, lambda: False)
    log = Told()
    (row,) = run(job, log, log.stopped).arms
    assert not log.of("train")
    assert row.seconds > 0


def test_the_grid_is_widened_until_the_best_rate_is_inside_or_the_limit_is_reached(
    ready: dict[str, Any], tmp_path: Path
) -> None:
    log = Told()
    job = job_for(ready, tmp_path, arms=["plain_multi_task"], seeds=1, rates=(1e-7, 2e-7), max_rates=4)
    [arm] = run(job, log, log.stopped).arms
    tried = {row["text"] for row in log.of("ablate") if "rate" in row["text"]}
    assert len(tried) >= 3  # one of two rates is at an edge whichever is best
    assert arm.rate_at_edge == (len(tried) == 4)


@pytest.mark.parametrize(
    ("rates", "widened", "wanted"),
    [
        ((1e-3, 2e-3), True, "of a grid that begins with 0.001, 0.002 and is widened"),
        ((1e-3, 2e-3), False, "at the first seed, of 0.001, 0.002."),
        ((2e-3,), False, "is 0.002, the same for every arm and tuned for none"),
    ],
)
def test_the_table_says_how_rates_were_chosen(
    finished: tuple[Table, Path, Told], rates: tuple[float, ...], widened: bool, wanted: str
) -> None:
    table = finished[0]
    assert wanted in to_markdown(replace(table, settings=replace(table.settings, rates=rates, widened=widened)))


def test_the_table_says_what_its_intervals_leave_out(finished: tuple[Table, Path, Told]) -> None:
    table = finished[0]
    assert "over seeds and rows." in to_markdown(table)
    alone = tuple(replace(arm, seeds=arm.seeds[:1]) for arm in table.arms)
    assert "seeds differ is not in them" in to_markdown(replace(table, arms=alone))
    some = to_markdown(replace(table, arms=(*table.arms[:-1], alone[-1])))
    assert "over seeds and rows; of arms with one seed, over rows alone." in some


def test_the_table_says_in_which_precision_trials_computed(finished: tuple[Table, Path, Told]) -> None:
    assert "Trials computed in fp32." in to_markdown(finished[0])


@pytest.mark.parametrize(("begun", "later"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_all_trials_compute_in_the_precision_that_was_measured_at_first(
    begun: str, later: str, ready: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(falls_out: str) -> None:
        """As on another machine. A trial that measured for itself would get something else yet."""
        monkeypatch.setattr(
            "alter_core.ablation.job.choose_precision",
            lambda wanted, _: (falls_out, 1.0) if wanted == "auto" else (wanted, None),
        )
        monkeypatch.setattr("alter_core.training.run.choose_precision", lambda wanted, _: (wanted, None))

    spec = ready["spec"].model_copy(update={"precision": "auto"})
    measured(begun)
    one = {"seeds": 1, "max_rates": 1, "spec": spec}
    run(job_for(ready, tmp_path, **one, arms=["plain_multi_task"]), Told(), lambda: False)
    measured(later)
    table = run(job_for(ready, tmp_path, **one, arms=["plain_multi_task", "peft_lora"]), Told(), lambda: False)
    assert [arm.precision for arm in table.arms] == [(begun,), (begun,)]


def test_a_grid_as_long_as_the_limit_is_not_widened(ready: dict[str, Any], tmp_path: Path) -> None:
    job = job_for(ready, tmp_path, arms=["plain_multi_task"], seeds=1, rates=(1e-7,), max_rates=1)
    table = run(job, lambda **_: None, lambda: False)
    (arm,) = table.arms
    assert (list(arm.grid), arm.rate_at_edge, table.settings.widened) == (["1e-07"], False, False)


def trained_parameters(arm: Arm, backbone: Path) -> int:
    """Of the model that the arm's stages train, made for real."""
    assert arm.spec
    if arm.peft:
        return PeftHandle(backbone, arm.spec, arm.peft).parameter_counts()["trained"]
    mta = inject(load_backbone(backbone)[0], arm.spec.mta, arm.spec.task_names)
    trained = {name: p.numel() for stage in arm.spec.stages.values() for name, p in enter_stage(mta, stage, 0)[0]}
    return sum(trained.values())


def test_arms_train_about_as_many_parameters_as_the_two_stage_model(ready: dict[str, Any], tmp_path: Path) -> None:
    backbone = shutil.copytree(ready["backbone"], tmp_path / "six_blocks")
    LlamaForCausalLM(LlamaConfig.from_pretrained(backbone, num_hidden_layers=6)).save_pretrained(backbone)
    spec = ready["spec"].model_copy(
        update={
            "mta": ready["spec"].mta.model_copy(update={"layers": "last_2"}),
            "stage_one": StageSpec(trains=("adapters",), steps=6),
        }
    )
    counts = inject(load_backbone(backbone)[0], spec.mta, spec.task_names).parameter_counts()
    trained = {arm.name: trained_parameters(arm, backbone) for arm in make_arms(spec, backbone, 100) if arm.spec}
    # Ranks and blocks are whole numbers, so that arms cannot be equal: of these shapes the nearest are 8 % off (three
    # blocks of plain multi-task), of others they may be more.
    assert trained == pytest.approx(dict.fromkeys(trained, counts["total"] - counts["backbone"]), rel=0.1)


def test_arms_train_for_as_many_steps_as_both_stages_together(ready: dict[str, Any]) -> None:
    for arm in make_arms(ready["spec"], ready["backbone"], 100):
        if arm.spec:
            stages = list(arm.spec.stages.values())
            assert sum(stage.steps or 0 for stage in stages) == 9


def test_no_variant_can_have_the_name_of_an_arm_that_every_domain_has(ready: dict[str, Any]) -> None:
    assert [arm.name for arm in make_arms(ready["spec"], ready["backbone"], 100)] == list(USUAL)


def test_a_rate_scales_both_stages_alike(ready: dict[str, Any]) -> None:
    two = {arm.name: arm for arm in make_arms(ready["spec"], ready["backbone"], 100)}["mta_two_stages"]
    before, after = two.spec, two.at(8e-3, seed=5)
    assert before is not None
    assert before.stage_two is not None
    assert after.stage_two is not None
    ratio = before.stage_two.learning_rate / before.stage_one.learning_rate
    assert after.stage_two.learning_rate == pytest.approx(8e-3 * ratio)
    assert (after.stage_one.learning_rate, after.seed) == (pytest.approx(8e-3), 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["plain"]}, "no such arm: plain; arms are zero_shot"),
        ({"variants": {"v": {"task": {}}}}, "variant v: task cannot vary"),
        ({"variants": {"v": {"mta": {"rank": 0}}}}, "variant v: mta > rank"),
        ({"variants": {"v": {"mta": 3}}}, "variant v: mta: 3 is no mapping"),
        ({"variants": {"plain_multi_task": {"mta": {"rank": 2}}}}, "variant plain_multi_task: an arm of this name"),
        (
            {"variants": {"v": {"mta": {"rank": 0}, "stage_one": {"steps": -1}}, "w": {"task": {}, "split": {}}}},
            r"v: mta > rank(.|\n)*v: stage_one > steps(.|\n)*w: task cannot vary(.|\n)*w: split cannot vary",
        ),
    ],
)
def test_a_wrong_job_is_refused(ready: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        run(job_for(ready, tmp_path, **changes), Told(), lambda: False)


def rows(*means: float, noise: float = 0.3) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {"t": np.stack([mean + noise * rng.standard_normal(300) for mean in means])}


def test_the_paired_difference_cancels_what_rows_have_in_common() -> None:
    base = rows(0.5)["t"]
    found = paired_difference({"t": base + 0.02}, {"t": base})
    assert found.value == pytest.approx(0.02)
    assert found.low == pytest.approx(0.02)


def test_seeds_that_disagree_widen_the_interval() -> None:
    steady, shaky = rows(0.5, 0.5, 0.5), rows(0.4, 0.5, 0.6)
    widths = [(d := paired_difference(own, rows(0.4))).high - d.low for own in (steady, shaky)]
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize(("luck", "demanded"), [(0.0, 0.95), (0.1, 0.85), (3.0, 0.95)])
def test_intervals_hold_the_truth_as_often_as_they_say(luck: float, demanded: float, seeds: int) -> None:
    """Where the luck of rows or that of seeds is all, the rule is a classical one and holds 95 % or little more.

    Over seeds that is Student's t, or Welch's of two arms; a normal quantile in its place would hold 70 to 88 %. Where
    both lucks count, two seeds cannot tell how much is theirs: 85 % of one arm's intervals is the worst that was found.
    """
    rng = np.random.default_rng(0)
    trials, tasks, count = 700, "abcde", 100
    held = np.zeros(2)

    def scores(base: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        training = luck * rng.standard_normal((seeds, 1))  # all tasks are of one training, and share its luck
        return dict(zip(tasks, base + training + 0.3 * rng.standard_normal((5, seeds, count)), strict=True))

    for _ in range(trials):
        base = 0.5 + 0.3 * rng.standard_normal((5, 1, count))
        theirs, ours = scores(base), scores(base + 0.02 + 0.1 * rng.standard_normal(base.shape))
        difference, alone = paired_difference(ours, theirs), macro_interval(theirs)
        held += [difference.low <= 0.02 <= difference.high, alone.low <= 0.5 <= alone.high]
    assert min(held / trials) >= demanded - 3 * (demanded * (1 - demanded) / trials) ** 0.5
    most = 0.976  # Welch's, of two seeds and two; with a luck counted twice, hardly any would miss
    assert max(held / trials) <= most + 3 * (most * (1 - most) / trials) ** 0.5


def test_the_macro_score_weighs_tasks_alike_whatever_their_rows() -> None:
    assert macro({"a": np.ones((2, 10)), "b": np.zeros((2, 1000))}) == 0.5


@pytest.mark.parametrize(
    ("low", "high", "wanted"), [(0.01, 0.03, "is ahead of"), (-0.03, -0.01, "is behind"), (-0.1, 0.1, "cannot be told")]
)
def test_the_reading_says_what_the_interval_allows(low: float, high: float, wanted: str, ready: dict[str, Any]) -> None:
    table = summary(ready, plain_multi_task=(2, 0.5, 0.5), mta_two_stages=(2, 0.6, 0.6))
    found = Comparison((low + high) / 2, low, high, mta="mta_two_stages", baseline="plain_multi_task")
    assert wanted in reading(replace(table, comparison=found))


def bench(ready: dict[str, Any], folder: Path, **changes: Any) -> Bench:
    given = {"spec": ready["spec"], "dataset": TaskDataset.open(ready["dataset"]), "backbone": ready["backbone"]}
    given |= {"folder": folder, "trunk_cache": folder, "code": ""}
    return Bench(**{**given, "log": lambda **_: None, "stop_asked": lambda: False, **changes})


def test_the_expected_duration_counts_the_scores_of_early_stopping(ready: dict[str, Any], tmp_path: Path) -> None:
    counts = {"train": {"tone": 100}, "validation": {"tone": 10}, "test": {"tone": 10}}

    def training(patience: int | None) -> float:
        """Seconds of training, in those of scoring the validation rows once, which are those of the test rows."""
        stage = ready["spec"].stage_one.model_copy(update={"steps": 40, "patience": patience})
        arms = [Arm("long", "long", "mta", ready["spec"].model_copy(update={"stage_one": stage}))]
        (guess,) = expected_seconds(bench(ready, tmp_path), arms, counts).values()
        return guess.validation / guess.test - 1

    assert training(patience=3) == pytest.approx(training(patience=None) + 10)


def test_the_expected_duration_counts_the_scores_beside_the_opening_of_gates(
    ready: dict[str, Any], tmp_path: Path
) -> None:
    counts = {"train": {"tone": 1}, "validation": {"tone": 1000}, "test": {"tone": 1000}}
    two = ready["spec"].stage_one.model_copy(update={"gate": "soft"})
    specs = [
        ready["spec"].model_copy(update={"stage_one": one, "stage_two": two}) for one in (ready["spec"].stage_one, two)
    ]
    arms = [Arm(str(number), "", "mta", spec) for number, spec in enumerate(specs)]
    guesses = expected_seconds(bench(ready, tmp_path), arms, counts).values()
    hard_first, soft_first = (guess.validation / guess.test for guess in guesses)
    assert hard_first == pytest.approx(soft_first + 2)


def test_rates_are_chosen_by_validation_rows_and_arms_compared_by_test_rows(
    ready: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    chosen = trials.chosen_rows

    def asking(dataset: Any, spec: Any, split: Any, limit: Any) -> Any:
        asked.append(split)
        return chosen(dataset, spec, split, limit)

    monkeypatch.setattr(trials, "chosen_rows", asking)
    trial = Trial(bench(ready, tmp_path), Arm("zero_shot", "zero", "baseline", None), None, 0)
    trial.score()
    assert asked == ["validation"]
    card = trial.test()
    assert asked == ["validation", "test"]
    assert card.row_scores["colour"].keys() <= set(trial.bench.dataset.rows("test", "colour")["id"])


def test_a_trial_of_other_rows_code_rate_or_seed_is_another_one(ready: dict[str, Any], tmp_path: Path) -> None:
    arm, other = Arm("a", "a", "mta", ready["spec"]), SimpleNamespace(digest="other")
    keys = [Trial(bench(ready, tmp_path, **c), arm, 1e-3, 0).key for c in ({}, {"dataset": other}, {"code": "new"})]
    keys += [Trial(bench(ready, tmp_path), arm, rate, seed).key for rate, seed in ((2e-3, 0), (1e-3, 1))]
    assert len(set(keys)) == len(keys)


def test_the_rate_of_gates_keeps_its_ratio_to_the_others(ready: dict[str, Any]) -> None:
    one = ready["spec"].stage_one.model_copy(update={"learning_rate": 1e-3, "gate_learning_rate": 1e-2})
    arm = Arm("a", "a", "mta", ready["spec"].model_copy(update={"stage_one": one}))
    assert arm.at(4e-3, 0).stage_one.gate_learning_rate == pytest.approx(4e-2)
