"""MLflow runs as the flow writes them."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alter_core.spec import DomainSpec
from registry.errors import RegistryError, StoreUnavailable
from registry.tracking import MAX_NAME, MAX_VALUE, WORKSPACE, Tracker
from tests.conftest import tiny_spec
from tests.registry.conftest import Store


def test_nested_parameters_are_flattened_and_tasks_are_named_not_numbered(store: Store) -> None:
    params = {
        "mta": {"layers": "last_1", "rank": None},
        "tasks": [{"name": "intent", "metrics": ["accuracy", "macro_f1"]}, {"name": "title", "labels": []}],
        "stages": [{"steps": 3}],
        "seed": 0,
        "trunk_cache": False,
    }
    tracker = store.tracker()
    run = tracker.start_run("one", params, {"domain": "tiny"})
    assert store.models.client.get_run(run).data.params == {
        "mta.layers": "last_1",
        "tasks.intent.name": "intent",
        "tasks.intent.metrics": '["accuracy", "macro_f1"]',
        "tasks.title.name": "title",
        "stages.0.steps": "3",
        "seed": "0",
        "trunk_cache": "false",
    }


def test_an_over_long_value_is_cut_and_says_so(store: Store) -> None:
    run = store.tracker().start_run("one", {"text": "é" * 10_000}, {})
    value = store.models.client.get_run(run).data.params["text"]
    assert len(value) == MAX_VALUE
    assert value.endswith("(cut; 10,000 characters in all)")


def test_a_mapping_of_a_spec_whose_keys_are_a_persons_own_is_one_parameter(store: Store, tmp_path: Path) -> None:
    plain = tiny_spec(tmp_path)
    own = {"C++": "red", "what's up?": "green", "Category (en)": "blue", "a" * 300: "red", "": "red"}
    plain["tasks"][0]["source"] |= {"label_map": own, "where": {"Language (ISO)": "en"}}
    plain["tasks"][0]["quality"] = {
        "expectations": [{"expectation": "ExpectColumnToExist", "arguments": {"a/../b": {"": 1}}}] * 2
    }
    spec = DomainSpec.model_validate(plain).model_dump(mode="json")
    run = store.tracker().start_run("one", spec, {})
    params = store.models.client.get_run(run).data.params
    colour = "tasks.colour"
    assert params[f"{colour}.source.label_map"].startswith(json.dumps(own)[:300])
    assert json.loads(params[f"{colour}.source.where"]) == {"Language (ISO)": "en"}
    assert json.loads(params[f"{colour}.quality.expectations.1.arguments"]) == {"a/../b": {"": 1}}
    assert params[f"{colour}.source.path"]
    assert not any(name.startswith(f"{colour}.source.label_map.") for name in params)


DEEP = ".".join(["k" * 99] * 2)


@pytest.mark.parametrize(
    ("params", "held"),
    [
        ({"arms": {"C++": {"rank": 3}, "plain": 1}}, {"arms": '{"C++": {"rank": 3}, "plain": 1}'}),
        ({"arms": {"Yes": 1, "yes": 2}}, {"arms": '{"Yes": 1, "yes": 2}'}),
        ({"arms": {"..": 1}}, {"arms": '{"..": 1}'}),
        ({"C++": 1}, {"parameters": '{"C++": 1}'}),
        ({"grid": {"0.001": 1, "1e-05": 2}}, {"grid.0.001": "1", "grid.1e-05": "2"}),
        ({"a": [{"name": "same", "x": 1}, {"name": "same", "x": 2}]},
         {"a.0.name": "same", "a.0.x": "1", "a.1.name": "same", "a.1.x": "2"}),
        ({"k" * 99: {"k" * 99: {"k" * 99: 1}}}, {DEEP: json.dumps({"k" * 99: 1})}),
        ({"tasks": [{"name": "where", "type": "generation"}]},
         {"tasks.where.name": "where", "tasks.where.type": "generation"}),
    ],
)  # fmt: skip
def test_no_key_makes_a_name_that_mlflow_refuses(store: Store, params: dict[str, Any], held: dict[str, str]) -> None:
    run = store.tracker().start_run("one", params, {})
    assert store.models.client.get_run(run).data.params == held
    assert all(len(name) <= MAX_NAME for name in held)


def test_hundreds_of_parameters_and_thousands_of_metrics_fit(store: Store) -> None:
    tracker = store.tracker()
    run = tracker.start_run("one", {f"p{number}": number for number in range(250)}, {})
    tracker.log_metrics(run, [{"step": step, "metrics": {"loss": step / 2}} for step in range(2500)])
    held = store.models.client.get_run(run).data
    assert len(held.params) == 250
    assert held.metrics["loss"] == 2499 / 2


def test_what_is_no_number_is_left_out_and_nan_is_kept(store: Store) -> None:
    tracker = store.tracker()
    run = tracker.start_run("one", {}, {})
    tracker.log_metrics(run, [{"step": 1, "metrics": {"loss": math.nan, "rate": None, "note": "x", "lr": 1e-3}}])
    metrics = store.models.client.get_run(run).data.metrics
    assert set(metrics) == {"loss", "lr"}
    assert math.isnan(metrics["loss"])


def test_a_data_set_is_an_input_of_the_run_with_digest_and_profile(store: Store) -> None:
    tracker = store.tracker()
    run = tracker.start_run("one", {}, {})
    tracker.log_dataset(run, "tiny", "0123456789abcdef", {"intent": {"train": 3}}, "/data/tiny")
    (found,) = store.models.client.get_run(run).inputs.dataset_inputs
    assert found.dataset.digest == "0123456789abcdef"
    assert json.loads(found.dataset.profile) == {"intent": {"train": 3}}
    assert found.tags[0].value == "training"


def test_a_table_a_file_and_a_folder_come_back(store: Store, tmp_path: Path) -> None:
    tracker = store.tracker()
    run = tracker.start_run("one", {}, {})
    tracker.log_table(run, {"input": ["a", "b"], "score": [0.5, 1.0]}, "samples.json")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<p>hello")
    tracker.log_file(run, tmp_path / "report", "quality")
    tracker.log_file(run, tmp_path / "report" / "index.html", "spec")
    client = store.models.client
    table = json.loads(Path(client.download_artifacts(run, "samples.json", str(tmp_path))).read_text())
    assert table == {"columns": ["input", "score"], "data": [["a", 0.5], ["b", 1.0]]}
    assert [file.path for file in client.list_artifacts(run, "quality")] == ["quality/index.html"]
    assert [file.path for file in client.list_artifacts(run, "spec")] == ["spec/index.html"]


def test_a_run_whose_process_was_killed_is_closed_and_a_living_one_is_not(store: Store) -> None:
    code = (
        "import os, signal; from registry.tracking import Tracker;"
        f"tracker = Tracker({store.uri!r}, {str(store.folder / 'artifacts')!r}, 'tiny');"
        "print(tracker.start_run('gone', {}, {}), flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout.strip()
    tracker = store.tracker()
    alive = tracker.start_run("alive", {}, {})
    assert tracker.sweep() == [gone]
    client = store.models.client
    assert client.get_run(gone).info.status == "KILLED"
    assert "process ended" in client.get_run(gone).data.tags["alter.note"]
    assert client.get_run(alive).info.status == "RUNNING"


def test_a_process_id_that_was_given_to_another_process_counts_as_gone(store: Store) -> None:
    tracker = store.tracker()
    run = tracker.start_run("old", {}, {})
    tracker.set_tags(run, {"alter.pid": os.getppid(), "alter.process_started": 12345})
    assert tracker.sweep() == [run]


def test_a_run_of_another_machine_is_left_alone(store: Store) -> None:
    tracker = store.tracker()
    run = tracker.start_run("far", {}, {})
    tracker.set_tags(run, {"alter.host": "elsewhere", "alter.pid": 1, "alter.process_started": 1})
    assert tracker.sweep() == []


def test_a_run_that_fails_before_its_parameters_are_stored_is_closed_by_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    tracker = store.tracker()
    with monkeypatch.context() as patch:
        patch.setattr(tracker._client, "log_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            tracker.start_run("half", {"seed": 0}, {WORKSPACE: "here"})
    (run,) = store.models.client.search_runs([tracker.experiment_id])
    assert {"alter.host", "alter.pid", "alter.process_started", "mlflow.user"} <= set(run.data.tags)
    assert tracker.sweep("here") == [run.info.run_id]


def test_a_run_of_this_workspace_is_closed_from_another_machine_and_those_of_others_are_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pod, and every container that was made anew, has another host name and its own process ids."""
    tracker = store.tracker()
    monkeypatch.setattr("socket.gethostname", lambda: "alter-job-7xk2p")
    gone = tracker.start_run("gone", {}, {WORKSPACE: "here"})
    other = tracker.start_run("other", {}, {WORKSPACE: "there"})
    monkeypatch.setattr("socket.gethostname", lambda: "alter-job-9qq1z")
    assert tracker.sweep() == []
    assert tracker.sweep("here") == [gone]
    assert store.models.client.get_run(gone).info.status == "KILLED"
    assert store.models.client.get_run(other).info.status == "RUNNING"


def test_a_process_that_is_gone_here_may_live_in_a_container_of_the_same_name_elsewhere(store: Store) -> None:
    tracker = store.tracker()
    run = tracker.start_run("other", {}, {WORKSPACE: "there"})
    tracker.set_tags(run, {"alter.pid": os.getppid(), "alter.process_started": 12345})
    assert tracker.sweep("here") == []


def test_an_experiment_that_somebody_deleted_is_used_again(store: Store) -> None:
    first = store.tracker().experiment_id
    store.models.client.delete_experiment(first)
    tracker = store.tracker()
    assert tracker.experiment_id == first
    tracker.end_run(tracker.start_run("one", {}, {}), "FINISHED")


def test_nothing_global_is_set(store: Store) -> None:
    import mlflow

    before = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    tracker = store.tracker()
    tracker.end_run(tracker.start_run("one", {}, {}), "FINISHED")
    assert (mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")) == before
    assert mlflow.active_run() is None


def test_a_server_that_does_not_answer_is_reported_as_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9 does not answer") as caught:
        Tracker("http://127.0.0.1:9", None, "tiny")
    assert caught.value.transient
    assert caught.value.exit_code == 1


def test_an_unknown_run_is_reported_with_the_store(store: Store) -> None:
    with pytest.raises(RegistryError, match="cannot end a run in the MLflow store at sqlite"):
        store.tracker().end_run("0" * 32, "FINISHED")


def test_metrics_keep_their_steps(store: Store) -> None:
    tracker = store.tracker()
    run = tracker.start_run("one", {}, {})
    tracker.log_metrics(run, [{"step": step, "metrics": {"loss": 1 / step}} for step in (1, 2)])
    history = store.models.client.get_metric_history(run, "loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 1.0), (2, 0.5)]


def test_a_run_that_is_deleted_while_its_production_works_is_restored(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = store.tracker()
    run = tracker.start_run("tiny", {}, {})
    store.models.client.delete_run(run)
    tracker.log_metrics(run, [{"step": 1, "metrics": {"loss": 0.5}}])
    assert "was deleted while its production works: it is restored" in caplog.text
    store.models.client.delete_run(run)
    tracker.end_run(run, "FINISHED")
    ended = store.models.client.get_run(run)
    assert (ended.info.status, ended.data.metrics) == ("FINISHED", {"loss": 0.5})
