"""The job as a process: what it refuses, and that being killed leaves no trace in what it ends with."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alter_core.backbone import RECORD
from alter_core.errors import SpecError, Stopped, TrainingError
from alter_core.job import MACHINES
from alter_core.mta import load_bundle
from alter_core.mta.manifest import MANIFEST
from alter_core.process import stop_tree, training_command
from alter_core.training import assembly, checkpoint, session
from alter_core.training import run as run_module
from alter_core.training.checkpoint import Progressed, load_checkpoint, save_checkpoint
from alter_core.training.job import main
from alter_core.training.order import TrainingJob
from alter_core.training.result import RESULT_FILE, Score, StageResult
from alter_core.training.run import job_key
from alter_core.training.subject import trained_digest
from alter_core.whole import write_json
from tests.training.conftest import Domain, start

Train = Callable[..., Any]
ROOT = Path(__file__).parents[2]
DEADLINE = 120.0  # seconds; only to end a test that would hang


def rows_of(job: TrainingJob) -> list[dict[str, Any]]:
    if not job.metrics.exists():
        return []
    whole = job.metrics.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def result_of(job: TrainingJob) -> StageResult:
    result = StageResult.read(job.output / RESULT_FILE)
    assert result is not None
    return result


def test_kills_at_ten_random_moments_of_both_stages_change_no_bit(
    domain: Domain, train: Train, forked: ForkServerContext, tmp_path: Path
) -> None:
    """Dropout-free here; the moments reach from building the trunk cache to the last step."""
    chance = random.Random(20)
    home = tmp_path / "trunk"
    smooth: Path | None = None
    rough: Path | None = None
    kills = 0
    resumed: list[int] = []
    for stage in ("stage_one", "stage_two"):
        # With a cache of its own: which rows ran together decides the last bits of one, and other tests' ran otherwise.
        job = domain.job(tmp_path / "smooth" / stage, stage, start=smooth, steps=150, trunk_cache=tmp_path / "whole")
        expected, _ = train(job)
        killed = domain.job(
            tmp_path / "rough" / stage, stage, start=rough, steps=150, checkpoint_seconds=0, trunk_cache=home
        )
        for _ in range(5):
            wanted = len(rows_of(killed)) + chance.randrange(1, 25)
            process = start(forked, killed)
            while len(rows_of(killed)) < wanted and process.is_alive():
                time.sleep(0.0005)
            process.kill()
            process.join(DEADLINE)
            kills += process.exitcode == -signal.SIGKILL
        process = start(forked, killed)
        process.join(DEADLINE)
        assert process.exitcode == 0
        assert result_of(killed).trained_digest == expected.trained_digest
        resumed += [row["step"] for row in rows_of(killed) if row["phase"] == "resume"]
        smooth, rough = job.output / "bundle", killed.output / "bundle"
    assert kills == 10
    assert any(resumed)


def test_sigterm_writes_a_checkpoint_and_the_next_process_goes_on(
    domain: Domain, train: Train, forked: ForkServerContext, tmp_path: Path
) -> None:
    expected, _ = train(domain.job(tmp_path / "smooth", steps=200, accumulate=2))
    job = domain.job(tmp_path / "stopped", steps=200, accumulate=2)
    process = start(forked, job)
    while not any(row["phase"] == "train" for row in rows_of(job)) and process.is_alive():
        time.sleep(0.001)
    process.terminate()
    process.join(DEADLINE)
    assert process.exitcode == 143
    done = [row["step"] for row in rows_of(job) if row["phase"] == "train"][-1]
    assert done < 200
    result, rows = train(job)
    assert [row["step"] for row in rows if row["phase"] == "resume"] == [done]
    assert result.trained_digest == expected.trained_digest
    assert not job.checkpoints.exists()


def test_what_a_kill_left_of_a_checkpoint_goes_with_the_next_and_the_last(
    domain: Domain, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = domain.job(tmp_path, steps=3, checkpoint_seconds=0)
    left = [job.checkpoints / name for name in (".state-1.a", ".state-2.b")]
    left[0].mkdir(parents=True)
    save = checkpoint.save_checkpoint

    def killed_after(*given: Any) -> None:
        save(*given)
        assert not left[0].exists()
        left[1].mkdir(exist_ok=True)

    monkeypatch.setattr(checkpoint, "save_checkpoint", killed_after)
    train(job)
    assert not job.checkpoints.exists()


def test_words_bounds_and_test_rows_of_a_spec_are_no_part_of_a_job(domain: Domain, tmp_path: Path) -> None:
    """A stopped training goes on after its author mended a licence or a bound."""

    def key(**changes: Any) -> str:
        tasks = [{**task.model_dump(mode="json"), **changes} for task in domain.spec.tasks]
        job = domain.job(tmp_path, tasks=tasks, evaluation={"max_rows": 7 if changes else None})
        return job_key(job, job.spec.stage_one, "data")

    assert key(licence="MIT", description="other", quality={"min_rows": 1}) == key()
    assert key(instruction="Other words.") != key()


def test_a_task_cannot_be_added_where_no_adapter_has_a_place(domain: Domain, train: Train, tmp_path: Path) -> None:
    plain = {"mta": {"layers": "none"}, "stage_two": None, "trains": ["backbone"], "active": "all", "steps": 1}
    tasks = [task.model_dump(mode="json") for task in domain.spec.tasks]
    train(domain.job(tmp_path / "two", tasks=tasks[:2], **plain))
    job = domain.job(tmp_path / "three", stage="add_task", task="thing", start=tmp_path / "two" / "bundle", **plain)
    with pytest.raises(SpecError, match="thing cannot be added: mta > layers: none"):
        train(job)


def test_scores_and_checkpoints_are_no_training_time(
    domain: Domain, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [0.0]

    def hold_up(*_: Any) -> Score:
        late[0] += 1000.0
        return Score(0.5, {})

    clock = time.monotonic
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: clock() + late[0]))
    monkeypatch.setattr(assembly, "scorer", lambda *_: hold_up)
    monkeypatch.setattr(checkpoint, "save_checkpoint", hold_up)
    result, rows = train(domain.job(tmp_path, steps=4, evaluate_every=1, checkpoint_seconds=0))
    assert late[0] == 8000.0
    assert result.cost.train_seconds < 1000
    assert result.cost.wall_seconds > 8000
    assert [row["rows_per_second"] for row in rows if row["phase"] == "train"][-1] > 4 * 8 / 1000


@pytest.mark.parametrize(("second", "wanted"), [(30.0, 40.0), (None, None)])
def test_energy_is_that_of_all_processes_of_a_stage_or_none(
    second: float | None,
    wanted: float | None,
    domain: Domain,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[float | None] = [10.0]
    monkeypatch.setattr(session, "Meter", lambda: SimpleNamespace(joules=lambda: used[0]))
    monkeypatch.setattr(session, "MEASURE_SECONDS", 0.0)
    job = domain.job(tmp_path, steps=4)
    steps: list[object] = []
    with pytest.raises(Stopped):  # after a step, whether or not the trunk cache was there
        run_module.run(job, lambda **row: steps.extend([row] * (row["phase"] == "train")), lambda: bool(steps))
    used[0] = second
    result, _ = train(job)
    assert result.cost.joules == wanted


@pytest.mark.parametrize("damaged", ["checkpoint.json", "now.safetensors"])
@pytest.mark.parametrize("older", [False, True], ids=["alone", "beside the one before"])
def test_a_damaged_checkpoint_is_told_and_left_out(
    damaged: str, older: bool, domain: Domain, train: Train, tmp_path: Path
) -> None:
    from alter_core.training.run import run

    expected, _ = train(domain.job(tmp_path / "smooth", steps=6))
    job = domain.job(tmp_path / "stopped", steps=6)
    steps: list[int] = []

    def log(**fields: Any) -> None:
        steps.extend([fields["step"]] if fields["phase"] == "train" else [])

    done = []
    for more in (1, 1):
        limit = len(steps) + more
        with pytest.raises(Stopped):
            run(job, log, lambda limit=limit: len(steps) >= limit)
        done.append(steps[-1])
        (state,) = job.checkpoints.iterdir()
        if not (tmp_path / "kept").exists():
            shutil.copytree(state, tmp_path / "kept" / state.name)
    file = state / damaged
    file.write_bytes(file.read_bytes()[: 0 if damaged == "checkpoint.json" else 100])
    if older:  # a kill came before it went
        shutil.copytree(tmp_path / "kept", job.checkpoints, dirs_exist_ok=True)
    result, rows = train(job)
    assert [row["step"] for row in rows if row["phase"] == "resume"] == (done[:1] if older else [])
    assert [row for row in rows if f"{state} is damaged" in str(row.get("text"))]
    assert result.trained_digest == expected.trained_digest
    assert not job.checkpoints.exists()


def test_what_the_backbone_has_no_room_for_in_use_is_refused_in_training(
    domain: Domain, train: Train, tmp_path: Path
) -> None:
    tasks = [task.model_dump(mode="json") for task in domain.spec.tasks]
    for task in tasks:
        task["max_target_tokens"] = 10_000  # of free answers; a label is as long as it is
    with pytest.raises(SpecError, match=r"prompt and answer take up to 10\d\d\d tokens"):
        train(domain.job(tmp_path, tasks=tasks, steps=1))


def uncached(job: TrainingJob) -> TrainingJob:
    """The same job without a trunk cache."""
    return job.model_copy(update={"spec": job.spec.model_copy(update={"trunk_cache": False})})


def test_dropout_is_drawn_anew_by_a_resumed_process_as_by_one_that_never_stopped(
    domain: Domain, train: Train, tmp_path: Path
) -> None:
    from alter_core.training.run import run

    backbone = tmp_path / "dropping"
    config = json.loads((domain.backbone / "config.json").read_text())
    backbone.mkdir()
    for file in domain.backbone.iterdir():
        (backbone / file.name).write_bytes(file.read_bytes())
    (backbone / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.3}))
    # The trunk drops nothing, cached or not; and taking a score may not change what follows.
    scoring = uncached(domain.job(tmp_path / "smooth", steps=8, backbone=backbone, evaluate_every=2))
    expected, scored = train(scoring)
    plain, _ = train(domain.job(tmp_path / "plain", steps=8))
    assert plain.trained_digest != expected.trained_digest
    _, unscored = train(uncached(domain.job(tmp_path / "unscored", steps=8, backbone=backbone)))
    _, cached = train(domain.job(tmp_path / "cached", steps=8, backbone=backbone))
    losses = [[row["loss"] for row in rows if row["phase"] == "train"] for rows in (scored, unscored, cached)]
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)
    job = uncached(domain.job(tmp_path / "stopped", steps=8, backbone=backbone, evaluate_every=2))
    steps: list[int] = []

    def log(**fields: Any) -> None:
        steps.extend([fields["step"]] if fields["phase"] == "train" else [])

    with pytest.raises(Stopped):
        run(job, log, lambda: len(steps) >= 3)
    resumed, _ = train(job)
    assert resumed.trained_digest == expected.trained_digest


def test_two_processes_take_the_same_global_batches(
    domain: Domain, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command line starts them: on one machine, and on two, of which one is given the job."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    alone, told = train(domain.job(tmp_path / "alone", steps=5))
    both = domain.job(tmp_path / "both", steps=5)
    launch([*training_command("alter_core.training.job", processes=2), str(job_file(both))])
    assert result_of(both).processes == 2
    losses = [[row["loss"] for row in rows if row["phase"] == "train"] for rows in (told, rows_of(both))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert result_of(both).validation.losses["after"] == pytest.approx(alone.validation.losses["after"], rel=1e-3)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv(MACHINES, "2")
    monkeypatch.setenv("PET_RDZV_BACKEND", "c10d")
    monkeypatch.setenv("PET_RDZV_ENDPOINT", f"127.0.0.1:{port}")
    monkeypatch.setenv("PET_LOCAL_ADDR", "127.0.0.1")
    apart = domain.job(tmp_path / "apart", steps=5)
    command = training_command("alter_core.training.job", processes=1)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # as many threads for each as the two had on one: replicas are summed too
    try:
        launch(command, [*command, str(job_file(apart))])
    finally:
        os.sched_setaffinity(0, cores)
    assert result_of(apart).processes == 2
    assert result_of(apart).trained_digest == result_of(both).trained_digest


def job_file(job: TrainingJob) -> Path:
    job.output.mkdir(parents=True)
    file = job.output / "job.json"
    file.write_text(job.model_dump_json())
    return file


def launch(*commands: list[str]) -> None:
    """All of them together, to their end."""
    launchers = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    try:
        assert [launcher.wait(5 * DEADLINE) for launcher in launchers] == [0] * len(commands)
    finally:
        for launcher in launchers:
            stop_tree(launcher)


@pytest.mark.parametrize("change", [{"accumulate": 4}, {"gradient_checkpointing": True}, {"trunk_cache_off": True}])
def test_ways_to_save_memory_or_time_change_the_loss_by_rounding_only(
    change: dict[str, Any], domain: Domain, train: Train, tmp_path: Path
) -> None:
    plain, told = train(domain.job(tmp_path / "plain", steps=6))
    job = domain.job(tmp_path / "other", steps=6, **{k: v for k, v in change.items() if k != "trunk_cache_off"})
    if "trunk_cache_off" in change:
        job = uncached(job)
    result, rows = train(job)
    losses = [[row["loss"] for row in given if row["phase"] == "train"] for given in (told, rows)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert result.validation.losses["after"] == pytest.approx(plain.validation.losses["after"], rel=1e-3)
    assert ("trunk_cache_off" in change) == (result.cost.cache_mb == 0)


def test_computing_in_bf16_leaves_a_frozen_backbone_as_it_was(domain: Domain, train: Train, tmp_path: Path) -> None:
    trunk = tmp_path / "trunk"
    result, _ = train(domain.job(tmp_path, steps=2, precision="bf16", stage_two=None, trunk_cache=trunk))
    held = load_file(tmp_path / "bundle" / "backbone" / "model.safetensors")
    torch.testing.assert_close(held, load_file(domain.backbone / "model.safetensors"), rtol=0, atol=0)
    assert result.precision == "bf16"
    assert {json.loads(file.read_text())["dtype"] for file in trunk.glob("*/cache.json")} == {"torch.bfloat16"}


def test_a_second_seed_reuses_the_trunk_cache(domain: Domain, train: Train, tmp_path: Path) -> None:
    train(domain.job(tmp_path / "one", epochs=1.0, steps=None))
    result, rows = train(domain.job(tmp_path / "two", epochs=1.0, steps=None, seed=1))
    assert not [row for row in rows if row["phase"] == "cache"]
    assert result.cost.cache_flops == 0


def test_the_result_says_what_the_stage_cost(domain: Domain, train: Train, tmp_path: Path) -> None:
    result, rows = train(domain.job(tmp_path, steps=5))
    cost = result.cost
    assert (cost.steps, cost.rows, cost.trained_parameters) == (5, 40, 3 * 32 * 48)  # the shared FFN's three linears
    assert cost.total_parameters > cost.trained_parameters
    assert cost.wall_seconds >= cost.train_seconds > 0
    assert cost.flops > 2 * cost.trained_parameters * 5
    assert cost.peak_memory_mb > 50
    step = next(row for row in rows if row["phase"] == "train")
    assert {"step", "steps", "loss", "lr", "rows_per_second", "seconds_left"} <= step.keys()


def test_a_job_that_is_done_is_not_done_again(domain: Domain, train: Train, tmp_path: Path) -> None:
    first, _ = train(domain.job(tmp_path, steps=2))
    again, rows = train(domain.job(tmp_path, steps=2))
    assert again == first
    assert rows == []
    other, rows = train(domain.job(tmp_path, steps=3))
    assert other.cost.steps == 3


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "other"},
        {"backbone": "other"},
        {"start": "other"},
        {"start": None},
        {"stage": "stage_two"},
        {"seed": 1},
        {"precision": "bf16"},
        {"learning_rate": 2e-3},
        {"mta": {"layers": "last_1", "adapter": "lora", "shared_adapters": 1}},
        {"evaluation": {"max_validation_rows": 3}},
        {"stage_two": None},
    ],
    ids=str,
)
def test_a_job_that_may_end_otherwise_has_another_key(change: dict[str, Any], domain: Domain, tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_json(tmp_path / name / RECORD, {"digest": name})
        write_json(tmp_path / name / MANIFEST, {"of": name})

    def key(dataset: str = "one", backbone: str = "one", start: str | None = "one", **fields: Any) -> str:
        given = {"output": tmp_path, "backbone": tmp_path / backbone, "start": start and tmp_path / start, **fields}
        job = domain.job(**given)
        return job_key(job, job.spec.stage_one, dataset)

    assert key(**change) != key() == key(output=tmp_path / "elsewhere")


def test_a_checkpoint_of_another_job_is_not_taken_up(domain: Domain, train: Train, tmp_path: Path) -> None:
    from alter_core.training.run import run

    with pytest.raises(Stopped):
        run(domain.job(tmp_path, steps=4), lambda **_: None, lambda: True)
    _, rows = train(domain.job(tmp_path, steps=4, learning_rate=1e-4))
    assert not [row for row in rows if row["phase"] == "resume"]


def test_a_task_that_the_model_would_not_use_is_not_added(domain: Domain, train: Train, tmp_path: Path) -> None:
    mta = {**domain.spec.mta.model_dump(mode="json"), "homes": {"thing": "colour"}}
    two = [task for task in domain.job(tmp_path).spec.model_dump(mode="json")["tasks"] if task["name"] != "thing"]
    train(domain.job(tmp_path / "one", tasks=two, steps=2))  # active: shared
    added = {"task": "thing", "start": tmp_path / "one" / "bundle"}
    with pytest.raises(SpecError, match="no task adapter is in use"):
        train(domain.job(tmp_path / "added", "add_task", **added))
    train(domain.job(tmp_path / "all", tasks=two, steps=2, trains=["adapters"], active="all"))
    with pytest.raises(SpecError, match="nothing of its own to learn while gates are hard"):
        train(domain.job(tmp_path / "home", "add_task", **{**added, "start": tmp_path / "all" / "bundle"}, mta=mta))


def test_rows_that_the_backbone_cannot_read_are_refused(domain: Domain, train: Train, tmp_path: Path) -> None:
    backbone = tmp_path / "short"
    shutil.copytree(domain.backbone, backbone)
    config = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 12}))
    with pytest.raises(SpecError, match="the backbone reads at most 12: lower the task's max_input_tokens by"):
        train(domain.job(tmp_path, backbone=backbone))


def test_adding_a_task_trains_its_own_weights_only(domain: Domain, train: Train, tmp_path: Path) -> None:
    two = [task for task in domain.job(tmp_path).spec.model_dump(mode="json")["tasks"] if task["name"] != "thing"]
    one = domain.job(tmp_path / "one", tasks=two, steps=4)
    train(one)
    stage_two = domain.job(tmp_path / "two", "stage_two", start=one.output / "bundle", tasks=two, steps=4)
    train(stage_two)
    champion = stage_two.output / "bundle"
    result, _ = train(domain.job(tmp_path / "added", "add_task", task="thing", start=champion, epochs=2, steps=None))
    losses = result.validation.losses
    assert {t: losses["after"][t] for t in ("colour", "match")} == {t: losses["before"][t] for t in ("colour", "match")}
    assert losses["after"]["thing"] < losses["before"]["thing"]
    before, _, _ = load_bundle(champion, domain.backbone)
    after, _, _ = load_bundle(tmp_path / "added" / "bundle", domain.backbone)
    old = dict(before.model.named_parameters())
    kept = [(name, p) for name, p in after.model.named_parameters() if name in old]
    assert trained_digest(kept) == trained_digest(list(old.items()))
    assert after.tasks == ["colour", "match", "thing"]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (lambda job: job.update(colour="red"), "colour: Extra inputs"),
    "no such stage": (lambda job: job["spec"].update(stage_two=None) or job.update(stage="stage_two"), "no such stage"),
    "stage two without a start": (lambda job: job.update(stage="stage_two"), "stage_two starts from a bundle"),
    "task outside of add_task": (lambda job: job.update(task="thing"), "only a job of stage add_task"),
    "unknown task": (lambda job: job.update(stage="add_task", task="taste", start="/no"), "'taste' is no task"),
    "no data set": (lambda job: job.update(dataset="/no/such"), "/no/such"),
    "no backbone": (lambda job: job.update(backbone="/no/such"), "no converted backbone"),
    "no bundle": (lambda job: job.update(start="/no/such"), "/no/such is no bundle"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_told_without_a_traceback(
    name: str, domain: Domain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(domain.job(tmp_path, steps=2).model_dump_json())
    change, message = WRONG[name]
    change(values)
    file = tmp_path / "job.json"
    file.write_text(json.dumps(values))
    assert main([str(file)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    if name != "unknown key":
        last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["phase"] == "error"
        assert message in "\n".join([last["headline"], *last["problems"]])


def test_a_missing_job_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_training_needs_neither_prefect_nor_mlflow() -> None:
    import subprocess
    import sys

    code = "import sys, alter_core.training.run; sys.exit('prefect' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == 0


def tasks_of(domain: Domain, tmp_path: Path) -> list[dict[str, Any]]:
    """The domain's tasks, as a spec has them: colour, match, thing."""
    tasks: list[dict[str, Any]] = domain.job(tmp_path).spec.model_dump(mode="json")["tasks"]
    return tasks


@pytest.fixture
def of_two(domain: Domain, train: Train, tmp_path: Path) -> Path:
    """A bundle of the tasks colour and match."""
    tasks = tasks_of(domain, tmp_path)[:2]
    train(domain.job(tmp_path / "of_two", tasks=tasks, trains=["adapters"], active="all", steps=2))
    return tmp_path / "of_two" / "bundle"


def test_an_added_task_may_stand_anywhere_in_the_spec(
    of_two: Path, domain: Domain, train: Train, tmp_path: Path
) -> None:
    colour, match, thing = tasks_of(domain, tmp_path)
    last, first = (
        train(domain.job(tmp_path / name, "add_task", task="thing", start=of_two, tasks=tasks))[0]
        for name, tasks in (("last", [colour, match, thing]), ("first", [thing, match, colour]))
    )
    assert first.trained_digest == last.trained_digest
    assert first.validation.losses == last.validation.losses


def test_an_added_task_opens_its_gate_as_stage_two_does(
    of_two: Path, domain: Domain, train: Train, tmp_path: Path
) -> None:
    tasks = tasks_of(domain, tmp_path)[:2]
    train(domain.job(tmp_path / "two", "stage_two", start=of_two, tasks=tasks, steps=1, keep=0.6))
    start = tmp_path / "two" / "bundle"
    job = domain.job(tmp_path / "added", "add_task", task="thing", start=start, stage_two={"keep": 0.6})
    result, _ = train(job)
    assert result.gates["before"]["decoder.1"]["thing"]["thing"] == pytest.approx(0.6, abs=1e-4)


def test_a_bundle_in_which_other_tasks_changed_is_not_written(
    of_two: Path, domain: Domain, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_module.train

    def careless(job: Any) -> Any:
        done = whole(job)
        with torch.no_grad():
            job.mta.layers[0].tasks[0].a["up"].add_(1.0)
        return done

    monkeypatch.setattr(run_module, "train", careless)
    with pytest.raises(TrainingError, match="changed weights of other tasks"):
        train(domain.job(tmp_path / "added", "add_task", task="thing", start=of_two))
    assert not (tmp_path / "added" / "bundle").exists()


def test_a_bundle_of_other_tasks_is_no_start(of_two: Path, domain: Domain, train: Train, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds the tasks colour, match, and the job needs colour, match, thing"):
        train(domain.job(tmp_path / "two", "stage_two", start=of_two))


def test_a_backbone_that_trains_in_bf16_keeps_fp32_weights(domain: Domain, train: Train, tmp_path: Path) -> None:
    train(domain.job(tmp_path, trains=["backbone"], active="all", steps=2, precision="bf16", stage_two=None))
    held = load_file(tmp_path / "bundle" / "backbone" / "model.safetensors")
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in held.values())


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    named = [("w", torch.nn.Parameter(torch.ones(2)))]
    optimizer = torch.optim.AdamW([parameter for _, parameter in named])
    save_checkpoint(tmp_path, "key", "fp32", Progressed(step=1), named, optimizer, None)
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path, "key", "fp32", Progressed(step=2), named, optimizer, None)
    found = load_checkpoint(tmp_path, "key", lambda **_: None)
    assert found is not None
    assert found.progressed.step == 1
