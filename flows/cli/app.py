"""Commands to look around: check, models, ui; and the command line `alter COMMAND` that holds them all."""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from alter_core.collector import collect_rarely
from alter_core.errors import AlterError
from flows.cli import domain as commands_domain
from flows.cli import predict as commands_predict
from flows.cli import produce as commands_produce
from flows.cli import registry as commands_registry
from flows.cli import unattended as commands_unattended
from flows.cli.options import Domains, Json
from flows.production import ending
from flows.production.exit_codes import OF_ALTER, listed
from flows.production.settings import SETTINGS, check_settings

app = typer.Typer(
    name="alter",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A factory for domain models: one YAML spec in, one registered multi-task small language model out.\n\n"
    "Start with `alter check` to see which domains are there, then `alter run DOMAIN`.",
    epilog=f"Exit codes: {listed(OF_ALTER)}.\n\n"
    f"Settings are environment variables: {', '.join(one.name for one in SETTINGS)}.",
)

app.add_typer(commands_produce.app)
app.add_typer(commands_domain.app)
app.add_typer(commands_predict.app)
app.add_typer(commands_unattended.app)
app.add_typer(commands_registry.app)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"alter-factory {version('alter-factory')}")
        raise typer.Exit


@app.callback()
def _always(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit."),
    ] = False,
) -> None:
    if "--help" not in sys.argv:  # which a person asks for to see what a setting should be
        check_settings()


@app.command()
def check(domains: Domains = None, as_json: Json = False) -> None:
    """Read domain specs and report every problem; nothing is trained or fetched."""
    from alter_core.problems import counted
    from alter_core.spec.load import load_domain
    from flows.production.plan import all_domains, find_domain, named_once

    wrong: list[AlterError] = []
    found: list[dict[str, Any]] = []
    taken: dict[str, Path] = {}
    for given in domains or all_domains():
        file = None
        try:
            file = find_domain(given)
            spec = load_domain(file)
            named_once(spec, file, taken)
        except AlterError as error:
            wrong.append(error)
            facts = {"domain": given, "tasks": {}, "problems": error.problems or (error.headline,)}
        else:
            facts = {"domain": spec.name, "tasks": {task.name: task.type for task in spec.tasks}, "problems": ()}
            if not as_json:
                tasks = ", ".join(f"{task.name} ({task.type})" for task in spec.tasks)
                typer.echo(f"{spec.name}: fine. {counted(len(spec.tasks), 'task')}: {tasks}")
        found.append({"file": str(file) if file else None, **facts})
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    if wrong:
        raise AlterError("\n".join(str(error) for error in wrong))


@app.command()
def models(
    domain: Annotated[str | None, typer.Argument(metavar="DOMAIN", help="Unset: all.")] = None,
    as_json: Json = False,
) -> None:
    """List registered versions: name, version, aliases, macro score, created."""
    from flows.cli.summary import print_versions, versions_json
    from flows.production.stores import list_versions

    rows = list_versions(domain)
    typer.echo(versions_json(rows)) if as_json else print_versions(rows)


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="MLFLOW_PORT", help="Port to listen on.")] = 5000,
) -> None:
    """Open MLflow's own UI on the workspace's store, until Ctrl-C."""
    from flows.production.stores import serve_ui

    raise typer.Exit(serve_ui(host, port))


def main() -> None:
    """Entry point of the console script."""
    collect_rarely()
    own = () if "--deployed" in sys.argv else ("run",)  # a deployed run does not stop with the command that waits
    ending.run(app, resumed=(*own, "add-task", "ablate"))
