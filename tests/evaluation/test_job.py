import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alter_core.backbone import load_backbone, resolve_backbone
from alter_core.data.dataset import TaskDataset
from alter_core.data.ingest import ingest
from alter_core.errors import Stopped
from alter_core.evaluation.baselines import majority_targets
from alter_core.evaluation.job import main
from alter_core.evaluation.order import EvaluationJob
from alter_core.evaluation.rows import chosen_rows
from alter_core.evaluation.run import run as run_job
from alter_core.evaluation.scorecard import SCORECARD_FILE, Scorecard
from alter_core.inference.predict import Predictor
from alter_core.inference.together import Together
from alter_core.job import Metrics
from alter_core.mta import inject, load_bundle, save_bundle
from alter_core.mta.manifest import TEMPERATURES, copy_with
from alter_core.spec import DomainSpec
from alter_core.spec.load import load_domain
from alter_core.whole import write_json
from alter_core.workspace import Workspace
from tests.conftest import tiny_spec, write_domain


@pytest.fixture(scope="module")
def ready(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Dataset, spec with labels, converted backbone, and a bundle whose adapters were disturbed."""
    home = tmp_path_factory.mktemp("job")
    workspace = Workspace(home / "home")
    values = tiny_spec(tiny_backbone) | {"evaluation": {"max_rows": 6}}
    spec = load_domain(write_domain(home / "domain", values))
    dataset = ingest(spec, home / "domain", workspace)
    spec = spec.with_labels(dataset.labels)
    backbone = resolve_backbone(spec.backbone, workspace)
    torch.manual_seed(0)
    model, tokenizer = load_backbone(backbone)
    mta = inject(model, spec.mta, spec.task_names)
    with torch.no_grad():
        for parameter in (p for layer in mta.layers for p in layer.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_bundle(mta, tokenizer, home / "bundle", {"spec": spec.model_dump(mode="json")}, backbone="refer")
    return {"dataset": dataset, "spec": spec, "backbone": backbone, "bundle": home / "bundle"}


def job_for(ready: dict[str, Any], folder: Path, **changes: Any) -> EvaluationJob:
    given = {
        "dataset": str(ready["dataset"].path),
        "spec": ready["spec"],
        "backbone": str(ready["backbone"]),
        "subjects": [
            {"name": "zero_shot", "output": str(folder / "zero")},
            {"name": "stage_one", "bundle": str(ready["bundle"]), "output": str(folder / "one")},
        ],
        "metrics": str(folder / "metrics.jsonl"),
    }
    return EvaluationJob.model_validate(given | changes)


def run(job: EvaluationJob) -> dict[str, Scorecard]:
    return run_job(job, Metrics(job.metrics), lambda: False)


def test_every_subject_gets_its_scorecard_and_predictions(ready: dict[str, Any], tmp_path: Path) -> None:
    cards = run(job_for(ready, tmp_path))
    assert list(cards) == ["zero_shot", "stage_one"]
    for name, folder in (("zero_shot", "zero"), ("stage_one", "one")):
        card = Scorecard.read(tmp_path / folder / SCORECARD_FILE)
        assert card is not None
        assert card.macro == cards[name].macro
        lines = (tmp_path / folder / "predictions.jsonl").read_text().splitlines()
        assert len(lines) == sum(task.rows for task in card.tasks.values()) == 18
        assert {json.loads(line)["id"] for line in lines} == {row for rows in card.row_scores.values() for row in rows}
    assert cards["zero_shot"].row_scores.keys() == cards["stage_one"].row_scores.keys()
    assert cards["zero_shot"].tasks["colour"].majority is not None


def test_a_bag_of_words_is_scored_on_the_same_rows_by_the_same_metrics(ready: dict[str, Any], tmp_path: Path) -> None:
    subjects = [
        {"name": "bag", "kind": "bag_of_words", "output": str(tmp_path)},
        {"name": "z", "output": str(tmp_path)},
    ]
    cards = run(job_for(ready, tmp_path, subjects=subjects))
    bag, model = cards["bag"], cards["z"]
    assert {task: rows.keys() for task, rows in bag.row_scores.items()} == {
        task: rows.keys() for task, rows in model.row_scores.items()
    }
    assert {task: found.metric for task, found in bag.tasks.items()} == {t: f.metric for t, f in model.tasks.items()}
    assert bag.tasks["colour"].by == "a bag of words"
    assert {found.by for found in model.tasks.values()} == {None}
    assert run(job_for(ready, tmp_path, subjects=subjects[:1])) == {"bag": bag}


def test_samples_are_what_the_bundle_answers_when_asked_for_them_alone(ready: dict[str, Any], tmp_path: Path) -> None:
    card = run(job_for(ready, tmp_path))["stage_one"]
    predictor = Predictor.from_bundle(ready["bundle"], ready["backbone"])
    again = predictor.predict([s.task for s in card.samples], [s.input for s in card.samples])
    assert [(p.text, p.score) for p in again] == [(s.prediction, s.score) for s in card.samples]


def test_label_tasks_of_the_subject_that_is_registered_get_a_temperature_and_it_is_asked_with_it(
    ready: dict[str, Any], tmp_path: Path, answered: list[tuple[int, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = iter([(2.0, ""), (None, "few")])
    monkeypatch.setattr("alter_core.evaluation.calibration.fit", lambda *_: next(fits))
    spec: DomainSpec = ready["spec"]
    first, *others = spec.tasks
    spec = spec.model_copy(update={"tasks": (first.model_copy(update={"abstain_below": 0.9}), *others)})
    kept = {"answers": str(tmp_path / "answers"), "spec": spec}
    plain = run(job_for(ready, tmp_path, **kept))
    rows = ready["dataset"].counts("validation")
    answered.clear()
    cards = run(job_for(ready, tmp_path, calibrate="stage_one", **kept))
    assert answered == [(1, task, rows[task]) for task in ("colour", "match")]  # validation rows alone
    assert cards["zero_shot"] == plain["zero_shot"]
    card, before = cards["stage_one"], plain["stage_one"]
    found = {name: score.calibration for name, score in card.tasks.items()}
    assert {name for name, one in found.items() if one} == {"colour", "match"}
    assert (card.macro, card.row_scores) == (before.macro, before.row_scores)
    temperatures = {name: one.temperature for name, one in found.items() if one and one.temperature}
    assert temperatures == {"colour": 2.0}
    copy_with(ready["bundle"], tmp_path / "registered", {TEMPERATURES: temperatures})
    predictor = Predictor.from_bundle(tmp_path / "registered", ready["backbone"])
    again = predictor.predict([s.task for s in card.samples], [s.input for s in card.samples])
    assert [(p.text, p.score) for p in again] == [(s.prediction, s.score) for s in card.samples]
    told = [json.loads(line) for line in (tmp_path / "one" / "predictions.jsonl").read_text().splitlines()]
    scores = {row["id"]: row["score"] for row in told if row["task"] == "colour"}
    rest = [card.row_scores["colour"][row] for row, score in scores.items() if score >= 0.9]
    abstention = card.tasks["colour"].abstention
    assert abstention
    assert abstention.share == pytest.approx(1 - len(rest) / len(scores))
    assert abstention.rest == (sum(rest) / len(rest) if rest else None)
    assert card.tasks["match"].abstention is None


def test_a_bundle_without_one_of_the_tasks_is_scored_on_the_others(ready: dict[str, Any], tmp_path: Path) -> None:
    spec: DomainSpec = ready["spec"]
    older = spec.model_copy(update={"tasks": spec.tasks[:2]})
    model, tokenizer = load_backbone(ready["backbone"])
    mta = inject(model, older.mta, older.task_names)
    save_bundle(mta, tokenizer, tmp_path / "older", {"spec": older.model_dump(mode="json")}, backbone="refer")
    subject = {"name": "champion", "bundle": str(tmp_path / "older"), "output": str(tmp_path / "out")}
    card = run(job_for(ready, tmp_path, subjects=[subject]))["champion"]
    assert list(card.tasks) == list(older.task_names)


def test_progress_rows_count_to_the_end_over_all_subjects(ready: dict[str, Any], tmp_path: Path) -> None:
    run(job_for(ready, tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in rows} == {"evaluate"}
    assert {row["task"] for row in rows} <= set(ready["spec"].task_names)
    assert (rows[-1]["done"], rows[-1]["total"], rows[-1]["seconds_left"]) == (36, 36, 0)


def test_the_choice_of_rows_is_the_same_each_time_and_grows(ready: dict[str, Any]) -> None:
    dataset, spec = ready["dataset"], ready["spec"]
    few, more = ({row["id"] for row in chosen_rows(dataset, spec, "test", n)} for n in (3, 7))
    assert few < more
    assert few == {row["id"] for row in chosen_rows(TaskDataset.open(dataset.path), spec, "test", 3)}


def test_the_command_reads_a_job_file(ready: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "job.json", job_for(ready, tmp_path).model_dump(mode="json"))
    assert main([str(tmp_path / "job.json")]) == 0
    assert (tmp_path / "one" / "scorecard.json").exists()


def test_a_wrong_input_ends_the_command_with_a_message(
    ready: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_for(ready, tmp_path, dataset=str(tmp_path / "nothing"))
    write_json(tmp_path / "job.json", job.model_dump(mode="json"))
    assert main([str(tmp_path / "job.json")]) == 2
    assert "nothing" in capsys.readouterr().err
    [row] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row["phase"] == "error"
    assert "nothing" in row["headline"]


def test_a_file_that_is_no_job_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.json").write_text('{"dataset": 3}')
    assert main([str(tmp_path / "job.json")]) == 2
    assert "is no evaluation job" in capsys.readouterr().err


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, int]]:
    """What models are asked: models together, task, rows."""
    seen: list[tuple[int, str, int]] = []
    predict = Together.predict

    def watched(self: Together, asked: Any, tasks: list[str], inputs: list[str], progress: Any) -> Any:
        seen.append((len(asked), tasks[0], len(inputs)))
        return predict(self, asked, tasks, inputs, progress)

    monkeypatch.setattr(Together, "predict", watched)
    return seen


def test_an_evaluation_that_is_asked_to_stop_goes_on_from_the_tasks_that_are_answered(
    ready: dict[str, Any], tmp_path: Path, answered: list[tuple[int, str, int]]
) -> None:
    first, *others = ready["spec"].task_names
    job = job_for(ready, tmp_path, answers=str(tmp_path / "answers"))
    with pytest.raises(Stopped):
        run_job(job, lambda **_: None, lambda: len(answered) > 1)
    assert not (tmp_path / "zero").exists()
    answered.clear()
    run(job)
    assert answered == [(2, task, 6) for task in others]
    assert first not in others


def test_what_is_answered_is_asked_again_only_for_new_rows_and_changed_prompts(
    ready: dict[str, Any], tmp_path: Path, answered: list[tuple[int, str, int]]
) -> None:
    kept = {"answers": str(tmp_path / "answers")}
    cards = run(job_for(ready, tmp_path, **kept))
    answered.clear()
    assert run(job_for(ready, tmp_path, **kept)) == cards
    assert answered == []
    spec: DomainSpec = ready["spec"]
    first, *others = spec.tasks
    more = spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"max_rows": 7})})
    zero = [{"name": "zero_shot", "output": str(tmp_path / "zero")}]
    run(job_for(ready, tmp_path, spec=more, subjects=zero, **kept))
    assert answered == [(1, task, 1) for task in spec.task_names]
    answered.clear()
    other = spec.model_copy(update={"tasks": (first.model_copy(update={"instruction": "Say."}), *others)})
    run(job_for(ready, tmp_path, spec=other, subjects=zero, **kept))
    assert answered == [(1, first.name, 6)]


def test_a_stage_that_left_a_task_as_it_was_is_not_asked_about_it_again(
    ready: dict[str, Any], tmp_path: Path, answered: list[tuple[int, str, int]]
) -> None:
    mta, tokenizer, metadata = load_bundle(ready["bundle"], ready["backbone"])
    with torch.no_grad():
        for layer in mta.layers:
            for parameter in layer.tasks.parameters():
                parameter[1] += 0.1
    save_bundle(mta, tokenizer, tmp_path / "two", metadata, backbone="hold")
    one = {"name": "stage_one", "bundle": str(ready["bundle"]), "output": str(tmp_path / "out1")}
    two = {"name": "stage_two", "bundle": str(tmp_path / "two"), "output": str(tmp_path / "out2")}
    cards = run(job_for(ready, tmp_path, subjects=[one, two]))
    names = ready["spec"].task_names
    assert answered == [(2 if task == names[1] else 1, task, 6) for task in names]
    assert cards["stage_one"].tasks[names[0]] == cards["stage_two"].tasks[names[0]]


def test_labels_of_the_dataset_fill_the_spec(ready: dict[str, Any]) -> None:
    spec: DomainSpec = ready["spec"]
    assert set(spec.task("match").labels or ()) == {"yes", "no"}


def test_test_rows_are_scored_and_training_rows_give_the_majority(
    ready: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}

    def majority(targets: Mapping[str, Sequence[str]]) -> dict[str, str]:
        held = {task: list(of) for task, of in targets.items()}
        seen.update({task: len(of) for task, of in held.items()})
        return majority_targets(held)

    monkeypatch.setattr("alter_core.evaluation.run.majority_targets", majority)
    card = run(job_for(ready, tmp_path, subjects=[{"name": "z", "output": str(tmp_path / "z")}]))["z"]
    for task, rows in card.row_scores.items():
        assert rows.keys() <= set(ready["dataset"].rows("test", task)["id"])
    counts = ready["dataset"].counts("train")
    assert seen == {task: counts[task] for task in ("colour", "match")}
