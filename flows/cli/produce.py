"""Commands that produce a version: run, add-task."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alter_core.errors import AlterError
from flows import make_prefect_home
from flows.cli import unattended as commands_unattended
from flows.cli.options import DataRoot, Domain, Json, Quiet
from flows.production.exit_codes import OF_SEVERAL

if TYPE_CHECKING:
    from flows import many
    from flows.production.plan import Plan

app = typer.Typer()

Verbose = Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log as well.")]
Processes = Annotated[int, typer.Option(min=1, help="Training processes: one per GPU, say.")]


@app.command(epilog=f"Exit code for several domains: {OF_SEVERAL}.")
def run(
    context: typer.Context,
    domains: Annotated[list[str] | None, typer.Argument(metavar="DOMAIN", help="Names, folders or specs.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every domain under domains/.")] = False,
    deployed: Annotated[
        bool, typer.Option("--deployed", help="Start the domains' deployments side by side, and wait for them.")
    ] = False,
    data_root: DataRoot = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run even when nothing has changed since a registered version.")
    ] = False,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="Train the champion's tasks whose rows have changed; the others stay as they are."
        ),
    ] = False,
    processes: Processes = 1,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Produce domains: ingest, validate, train both stages, evaluate, register, and promote if it holds.

    What is unchanged since an earlier run is reused; a run that was stopped goes on where it was. Of several domains,
    one that fails stops no other.
    """
    if bool(domains) == every:
        raise AlterError("give the domains to run, or --all (and not both)")
    _prepare_prefect(verbose)
    from flows.production.plan import Plan

    names = commands_unattended.all_or(domains)
    parameters: many.Parameters = {"force": force, "processes": processes, "refresh": refresh}
    here: many.Parameters = {**parameters, "data_root": str(data_root) if data_root else None}
    if len(names) == 1 and not deployed:
        plan = Plan.read(names[0], data_root, refresh=refresh)  # a wrong spec is reported before anything starts
        _produce_one(plan, names[0], here, quiet, as_json)
        return
    # A deployment has a data root of its own: not this shell's, unless it is asked for.
    source = context.get_parameter_source("data_root")
    asked = source is not None and source.name == "COMMANDLINE"
    given: many.Parameters = {**parameters}
    if data_root and asked:
        given["data_root"] = str(data_root.absolute())
    raise typer.Exit(_produce_several(names, data_root, given if deployed else here, deployed, quiet, as_json))


def _produce_several(
    names: list[str], data_root: Path | None, parameters: "many.Parameters", deployed: bool, quiet: bool, as_json: bool
) -> int:
    """Exit code of them all."""
    from flows import many
    from flows.production.display import console_display

    def note(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    def on_end(one: many.Ended) -> None:
        note(f"{one.domain}: {one.message or 'done'}")

    plans, wrong = many.read_plans(names, data_root)
    with console_display(quiet).shown():
        ended = (
            many.produce_deployed(plans, parameters, on_end, note)
            if deployed
            else many.produce_each(plans, parameters, on_end)
        )
    ended = [*wrong, *ended]
    typer.echo(many.ended_json(ended)) if as_json else many.print_ended(ended)
    return many.exit_code(ended)


@app.command("add-task")
def add_task(
    domain: Domain,
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task of the spec that the champion lacks.")],
    data_root: DataRoot = None,
    processes: Processes = 1,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Teach the champion one more task: only its own adapter and gate rows train.

    Describe the task in the domain's spec first. The champion's other tasks answer as before, to the bit; the outcome
    is a new version, scored and promoted by the same rule as any other.
    """
    _prepare_prefect(verbose)
    from flows.production.plan import Plan

    plan = Plan.read(domain, data_root, task)
    root = str(data_root) if data_root else None
    _produce_one(plan, domain, {"added": task, "processes": processes, "data_root": root}, quiet, as_json)


def _prepare_prefect(verbose: bool) -> None:
    """Before Prefect is imported: it reads the environment then."""
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    make_prefect_home()


def _produce_one(plan: "Plan", given: str, parameters: "many.Parameters", quiet: bool, as_json: bool) -> None:
    from flows.cli.summary import print_outcome
    from flows.production.display import console_display
    from flows.production.unchanged import unchanged

    with console_display(quiet).shown():
        outcome = None if parameters.get("force") else unchanged(plan)
        if outcome is None:
            from flows import many  # late for speed: Prefect is not needed where nothing is to be done

            outcome = many.produce_here(plan, parameters)
    typer.echo(outcome.to_json()) if as_json else print_outcome(outcome, given)
