"""The whole path through every real part, on a tiny domain: Prefect, both jobs, MLflow's store and registry."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from prefect.settings import PREFECT_API_URL, temporary_settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from alter_core.energy import Meter
from alter_core.prompts import decode_answers, encode_prompts
from alter_core.spec.load import load_domain
from flows.production.plan import ABLATION_LOCK, OPEN_MARK
from tests.command_line import Alter, caller
from tests.conftest import tiny_rows, tiny_spec, write_domain
from tests.flows.server import Factory, factory

TEST_ROWS = {"colour": 24, "match": 25, "thing": 24}  # as the split falls; validation has 11, 15 and 11


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """One server for all but the first run: what is looked at here is not how long a server takes to start."""
    with factory(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture(scope="module")
def first(original: Factory, tiny_backbone: Path) -> dict[str, Any]:
    """The first run of the tiny domain, as JSON: it is made once, and each test works on a copy of what it left."""
    spec = write_domain(original.home / "tiny", tiny_spec(tiny_backbone))
    done = original.alter("run", str(spec), "--json", own_server=True)
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


@pytest.fixture
def works(original: Factory, first: dict[str, Any], tmp_path: Path) -> Factory:
    """The test's own copy, with the domain `tiny` and its first version."""
    return original.copied(tmp_path / "works")


@pytest.fixture
def alter(works: Factory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Alter]:
    """A command line on that copy, in this process: the first run and a champion's answer have processes of their own,
    and the jobs have one in every run."""
    monkeypatch.chdir(works.home)
    for name, value in works.environment.items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: works.url}):
        yield caller(monkeypatch, capsys)


def versions(alter: Alter) -> list[dict[str, Any]]:
    code, out, err = alter("models", "tiny", "--json")
    assert code == 0, err
    rows: list[dict[str, Any]] = json.loads(out)
    return rows


def test_a_run_registers_the_champion_with_a_score_for_each_task(first: dict[str, Any], alter: Alter) -> None:
    assert first["status"] == "champion"
    assert set(first["scorecards"]) == {"zero_shot", "bag_of_words", "stage_one", "stage_two"}
    for card in first["scorecards"].values():
        assert set(card["tasks"]) == set(TEST_ROWS)
    (row,) = versions(alter)
    assert row["version"] == first["version"]
    assert row["aliases"] == ["champion"]
    assert row["macro"] == pytest.approx(first["scorecards"]["stage_two"]["macro"]["value"], abs=1e-5)


def test_models_are_scored_on_the_test_rows(works: Factory) -> None:
    files = list((works.home / "alter" / "runs" / "tiny").glob("score-*/scorecard.json"))
    assert len(files) == 4
    for file in files:
        tasks = json.loads(file.read_text(encoding="utf-8"))["tasks"]
        assert {task: found["rows"] for task, found in tasks.items()} == TEST_ROWS


def test_stage_two_reports_what_it_cost(first: dict[str, Any]) -> None:
    for stage in ("stage_one", "stage_two"):
        cost = first["costs"][stage]
        assert cost["train_seconds"] > 0
        assert (cost["joules"] is None) == bool(Meter().why)
        assert cost["flops"] > 0
        assert 0 < cost["trained_parameters"] < cost["total_parameters"]
    assert first["costs"]["stage_two"]["steps"] == 3


def test_a_month_tells_its_energy_or_that_it_is_not_measured_and_where_the_reason_is(
    first: dict[str, Any], alter: Alter, works: Factory
) -> None:
    why = Meter().why  # on most machines that tests run on, there is one
    run = works.store.client.get_run(first["mlflow_run"])
    card = works.store.get("tiny", first["version"])["description"]
    code, out, err = alter("status", str(works.home / "tiny"), "--costs")
    assert code == 0, err
    (month,) = json.loads(alter("status", str(works.home / "tiny"), "--costs", "--json")[1])
    assert (month["runs"], month["unmeasured"], month["kwh"] > 0) == (1, int(bool(why)), not why)
    if why:
        assert run.data.tags["alter.energy"] == f"not measured: {why}"
        assert "| energy of the machine (Wh) | not measured | not measured |" in card.replace("&nbsp;", "")
        assert "1 run has no measured energy; the tag alter.energy of a run in MLflow says why" in out


def test_the_run_and_the_card_tell_the_score_before_and_after_the_gates_open(
    first: dict[str, Any], works: Factory
) -> None:
    store = works.store
    row = next(row for row in store.versions("tiny") if row["version"] == first["version"])
    metrics = store.client.get_run(row["run_id"]).data.metrics
    before, opened = (metrics[f"validation_macro.{when}"] for when in ("before", "opened"))
    assert 0 <= before <= 1
    assert f"was {before:.3f}, and {opened:.3f} with them open" in row["description"]


def test_the_champion_answers_in_a_fresh_process(works: Factory) -> None:
    answer = works.alter(
        "predict", str(works.home / "tiny"), "--task", "colour", "-", "--json", stdin="the red ball is in the hall"
    )
    assert answer.returncode == 0, answer.stderr
    given = json.loads(answer.stdout)
    assert given["prediction"] in ("red", "green", "blue")
    assert 0 < given["score"] <= 1


def test_a_task_is_exported_as_a_plain_model_with_the_same_answer(alter: Alter, works: Factory, tmp_path: Path) -> None:
    text = "the green lamp is in the attic"
    code, _, err = alter("export", str(works.home / "tiny"), "--task", "thing", "--to", str(tmp_path / "plain"))
    assert code == 0, err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", local_files_only=True)
    assert model.dtype == torch.float32  # the backbone's own, whatever computes fastest here
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain", local_files_only=True)
    spec = load_domain(works.home / "tiny")
    (prompt,), _ = encode_prompts(tokenizer, spec.task("thing"), [text])
    wrote = model.generate(torch.tensor([prompt]), max_new_tokens=7, do_sample=False)[0, len(prompt) :]
    (answer,) = decode_answers(tokenizer, [wrote.tolist()])
    _, asked, _ = alter("predict", str(works.home / "tiny"), "--task", "thing", text)
    assert answer == asked.strip()


@pytest.mark.parametrize("after", ["a run that ended well", "a run that was killed"])
def test_a_second_run_notices_that_nothing_has_changed(alter: Alter, works: Factory, after: str) -> None:
    """After a run that ended well that is told before Prefect is asked, else by the flow, which looks what was left."""
    if after == "a run that was killed":
        (works.home / "alter" / "runs" / "tiny" / OPEN_MARK).touch()
    code, out, err = alter("run", str(works.home / "tiny"), "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "unchanged"
    assert "nothing has changed: spec, data, backbone and code" in err
    assert len(versions(alter)) == 1


def test_a_run_that_was_killed_after_its_promotion_is_brought_to_its_end(alter: Alter, works: Factory) -> None:
    store = works.store
    card = store.get("tiny", 1)["description"]
    assert "**Promoted to champion**: there is no champion yet." in card
    store.client.delete_model_version_tag("tiny", "1", "settled")
    store.set_card("tiny", 1, "as it was registered")
    code, out, err = alter("run", str(works.home / "tiny"), "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "unchanged"
    assert "was promoted by a run that was killed then" in err
    assert store.get("tiny", 1)["description"] == card
    assert store.get("tiny", 1)["tags"]["settled"] == "yes"


def test_a_domain_that_has_lost_its_champion_gets_it_back(alter: Alter, works: Factory) -> None:
    store = works.store
    store.client.delete_registered_model_alias("tiny", "champion")
    code, out, err = alter("run", str(works.home / "tiny"), "--json")
    assert code == 0, err
    assert [json.loads(out)[key] for key in ("status", "version")] == ["champion", 1]
    assert len(versions(alter)) == 1
    assert "stage_one: reused" in err


def test_a_stage_two_setting_reuses_stage_one(alter: Alter, works: Factory, tiny_backbone: Path) -> None:
    spec = tiny_spec(tiny_backbone)
    spec["stage_two"]["steps"] = 4
    other = write_domain(works.home / "other", spec)
    code, out, err = alter("run", str(other), "--json")
    assert code == 0, err
    assert "stage_one: reused" in err
    assert "stage_two: reused" not in err
    outcome = json.loads(out)
    assert outcome["version"] == 2
    assert set(outcome["scorecards"]) == {"zero_shot", "bag_of_words", "stage_one", "stage_two", "champion"}
    client = works.store.client
    runs = [client.get_model_version("tiny", number).run_id for number in ("1", "2")]
    told = [[(m.step, m.value) for m in client.get_metric_history(run, "stage_one.loss")] for run in runs]
    assert sorted(told[0]) == sorted(told[1]) != []  # of a stage that was reused, too
    aliases = {row["version"]: row["aliases"] for row in versions(alter)}
    assert aliases == (
        {1: [], 2: ["champion"]} if outcome["status"] == "champion" else {1: ["champion"], 2: ["challenger"]}
    )


def test_answers_abstain_where_a_task_is_not_right_as_often_as_is_asked_for(
    alter: Alter, works: Factory, tiny_backbone: Path
) -> None:
    """Of 11 validation rows a few right ones show that 2% are; 15 show nothing like 99%."""
    spec = tiny_spec(tiny_backbone)
    spec["tasks"][0]["abstain_precision"] = 0.02
    spec["tasks"][1]["abstain_precision"] = 0.99
    file = write_domain(works.home / "tiny", spec)
    code, out, err = alter("run", str(file), "--json")
    assert code == 0, err
    assert "stage_two: reused" in err
    outcome = json.loads(out)
    facts: Any = works.store.facts("tiny", outcome["version"])
    tasks = facts["scorecards"]["stage_two"]["tasks"]
    bound = tasks["colour"]["calibration"]["bound"]
    assert bound["precision"] == 0.02
    assert 2 <= bound["right"] <= bound["kept"] <= 11
    assert "match abstains always: 15 validation rows show no bound that leaves 99.0%" in " ".join(outcome["limits"])
    assert tasks["match"]["abstention"]["share"] == 1
    assert tasks["thing"]["abstention"] is None
    card = works.store.get("tiny", outcome["version"])["description"].replace("&nbsp;", "")
    shown = f"{bound['right']} of {bound['kept']} validation rows above it are"
    assert f"colour: abstains below {bound['below']:.3f}, which is to leave 2.0% of answers right: {shown}; " in card
    assert "match: abstains always" in card
    answers = works.home / "answers.jsonl"
    asked = works.home / "asked.jsonl"
    texts = ["the red ball is in the hall", "the green lamp is in the attic", "a blue cup"]
    rows = [{"task": task, "input": text} for task in ("colour", "match") for text in texts]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    which = str(outcome["version"])
    code, _, err = alter("predict", str(file), "--version", which, "--file", str(asked), "--out", str(answers))
    assert code == 0, err
    given = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["abstain"] for row in given] == [
        row["score"] < bound["below"] if row["task"] == "colour" else True for row in given
    ]


def test_an_ablation_is_kept_as_a_run_with_a_nested_run_for_each_arm(
    alter: Alter, works: Factory, tmp_path: Path
) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text("wide: {mta: {rank: 3}}\n")
    given = ["--seeds", "1", "--rows", "30", "--rate", "0.001", "--at-once", "2", "--variants", str(variants)]
    given += ["--arm", "zero_shot", "--arm", "wide"]
    code, out, err = alter("ablate", str(works.home / "tiny"), "--json", *given)
    assert code == 0, err
    arms = {arm["name"]: arm for arm in json.loads(out)["arms"]}
    client = works.store.client
    experiment = client.get_experiment_by_name("tiny ablation")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"ablation of tiny", "zero_shot", "wide"}
    for name, arm in arms.items():
        assert runs[name].data.tags["mlflow.parentRunId"] == runs["ablation of tiny"].info.run_id
        assert runs[name].data.metrics["macro"] == pytest.approx(arm["macro"]["value"])
        assert runs[name].info.status == "FINISHED"
    assert json.loads(runs["wide"].data.params["grid.0.001"]) == pytest.approx(arms["wide"]["grid"]["0.001"])

    variants.write_text("wide: 3\nnarrow: {mta: {}}\n")
    code, _, err = alter("ablate", str(works.home / "tiny"), "--variants", str(variants))
    assert code == 2
    assert "wide: 3 is no mapping" in err
    assert "Traceback" not in err
    with FileLock(works.home / "alter" / "runs" / "tiny" / "ablation" / ABLATION_LOCK):
        code, _, err = alter("ablate", str(works.home / "tiny"), "--json", *given[:-6], "--arm", "zero_shot")
    assert code == 2
    assert "an ablation of tiny runs in this workspace" in err


def _misspelt(spec: dict[str, Any], rows: dict[str, Any]) -> None:
    spec["tasks"][0]["sorce"] = spec["tasks"][0].pop("source")


def _missing_file(spec: dict[str, Any], rows: dict[str, Any]) -> None:
    spec["tasks"][0]["source"]["path"] = "colours.jsonl"


def _foreign_label(spec: dict[str, Any], rows: dict[str, Any]) -> None:
    rows["colour"][7]["target"] = "mauve"


def _empty(spec: dict[str, Any], rows: dict[str, Any]) -> None:
    rows["colour"] = []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (_misspelt, "did you mean 'source'?"),
        (_missing_file, "colours.jsonl"),
        (_foreign_label, "colour.jsonl:8"),
        (_empty, "colour"),
    ],
)
def test_wrong_input_ends_with_a_message_and_registers_nothing(
    alter: Alter,
    works: Factory,
    tmp_path: Path,
    tiny_backbone: Path,
    change: Callable[[dict[str, Any], dict[str, Any]], None],
    place: str,
) -> None:
    spec, rows = {**tiny_spec(tiny_backbone), "name": "broken"}, tiny_rows()
    change(spec, rows)
    code, _, err = alter("run", str(write_domain(tmp_path / "broken", spec, rows)))
    assert code == 2, err
    assert place in err
    assert "Traceback" not in err
    assert works.store.domains() == ["tiny"]
