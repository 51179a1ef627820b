"""The command line: `alter COMMAND`.

Exit codes: 0 done, 1 a run or job failed, 2 wrong input, 130 stopped by hand, 143 stopped by SIGTERM.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from alter_core.errors import AlterError
from flows import commands_domain, commands_registry, commands_unattended, make_prefect_home
from flows.options import DataRoot, Domain, Domains, Json

app = typer.Typer(
    name="alter",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A factory for domain models: one YAML spec in, one registered multi-task small language model out.\n\n"
    "Start with `alter check` to see which domains are there, then `alter run DOMAIN`.",
)

app.add_typer(commands_domain.app)
app.add_typer(commands_unattended.app)
app.add_typer(commands_registry.app)


@app.command()
def check(domains: Domains = None) -> None:
    """Read domain specs and report every problem; nothing is trained or fetched."""
    from alter_core.spec import load_domain
    from flows.plan import domain_folders, find_domain

    wrong: list[AlterError] = []
    for name in domains or sorted(domain_folders()):
        try:
            file = find_domain(name)
            spec = load_domain(file)
        except AlterError as error:
            wrong.append(error)
        else:
            tasks = ", ".join(f"{task.name} ({task.type})" for task in spec.tasks)
            typer.echo(f"{spec.name}: fine. {len(spec.tasks)} tasks: {tasks}")
    if wrong:
        raise AlterError("\n".join(str(error) for error in wrong))


@app.command()
def run(
    domains: Annotated[list[str] | None, typer.Argument(metavar="DOMAIN...", help="Names, folders or specs.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every domain that is found under domains/.")] = False,
    deployed: Annotated[
        bool, typer.Option(help="Start the domains' deployments side by side, and wait for them.")
    ] = False,
    data_root: DataRoot = None,
    force: Annotated[bool, typer.Option(help="Run even when nothing has changed since the champion.")] = False,
    quiet: Annotated[bool, typer.Option(help="Show no progress, only the result.")] = False,
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option(help="Show Prefect's own log as well.")] = False,
) -> None:
    """Produce domains: ingest, validate, train both stages, evaluate, register, and promote if it holds.

    What is unchanged since an earlier run is reused; a run that was stopped goes on where it was. Of several domains,
    one that fails stops no other.
    """
    if bool(domains) == every:
        raise AlterError("give the domains to run, or --all (and not both)")
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.plan import Plan

    make_prefect_home()
    names = commands_unattended.all_or(domains)
    from flows import many
    from flows.display import console_display
    from flows.summary import outcome_json, print_outcome

    root = str(data_root) if data_root else None
    if len(names) == 1 and not deployed:
        plan = Plan.read(names[0], data_root)  # a wrong spec is reported before anything starts
        with console_display(quiet).shown():
            outcome = many.produce_here(plan, root, force)
        typer.echo(outcome_json(outcome)) if as_json else print_outcome(outcome, names[0])
        return

    def told(one: many.Ended) -> None:
        typer.echo(f"{one.domain}: {one.message or 'done'}", err=True)

    plans, wrong = many.read_plans(names, data_root)
    with console_display(quiet).shown():
        ended = many.produce_deployed(plans, force, told) if deployed else many.produce_each(plans, root, force, told)
    ended = [*wrong, *ended]
    typer.echo(many.ended_json(ended)) if as_json else many.print_ended(ended)
    raise typer.Exit(many.exit_code(ended))


@app.command()
def predict(
    domain: Domain,
    task: Annotated[str, typer.Option(help="Which of the domain's tasks.")],
    text: Annotated[str, typer.Argument(metavar="TEXT|-", help="The input; - reads standard input.")],
    version: Annotated[str, typer.Option(help="A version number or an alias.")] = "champion",
    as_json: Json = False,
) -> None:
    """Answer one input with the registered model."""
    import json

    from flows.publish import load_predictor

    given = sys.stdin.read() if text == "-" else text
    prediction = load_predictor(domain, version).predict([task], [given])[0]
    if prediction.truncated:
        typer.echo("note: the input was longer than the task's max_input_tokens and was cut at its end", err=True)
    if as_json:
        typer.echo(json.dumps({"prediction": prediction.text, "score": prediction.score}))
    else:
        typer.echo(prediction.text)


@app.command()
def models(
    domain: Annotated[str | None, typer.Argument(metavar="[DOMAIN]", help="Unset: all.")] = None,
    as_json: Json = False,
) -> None:
    """List registered versions: name, version, aliases, macro score, created."""
    from flows.publish import list_versions
    from flows.summary import print_versions, versions_json

    rows = list_versions(domain)
    typer.echo(versions_json(rows)) if as_json else print_versions(rows)


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Open MLflow's own UI on the workspace's store, until Ctrl-C."""
    from flows.publish import serve_ui

    raise typer.Exit(serve_ui(host, port))


@contextmanager
def _reported() -> Iterator[None]:
    """Known errors become a message and an exit code; a defect keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("\nstopped; run the same command again to go on from the last checkpoint", err=True)
        sys.exit(130)
    except Exception as error:
        if not isinstance(code := getattr(error, "exit_code", None), int) or isinstance(error, typer.Exit):
            raise
        if hasattr(error, "show"):  # click's own: wrong usage
            error.show()
        else:
            typer.echo(f"error: {error}", err=True)
        sys.exit(code)


def main() -> None:
    """Entry point of the console script."""
    with _reported():
        result = app(standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
