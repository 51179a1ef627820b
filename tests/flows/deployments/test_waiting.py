"""Flow runs that nothing takes, that are refused and that lost their process, on a real server without a worker."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Pending, Running, Scheduled

from flows.abandoned import close_abandoned, workspace_tag
from flows.deployments.deploy import deploy
from flows.deployments.names import full_name
from flows.deployments.status import status
from flows.many import produce_deployed
from flows.production.plan import Plan
from tests.conftest import tiny_spec, write_domain
from tests.flows.server import Factory, factory, listener

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    home = tmp_path_factory.mktemp("works")
    with factory(home) as made, temporary_settings({PREFECT_API_URL: made.url}), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALTER_HOME", str(home / "alter"))
        yield made


@pytest.fixture
def client(works: Factory) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


NO_RUNS: Any = SimpleNamespace(sweep=lambda _: [])  # of a tracker


def domain(folder: Path, name: str, **more: object) -> str:
    """A domain that is never produced; the path of its spec."""
    return str(write_domain(folder / name, {**tiny_spec(Path("backbone")), "name": name, **more}))


def test_the_status_is_that_of_the_run_that_is_on_and_a_late_start_is_called_late(
    works: Factory, client: SyncPrefectClient
) -> None:
    spec = domain(works.home, "busy", schedule={"cron": "0 3 1 1 *"})
    (row,) = status([spec])
    assert (row.state, row.next, row.scheduled) == (None, None, True)

    deploy([spec], "alter")
    deployment = client.read_deployment_by_name(full_name("busy")).id
    on = client.create_flow_run_from_deployment(deployment, name="on")
    for state in (Pending(), Running()):  # as a worker does
        client.set_flow_run_state(on.id, state)
    refused = client.create_flow_run_from_deployment(deployment, name="refused")
    client.set_flow_run_state(refused.id, Pending())
    assert client.read_flow_run(refused.id).state_type == StateType.CANCELLED
    (row,) = status([spec])
    assert (row.run, row.state) == ("on", "Running")
    client.set_flow_run_state(on.id, Completed())
    (row,) = status([spec])
    assert (row.run, row.state) == ("on", "Completed")

    then = datetime.now(UTC) - timedelta(days=9)
    client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=then))
    (row,) = status([spec])
    assert row.late
    assert row.next == then.isoformat(timespec="seconds")


def test_the_status_of_a_domain_of_which_nothing_is_known_ends_with_2(works: Factory) -> None:
    done = works.alter("status", "nowhere")
    assert done.returncode == 2, done.stderr
    assert "there is no domain 'nowhere'" in done.stdout


def test_who_waits_for_runs_that_nothing_takes_is_told_and_that_they_go_on_at_ctrl_c(
    works: Factory, client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = domain(works.home, "waits")
    deploy([spec], "alter")
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "no worker" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce_deployed([Plan.read(spec)], {}, lambda _: None, say)
    (run,) = [run for run in client.read_flow_runs() if "domain:waits" in run.tags]
    assert said == [
        f"waits: waits for its flow run {works.url.removesuffix('/api')}/runs/flow-run/{run.id}",
        "waits: no worker of pool 'alter' has taken it; `prefect worker start --pool alter` starts one",
    ]
    assert "the flow runs go on without this command: waits (http" in capsys.readouterr().err


def test_prune_removes_the_deployments_whose_spec_is_gone_and_no_other_folders(
    works: Factory, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, gone = domain(works.home / "theirs", "there"), domain(works.home / "theirs", "gone")
    renamed = domain(works.home / "theirs", "renamed")
    deploy([there, gone, renamed], "alter")
    Path(gone).unlink()
    Path(renamed).write_text(Path(renamed).read_text().replace("renamed", "another"))
    own = works.home / "ours"
    domain(own / "domains", "own")
    monkeypatch.chdir(own)
    told = {change.name: change.what for change in deploy(["own"], "alter", whole=True)}
    assert [told.get(name) for name in ("gone", "renamed", "there")] == ["orphan", "orphan", None]
    told = {change.name: change.what for change in deploy(["own"], "alter", whole=True, prune=True)}
    assert [told.get(name) for name in ("gone", "renamed", "there")] == ["removed", "removed", None]
    left = {deployment.name for deployment in client.read_deployments()}
    assert {"own", "there"} <= left
    assert not {"gone", "renamed"} & left


def test_people_are_told_of_a_run_that_the_next_one_finds_without_its_process(
    works: Factory, client: SyncPrefectClient, outside_a_flow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan.read(domain(works.home, "lost"))
    plan.lock_file.parent.mkdir(parents=True)
    deploy([str(plan.file)], "alter")
    deployment = client.read_deployment_by_name(full_name("lost")).id
    tags = [workspace_tag(plan)]
    run = client.create_flow_run_from_deployment(deployment, state=Running(), name="lost 2026", tags=tags)
    with listener(works.told) as address:
        block = CustomWebhookNotificationBlock(name="people", url=address, json_data={"text": "{{subject}} | {{body}}"})
        block.save("people")
        monkeypatch.setenv("ALTER_NOTIFY_BLOCK", "custom-webhook/people")
        close_abandoned(plan, NO_RUNS)
    assert client.read_flow_run(run.id).state_type == StateType.CRASHED
    assert ["lost 2026: Crashed" in text for text in works.told] == [True]


def test_a_job_of_a_killed_run_is_stopped_and_an_ablation_of_the_domain_goes_on(
    works: Factory, outside_a_flow: None
) -> None:
    plan = Plan.read(domain(works.home, "compared"))
    left, on = (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)", str(plan.run_folder(key) / "job.json")])
        for key in ("stage_one", "ablation")
    )
    try:
        close_abandoned(plan, NO_RUNS)
        assert not psutil.pid_exists(left.pid)
        assert on.poll() is None
    finally:
        for process in (left, on):
            process.kill()
            process.wait()
