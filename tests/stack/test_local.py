"""The whole stack on loopback: PostgreSQL, Redis where it is installed, MLflow with accounts, Prefect, a worker."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from alter_core.errors import WorkspaceError
from registry.champions import CHAMPION
from registry.errors import RegistryInputError
from registry.models import CHALLENGER, REVIEW, ModelStore
from stack import manager, steps
from stack.place import Place
from stack.programs import postgres_folder
from tests.conftest import tiny_spec, write_domain
from tests.flows.server import wait_for
from tests.stack.ports import free_ports

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A running stack. Not in pytest's folder, which PostgreSQL's own user may not enter."""
    try:
        postgres_folder()
    except WorkspaceError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="alter-stack-") as name:
        Path(name).chmod(0o711)
        made = Place(Path(name) / "alter", free_ports())
        made.home.mkdir()
        steps.up(made, lambda _: None)
        try:
            yield made
        finally:
            steps.down(made)


@pytest.fixture(scope="module")
def domain(place: Place, tiny_backbone: Path) -> str:
    """A domain of one task that was deployed and produced through the stack; the path of its spec."""
    spec = tiny_spec(tiny_backbone)
    changed = {"tasks": spec["tasks"][:1], "evaluation": {"baselines": []}}
    file = str(write_domain(place.home.parent / "tiny", {**spec, **changed}))
    for command in (["deploy", file], ["run", file, "--deployed"]):
        done = alter(place, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    return file


def alter(place: Place, *arguments: str, account: str = "factory") -> "subprocess.CompletedProcess[str]":
    """The command line as a person with this MLflow account."""
    return subprocess.run(
        [sys.executable, "-c", "from flows.cli.app import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=place.home.parent,
        env={**os.environ, **place.client(account), "PYTHONPATH": os.getcwd(), "COLUMNS": "160"},
    )


def status_of(request: Request | str) -> int:
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def as_account(monkeypatch: pytest.MonkeyPatch, place: Place, account: str) -> ModelStore:
    """The registry as this account sees it."""
    for name, value in place.client(account).items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    return ModelStore(place.mlflow_url)


def test_a_domain_is_produced_through_the_stack(place: Place, domain: str) -> None:
    listed = alter(place, "models", domain, "--json")
    assert listed.returncode == 0, listed.stderr
    (version,) = json.loads(listed.stdout)
    assert CHAMPION in version["aliases"]
    answer = alter(place, "predict", domain, "--task", "colour", "the red ball is in the hall", account="reader")
    assert answer.stdout.strip() in ("red", "green", "blue"), answer.stderr


def test_no_server_looks_for_another_where_it_is_not(place: Place, domain: str) -> None:
    """A setting that reaches nobody shows as a failing connection to a default port."""
    logs = {file.name: file.read_text(encoding="utf-8", errors="replace") for file in place.logs.glob("*.log")}
    assert "mlflow.log" in logs
    assert [name for name, text in logs.items() if "ConnectionError" in text or "Connection refused" in text] == []


@pytest.mark.parametrize("path", ["", "/api/2.0/mlflow/experiments/search?max_results=1", "/get-artifact?path=x"])
def test_mlflow_serves_nothing_without_a_password(place: Place, path: str) -> None:
    assert status_of(place.mlflow_url + path) == 401


def test_prefect_serves_nothing_without_a_password(place: Place) -> None:
    asked = Request(f"{place.prefect_url}/flow_runs/filter", b"{}", {"Content-Type": "application/json"})
    assert status_of(asked) == 401


def test_a_host_that_was_not_named_is_refused(place: Place) -> None:
    asked = Request(f"{place.mlflow_url}/api/2.0/mlflow/experiments/search", headers={"Host": "elsewhere.example"})
    assert status_of(asked) == 403


def test_a_reader_promotes_and_changes_nothing(place: Place, domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = as_account(monkeypatch, place, "reader")
    (before,) = store.versions("tiny")
    asked = [
        lambda: store.set_challenger("tiny", 1),
        lambda: store.tag("tiny", 1, {"decision": "promote"}),
        lambda: store.set_card("tiny", 1, "mine"),
        lambda: store.client.delete_model_version("tiny", "1"),
        lambda: store.client.delete_registered_model_alias("tiny", CHAMPION),
        lambda: store.client.log_model_artifacts(before["model_id"], str(Path(domain).parent)),
    ]
    for each in asked:
        with pytest.raises(Exception, match=r"refuses the account 'reader'|Permission denied|403"):
            each()
    assert store.versions("tiny") == [before]
    as_account(monkeypatch, place, "factory").set_challenger("tiny", 1)  # who made it may
    assert store.alias("tiny", CHALLENGER) is not None


def test_a_candidate_is_decided_by_the_account_that_its_spec_names_whatever_a_person_is_called_at_a_machine(
    place: Place, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = as_account(monkeypatch, place, "factory")
    store.tag("tiny", 1, {"decision": "review", "reviewers": "factory"})
    store.set_review("tiny", 1, 1)
    monkeypatch.setenv("LOGNAME", "factory")
    refused = alter(place, "reject", domain, "--reason", "no", account="reader")
    assert (refused.returncode, store.alias("tiny", REVIEW) is None) == (2, False)
    assert "is for factory to decide on (promotion > reviewers), and this is reader" in refused.stderr
    done = alter(place, "reject", domain, "--reason", "it invents dates")
    assert done.stdout.startswith("tiny version 1 is rejected: it invents dates"), done.stderr
    assert store.alias("tiny", REVIEW) is None
    assert store.get("tiny", 1)["tags"]["rejected_by"] == "factory"


def test_a_domain_that_was_never_made_has_no_champion(
    place: Place, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = as_account(monkeypatch, place, "reader")
    assert store.alias("never-made", CHAMPION) is None
    with pytest.raises(RegistryInputError, match="no version of 'never-made'"):
        store.get("never-made", CHAMPION)


@pytest.mark.parametrize("name", ["worker-1", "mlflow", "prefect-server"])
def test_what_is_killed_comes_back(place: Place, domain: str, name: str) -> None:
    before = manager.process_ids(place)[name]
    psutil.Process(before).kill()
    wait_for(lambda: manager.process_ids(place).get(name, before) != before, f"{name} is started again")
    wait_for(lambda: manager.states(place)[name] == "RUNNING", f"{name} runs")


def test_a_second_stack_in_the_same_workspace_is_refused(place: Place) -> None:
    with pytest.raises(WorkspaceError, match="runs already"):
        steps.up(replace(place), lambda _: None)


def test_stopping_leaves_nothing_running_and_starting_again_finds_everything(
    place: Place, domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.down(place)
    assert manager.members(place) == []
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", place.ports.postgres), timeout=2)
    steps.up(place, lambda _: None)
    champion = as_account(monkeypatch, place, "factory").alias("tiny", CHAMPION)
    assert champion is not None
    assert champion["version"] == 1
