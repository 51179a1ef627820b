"""A version that waits for a person's word, as a paused run in Prefect's pages: the form of that run decides as `alter
promote` and `alter reject` do.

A run holds no process while it waits: it suspends itself, and begins anew on a worker once somebody has filled in its
form.
"""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_logger
from prefect.states import Completed
from pydantic import Field

from alter_core.errors import AlterError
from flows.news import is_heard, tell
from flows.notify import notify
from flows.production import decisions, review
from flows.production.review import REVIEW_FLOW, review_tag
from flows.production.stores import model_name, model_store
from registry.accounts import account
from registry.card import plain
from registry.errors import RegistryError
from registry.facts import decided, decision_of
from registry.models import REVIEW, ModelStore
from registry.scorecard import champion_lines
from registry.versions import Version

OPEN = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]


class Decision(RunInput):
    """What becomes of the version."""

    decision: Literal["promote", "reject"]
    reviewer: str = Field(title="Your name")
    reason: str = Field("", description="Why. A rejection needs it, and a promotion that the rule says no to.")


@flow(name=REVIEW_FLOW, persist_result=False, validate_parameters=False, on_failure=[notify])
def ask(domain: str, version: int, model: str) -> Any:
    """Wait for a person's word on `version` of `domain`, and do what it says; where that may not be, the form says why
    and asks again.

    model: MLflow's id of the version's model, as another store has versions of these numbers too. Raises RegistryError.
    """
    store, name = model_store(), model_name(domain)
    found = next((row for row in store.listed(name) if row["model_id"] == model), None)
    if found is None or REVIEW not in found["aliases"]:
        how = review.ending(found) if found else "this worker's MLflow store does not have it"
        return Completed(message=f"{name} version {version}: {how}")
    context, refused = FlowRunContext.get(), ""
    asked = context.flow_run.empirical_policy.pause_keys if context and context.flow_run else None
    if asked:  # its keys are times: what was answered last counts, what came before was not taken
        answer = suspend_flow_run(wait_for_input=Decision, key=max(asked))
        decide = decisions.promote if answer.decision == "promote" else decisions.reject
        try:
            made = decide(domain, str(version), answer.reason.strip(), answer.reviewer)
        except AlterError as error:
            refused = str(error)
            get_run_logger().warning(f"{name} version {version} waits on: {refused}")
        else:
            if made.news:
                tell(made.news, name, made.text, made.version)
            return Completed(message=made.text)
    # Without a timeout: Prefect would call the run failed. What waits for too long is put aside, and that ends the run.
    form = Decision.with_initial_data(description=_description(store, found, refused))
    return suspend_flow_run(wait_for_input=form, key=f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")


def _description(store: ModelStore, version: Version, refused: str) -> str:
    """What stands above the form, in Markdown: whose word is asked for until when, scores beside the champion's, how to
    answer. It is less than the card, whose tables are wider than the form."""
    name, number, parts = version["name"], version["version"], []
    if refused:
        parts.append(f"**Your answer was not taken**: {plain(refused)}")
    if said := decision_of(version["tags"]):
        asked = f"**{said.get('review')}** {plain(said.get('review_detail'))}"
        parts.append(f"{asked}. The rule: {plain(said['reason'])}.")
    try:
        facts = decided(store.facts(name, number), version["tags"])
        parts.append("\n".join(f"- {plain(line)}" for line in champion_lines(facts["scorecards"])))
    except RegistryError as error:  # its files may be gone
        parts.append(plain(error.headline))
    parts.append("Its card in MLflow tells more.")
    if account(store.tracking_uri):
        parts.append(
            "**This form cannot decide**: nobody has checked the name in it, and the MLflow server has accounts. "
            f"`alter promote {name} {number} --reason TEXT` and `alter reject {name} {number} --reason TEXT` do, and "
            "end this run."
        )
    else:
        parts.append("Your name is kept with the version as you type it here; nobody checks it.")
    return "\n\n".join(parts)


def show(store: ModelStore, name: str) -> None:
    """Make the runs of this flow on the Prefect server agree with what waits in `store`: one for the version that does,
    where the flow is deployed for its domain, and no other. Whatever fails is logged and ends nothing.
    """
    try:
        if is_heard():
            with get_client(sync_client=True) as client:
                _show(client, store, name)
    except Exception as error:  # whatever a client may raise: what was decided stands
        get_logger("flows.approval").error("Prefect does not show what of %s waits for approval: %s", name, error)


def _show(client: SyncPrefectClient, store: ModelStore, name: str) -> None:
    waiting = store.alias(name, REVIEW)
    key = f"{waiting['model_id']} {waiting['tags'].get('review_since')}" if waiting else None
    ours = {row["model_id"]: row for row in store.listed(name)}
    for run in _open(client, name):
        row = ours.get(str(run.parameters.get("model")))  # other stores have runs here too
        if row and run.idempotency_key != key:
            asks_anew = waiting and waiting["version"] == row["version"]
            _end(client, run, name, "it is asked for again, in another run" if asks_anew else review.ending(row))
    if waiting:
        with suppress(ObjectNotFound):
            client.create_flow_run_from_deployment(
                client.read_deployment_by_name(f"{REVIEW_FLOW}/{name}").id,
                name=f"{name} version {waiting['version']} for approval",
                parameters={"version": waiting["version"], "model": waiting["model_id"]},
                idempotency_key=key,  # by which Prefect makes one, however many ask for it
            )


def end_all(client: SyncPrefectClient, name: str, why: str) -> None:
    """End the runs of this flow for a domain."""
    for run in _open(client, name):
        _end(client, run, name, why)


def _open(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            tags=FlowRunFilterTags(all_=[review_tag(name)]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN)),
        )
    )


def _end(client: SyncPrefectClient, run: FlowRun, name: str, how: str) -> None:
    ended: State[Any] = Completed(message=f"{name} version {run.parameters.get('version')}: {how}")
    client.set_flow_run_state(run.id, ended)
