"""Several domains in one go: one after another here, or side by side through their deployments. One that fails stops
no other.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, TypedDict

import typer
from prefect import tags
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL
from prefect.utilities.urls import url_for
from rich.table import Table

from alter_core.errors import AlterError
from flows.deployments.names import domain_tag, full_name
from flows.deployments.status import is_late
from flows.deployments.zombies import TAG
from flows.production.display import plain_console
from flows.production.ending import explained
from flows.production.exit_codes import FAILED, WRONG
from flows.production.outcome import Outcome
from flows.production.plan import Plan, named_once
from flows.production.stores import model_store
from flows.production.unchanged import unchanged


class Parameters(TypedDict, total=False):
    """Of the flow `produce`, beside the domain."""

    data_root: str | None
    force: bool
    processes: int
    added: str | None
    why: str | None
    refresh: bool


POLL_SECONDS = 2.0
_NEEDED_LATER = ("great_expectations", "transformers.models.auto.tokenization_auto", "transformers.activations")
"""What a run imports for seconds, in the time that its server takes to start."""


@dataclass(frozen=True)
class Ended:
    """How one domain's run ended."""

    domain: str
    outcome: Outcome | None
    """None when it failed, or ran elsewhere."""
    message: str
    exit_code: int


def read_plans(domains: Sequence[str], data_root: Path | None) -> tuple[list[Plan], list[Ended]]:
    """Plans of the domains whose specs are right, and how the others ended: before they began."""
    plans, wrong = [], []
    taken: dict[str, Path] = {}
    for given in domains:
        try:
            plan = Plan.read(given, data_root)
            named_once(plan.spec, plan.file, taken)
            plans.append(plan)
        except AlterError as error:
            wrong.append(Ended(given, None, str(error), error.exit_code))
    return plans, wrong


def produce_here(plan: Plan, parameters: Parameters) -> Outcome:
    """One domain in this process, tagged so that `alter status` finds its flow run. Raises what the flow raises."""
    with _server_starting():
        from flows.deployments.deploy import server_errors
        from flows.produce import produce

        for module in _NEEDED_LATER:
            import_module(module)
        with suppress(AlterError, OSError):  # the flow opens it again, and says why it cannot
            model_store(plan.workspace)
    with tags(TAG, domain_tag(plan.spec.name)), server_errors():
        outcome: Outcome = produce(str(plan.file), **parameters)
        return outcome


@contextmanager
def _server_starting() -> Iterator[None]:
    """The server that Prefect starts for this process, where PREFECT_API_URL names none, comes up beside the block."""
    if PREFECT_API_URL.value():
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer  # late for speed: the half of Prefect that serves

    def start() -> None:
        with suppress(Exception):  # the flow tries again, and says why it cannot
            SubprocessASGIServer().start()

    starting = Thread(target=start, daemon=True)  # Ctrl-C waits for no server
    starting.start()
    yield
    starting.join()


def produce_each(plans: Sequence[Plan], parameters: Parameters, on_end: Callable[[Ended], None]) -> list[Ended]:
    """The domains one after another in this process; `on_end` hears of each as it ends."""
    ended = []
    for plan in plans:
        name = plan.spec.name
        try:
            outcome = None if parameters.get("force") else unchanged(plan)
            outcome = outcome or produce_here(plan, parameters)
            one = Ended(name, outcome, outcome.reason or "", 0)
        except Exception as error:  # also a defect: the other domains are not to blame
            defect = f"a defect of the factory ({type(error).__name__}: {error}); `alter run {plan.file}` shows where"
            message, code = explained(error) or (defect, FAILED)
            one = Ended(name, None, message, code)
        on_end(one)
        ended.append(one)
    return ended


def produce_deployed(
    plans: Sequence[Plan],
    parameters: Parameters,
    on_end: Callable[[Ended], None],
    note: Callable[[str], None],
) -> list[Ended]:
    """The domains as flow runs of their deployments, side by side as far as workers go; waits for all.

    parameters: those that shall be other than the deployment's. A domain that is not deployed ends with a message.
    `note` hears which runs are waited for, and which of them nothing takes; that runs go on when the waiting is cut
    short is said on stderr. Raises AlterError when no server answers.
    """
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    from flows.deployments.deploy import server_client

    ended: dict[str, Ended] = {}

    def end(one: Ended) -> None:
        on_end(one)
        ended[one.domain] = one

    with server_client() as client:
        waiting: dict[str, FlowRun] = {}
        late: set[str] = set()
        try:
            for plan in plans:
                name = plan.spec.name
                try:
                    run: Any = run_deployment(
                        full_name(name), parameters=dict(parameters), timeout=0, as_subflow=False, tags=[TAG]
                    )
                    waiting[name] = run
                    note(f"{name}: waits for its flow run {_place(run)}")
                except ObjectNotFound:
                    end(Ended(name, None, f"it is not deployed yet: run `alter deploy {plan.file}` first", WRONG))
            while waiting:
                for name, started in list(waiting.items()):
                    run = client.read_flow_run(started.id)
                    state = run.state
                    if state is not None and state.is_final():
                        del waiting[name]
                        code = 0 if state.is_completed() else FAILED
                        end(Ended(name, None, f"{state.name}: {state.message or ''}".strip(": "), code))
                    elif name not in late and is_late(run):
                        late.add(name)
                        note(f"{name}: {_taker(run)}")
                if waiting:
                    time.sleep(POLL_SECONDS)
        finally:
            if waiting:  # Ctrl-C, SIGTERM, or a server that is away
                runs = ", ".join(f"{name} ({_place(run)})" for name, run in waiting.items())
                typer.echo(
                    f"\nno longer waiting; the flow runs go on without this command: {runs}. `alter status` shows "
                    "them, and Prefect's UI cancels them",
                    err=True,
                )
    return [ended[plan.spec.name] for plan in plans]


def _taker(run: FlowRun) -> str:
    """That nothing has taken the flow run, and what would."""
    if pool := run.work_pool_name:
        return f"no worker of pool {pool!r} has taken it; `prefect worker start --pool {pool}` starts one"
    return "no `alter serve` has taken it; start one"


def _place(run: FlowRun) -> str:
    """Where people see a flow run."""
    return url_for("flow-run", run.id) or str(run.id)


def exit_code(ended: Sequence[Ended]) -> int:
    """As `exit_codes.OF_SEVERAL` says."""
    codes = {one.exit_code for one in ended} - {0}
    return codes.pop() if len(codes) == 1 else FAILED if codes else 0


def ended_json(ended: Sequence[Ended]) -> str:
    """How the domains ended, for programs."""
    rows = []
    for one in ended:
        kept = {key: getattr(one.outcome, key, None) for key in ("status", "version", "run_key", "seconds")}
        rows.append({"domain": one.domain, "exit_code": one.exit_code, "message": one.message, **kept})
    return json.dumps(rows, indent=2)


def print_ended(ended: Sequence[Ended]) -> None:
    """How the domains ended, for people."""
    out = plain_console()
    table = Table("domain", "ended", "version", "seconds")
    for one in ended:
        if outcome := one.outcome:
            table.add_row(one.domain, outcome.status, str(outcome.version), f"{outcome.seconds:.0f}")
        else:
            table.add_row(one.domain, "done" if one.exit_code == 0 else "failed", "", "")
    out.print(table)
    for one in ended:
        if one.message:
            out.print(f"{one.domain}: {one.message}")
