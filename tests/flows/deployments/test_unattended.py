"""Flows that nobody watches, on a real Prefect server and a real worker: schedules, overlaps, cancelling, killing."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events import emit_event
from prefect.flow_runs import resume_flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Running

from flows.deployments.declarations import SLUG, prefect_yaml
from flows.deployments.names import domain_tag, full_name
from flows.deployments.zombies import apply_automation, zombie_automation
from flows.production.review import review_tag
from tests.conftest import tiny_spec, write_domain
from tests.flows.server import Factory, end, factory, listener, wait_for

pytestmark = pytest.mark.server

STEPS = 2000  # of the slow domain: long enough to be cancelled and killed in, on a quick machine too
EVERY_MINUTE = {"cron": "* * * * *", "timezone": "UTC"}


def domain(home: Path, backbone: Path, name: str, steps: int, **more: Any) -> str:
    """A domain of one task and one stage; the path of its spec."""
    spec = tiny_spec(backbone)
    stage = {"trains": ["backbone", "shared_adapters"], "active": "shared", "steps": steps, "rows_per_step": 8}
    kept = {"name": name, "tasks": spec["tasks"][:1], "stage_one": stage, "evaluation": {"baselines": []}}
    return str(write_domain(home / name, {**spec, **kept, "stage_two": None, **more}))


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path) -> Iterator[Factory]:
    """A server, a worker, and two deployed domains: `quick` starts every minute, `slow` by hand."""
    home = tmp_path_factory.mktemp("works")
    with factory(home) as made, temporary_settings({PREFECT_API_URL: made.url}), listener(made.told) as address:
        hook = CustomWebhookNotificationBlock(name="people", url=address, json_data={"text": "{{subject}} | {{body}}"})
        hook.save("people")
        quick = domain(home, tiny_backbone, "quick", 4, schedule=EVERY_MINUTE)
        slow = domain(home, tiny_backbone, "slow", STEPS)
        done = made.alter("deploy", quick, slow)
        assert done.returncode == 0, done.stderr
        worker = start_worker(made)
        try:
            yield made
        finally:
            end(worker)


def start_worker(made: Factory) -> Any:
    hook = {"ALTER_NOTIFY_BLOCK": "custom-webhook/people"}
    return made.start("prefect", "worker", "start", "--pool", "alter", "--limit", "2", **hook)


@pytest.fixture
def client(works: Factory) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


def start(client: SyncPrefectClient, name: str) -> UUID:
    deployment = client.read_deployment_by_name(full_name(name))
    return client.create_flow_run_from_deployment(deployment.id).id


def ended(client: SyncPrefectClient, run: UUID) -> FlowRun:
    def final() -> FlowRun | None:
        found = client.read_flow_run(run)
        return found if found.state and found.state.is_final() else None

    return wait_for(final, f"the flow run {run} ends")


def suspended(client: SyncPrefectClient, name: str, after: str | None = None) -> FlowRun:
    """The run that asks for a person's word, once it waits, and not as it did `after` that time."""

    def waits() -> FlowRun | None:
        for run in client.read_flow_runs():
            state = run.state
            if review_tag(name) in run.tags and state and state.is_paused():
                return run if state.state_details.pause_key != after else None
        return None

    return wait_for(waits, f"a run asks for a person's word on {name}")


def processes(run: UUID) -> list[psutil.Process]:
    """Of a flow run."""
    found = psutil.process_iter(["environ"])
    return [
        one
        for one in found
        if (one.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == str(run) and one.pid != os.getpid()
    ]


def rows(works: Factory, name: str) -> list[dict[str, Any]]:
    """What the training of a domain has written so far."""
    files = (works.home / "alter" / "runs" / name).glob("stage_one-*/metrics.jsonl")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    return [row for row in map(json.loads, lines) if row["phase"] == "train"]


def mlflow_states(works: Factory, name: str) -> list[str]:
    """Statuses of a domain's MLflow runs, oldest first."""
    from registry.store import open_client

    store = open_client(f"sqlite:///{works.home}/alter/mlflow/mlflow.db")
    experiment = store.get_experiment_by_name(name)
    if experiment is None:
        return []
    found = store.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [str(run.info.status) for run in found]


def news(client: SyncPrefectClient, kind: str, name: str) -> list[dict[str, Any]]:
    """The events of this kind that the server has of a domain."""
    found = client._client.post("/events/filter", json={"filter": {"event": {"name": [f"alter.{kind}"]}}})
    return [
        event for event in found.json()["events"] if event["resource"]["prefect.resource.id"] == f"alter.domain.{name}"
    ]


def test_cancelling_stops_the_training_and_leaves_a_checkpoint(works: Factory, client: SyncPrefectClient) -> None:
    run = start(client, "slow")
    wait_for(lambda: rows(works, "slow"), "the training makes steps")

    overlapping = ended(client, start(client, "slow"))
    assert overlapping.state is not None
    assert overlapping.state.type == StateType.CANCELLED

    client.set_flow_run_state(run, Cancelling())
    cancelled = ended(client, run)
    assert cancelled.state is not None
    assert cancelled.state.type == StateType.CANCELLED
    assert cancelled.name.startswith("slow ")
    wait_for(lambda: not [job for job in works.jobs() if "slow" in " ".join(job.cmdline())], "its job is gone")
    assert mlflow_states(works, "slow") == ["KILLED"]
    wait_for(lambda: [text for text in works.told if cancelled.name in text and "Cancel" in text], "people are told")
    assert list((works.home / "alter" / "runs" / "slow").glob("stage_one-*/checkpoints/state-*/checkpoint.json"))


def test_after_a_kill_the_next_run_goes_on_from_the_checkpoint(works: Factory, client: SyncPrefectClient) -> None:
    before = rows(works, "slow")
    run = start(client, "slow")
    resumed = wait_for(lambda: rows(works, "slow")[len(before) :], "the next run trains on")
    assert resumed[0]["step"] == before[-1]["step"] + 1

    flow_process = client.read_flow_run(run)
    assert flow_process.state is not None
    assert flow_process.state.type == StateType.RUNNING
    killed = processes(run)
    assert killed
    for process in killed:
        if "/job.json" not in " ".join(process.cmdline()):  # the job is left working: the next run has to find it
            process.send_signal(signal.SIGKILL)

    reached = rows(works, "slow")[-1]["step"]
    done = works.alter("run", str(works.home / "slow"), "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["status"] == "champion"
    steps = [row["step"] for row in rows(works, "slow")]
    assert steps[-1] == STEPS
    assert len(steps) < STEPS + reached  # not begun again
    assert mlflow_states(works, "slow") == ["KILLED", "KILLED", "FINISHED"]
    state = ended(client, run).state
    assert state is not None
    assert state.type == StateType.CRASHED


def test_a_schedule_starts_its_domain_and_a_second_run_is_skipped(works: Factory, client: SyncPrefectClient) -> None:
    def scheduled() -> list[FlowRun]:
        runs = client.read_flow_runs()
        return [r for r in runs if domain_tag("quick") in r.tags and r.state and r.state.is_completed()]

    first = wait_for(scheduled, "a scheduled run of `quick` completes")
    assert all(run.auto_scheduled for run in first)
    run = ended(client, start(client, "quick"))
    while run.state and run.state.type == StateType.CANCELLED:  # the schedule was there first
        run = ended(client, start(client, "quick"))
    assert run.state is not None
    assert run.state.is_completed()
    assert mlflow_states(works, "quick") == ["FINISHED"]
    listed = json.loads(works.alter("status", str(works.home / "quick"), "--json").stdout)
    # The next minute's run may be on its way already.
    assert listed[0]["state"] in ("Completed", "Running", "Cancelled", "Submitting", "Pending")
    assert listed[0]["champion"] == 1
    assert listed[0]["next"] is not None
    wait_for(lambda: [text for text in works.told if "quick version 1: champion" in text], "the block tells the news")
    found = wait_for(lambda: news(client, "champion", "quick"), "the event is there")
    assert domain_tag("quick") in str(found[0]["related"])  # of the flow run


def test_deploying_again_changes_nothing_and_a_schedule_that_left_its_spec_stops(
    works: Factory, client: SyncPrefectClient, tiny_backbone: Path
) -> None:
    specs = [str(works.home / name / "domain.yaml") for name in ("quick", "slow")]
    again = works.alter("deploy", *specs)
    assert again.returncode == 0, again.stderr
    assert all(": unchanged" in line for line in again.stdout.splitlines())

    domain(works.home, tiny_backbone, "quick", 4)
    stopped = works.alter("deploy", *specs)
    assert "quick: changed (schedule; no schedule)" in stopped.stdout
    deployment = client.read_deployment_by_name(full_name("quick"))
    assert deployment.schedules == []
    waiting = [r for r in client.read_flow_runs() if r.deployment_id == deployment.id and r.state.is_scheduled()]
    assert waiting == []

    domain(works.home, tiny_backbone, "quick", 4, schedule={**EVERY_MINUTE, "active": False})
    assert "quick: changed" in works.alter("deploy", *specs).stdout
    (schedule,) = client.read_deployment_by_name(full_name("quick")).schedules
    assert (schedule.slug, schedule.active) == (SLUG, False)


def test_what_nobody_decides_on_in_time_is_put_aside_though_no_run_comes(
    works: Factory, client: SyncPrefectClient, tiny_backbone: Path
) -> None:
    asks = {"promotion": {"mode": "review", "wait": "14d"}}
    spec = domain(works.home, tiny_backbone, "asked", 4, **asks)
    assert "asked (watch): created" in works.alter("deploy", spec).stdout
    done = works.alter("run", spec, "--json")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "waiting"), done.stderr
    wait_for(lambda: news(client, "waiting", "asked"), "that it waits is an event")

    def look() -> None:
        deployment = client.read_deployment_by_name("watch/asked")
        state = ended(client, client.create_flow_run_from_deployment(deployment.id).id).state
        assert state is not None
        assert state.is_completed(), state.message

    look()
    waits = works.store.alias("asked", "review")
    assert waits is not None
    question = suspended(client, "asked")
    works.store.tag("asked", 1, {"review_until": "2026-01-15T00:00:00.000Z"})  # which is past
    look()
    assert works.store.alias("asked", "review") is None
    assert "put aside: nobody decided until 2026-01-15" in works.store.get("asked", 1)["description"]
    state = ended(client, question.id).state
    assert state is not None
    assert state.message == "asked version 1: put aside: nobody decided until 2026-01-15 00:00 UTC"
    (told,) = wait_for(lambda: news(client, "refused", "asked"), "that is an event")
    assert told["payload"]["text"] == "it waited for approval in vain, and is put aside"
    wait_for(lambda: [text for text in works.told if "asked version 1: refused" in text], "the block tells it")

    works.store.set_review("asked", 1, None)  # and by the command, where no server is
    done = works.alter("watch", spec, own_server=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "asked version 1: it waited for approval in vain, and is put aside",
        "asked: nothing to do: its spec has no trigger",
    ]
    domain(works.home, tiny_backbone, "asked", 4)
    again = works.alter("deploy", spec).stdout
    assert "asked (watch): removed" in again
    assert "asked (review): removed" in again


def test_a_person_decides_in_prefects_pages_and_no_process_is_held_until_then(
    works: Factory, client: SyncPrefectClient, tiny_backbone: Path
) -> None:
    asks = {"promotion": {"mode": "review", "reviewers": ["ada"]}}
    spec = domain(works.home, tiny_backbone, "judged", 4, **asks)
    assert "judged (review): created (no schedule)" in works.alter("deploy", spec).stdout
    assert json.loads(works.alter("run", spec, "--json").stdout)["status"] == "waiting"
    run = suspended(client, "judged")
    assert run.state is not None
    wait_for(lambda: not processes(run.id), "its process is gone")
    resume_flow_run(run.id, {"decision": "promote", "reviewer": "eve"})
    suspended(client, "judged", after=run.state.state_details.pause_key)
    assert works.store.alias("judged", "champion") is None
    done = works.alter("reject", spec, "--reason", "it invents dates", LOGNAME="ada")
    assert done.returncode == 0, done.stderr
    state = ended(client, run.id).state
    assert state is not None
    assert state.message == "judged version 1: rejected by ada: it invents dates"

    domain(works.home, tiny_backbone, "judged", 8, **asks)
    assert json.loads(works.alter("run", spec, "--json").stdout)["status"] == "waiting"
    run = suspended(client, "judged")
    resume_flow_run(run.id, {"decision": "promote", "reviewer": "ada", "reason": "read 50 answers"})
    state = ended(client, run.id).state
    assert state is not None
    assert state.message == "judged version 2 is champion now: read 50 answers"
    assert works.store.get("judged", "champion")["tags"]["promoted_by"] == "ada, as typed in Prefect"
    wait_for(lambda: news(client, "champion", "judged"), "that is an event")


def test_prefects_own_deploy_makes_the_same_deployments(works: Factory, client: SyncPrefectClient) -> None:
    spec = str(works.home / "slow" / "domain.yaml")
    client.delete_deployment(client.read_deployment_by_name(full_name("slow")).id)
    written = works.alter("deploy", spec, "--yaml", "prefect.yaml")
    assert written.returncode == 0, written.stderr
    process = works.start("prefect", "--no-prompt", "deploy", "--all")
    assert process.wait(240) == 0
    assert "slow: unchanged" in works.alter("deploy", spec).stdout


def test_a_run_whose_heartbeats_stop_is_marked_crashed(works: Factory, client: SyncPrefectClient) -> None:
    automation = zombie_automation(silent_seconds=10).model_copy(update={"name": "short"})
    assert apply_automation(client, automation) == "created"
    assert apply_automation(client, automation) == "unchanged"
    flow_id = client.create_flow_from_name("produce")
    deployment = client.read_deployment_by_name(full_name("slow"))
    run = client.create_flow_run_from_deployment(deployment.id, state=Running()).id
    assert flow_id == deployment.flow_id
    tag = {"prefect.resource.id": "prefect.tag.alter", "prefect.resource.role": "tag"}

    def beat_and_look() -> bool:
        found = client.read_flow_run(run)
        return found.state is not None and found.state.type == StateType.CRASHED

    emit_event("prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run}"}, related=[tag])
    wait_for(beat_and_look, "the automation ends the silent run")


def test_the_yaml_names_every_domain_once(tmp_path: Path, tiny_backbone: Path) -> None:
    names = ("one", "two")
    specs = [domain(tmp_path, tiny_backbone, name, 1, schedule=EVERY_MINUTE) for name in names]
    text = prefect_yaml(specs, "pool")
    assert [text.count(f"- name: {name}\n") for name in names] == [1, 1]
    assert "ALTER_HOME" not in text  # a folder of this machine, which the pool's workers may not see
    assert prefect_yaml(specs, "alter").count("ALTER_HOME") == 2
