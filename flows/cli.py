"""The command line: `alter COMMAND`. Exit codes: 0 done, 1 a run or job failed, 2 wrong input, 130 stopped by hand."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from alter_core.errors import AlterError
from flows import make_prefect_home

app = typer.Typer(
    name="alter",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A factory for domain models: one YAML spec in, one registered multi-task small language model out.\n\n"
    "Start with `alter check` to see which domains are there, then `alter run DOMAIN`.",
)

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="A name under domains/, a folder, or a domain.yaml.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(envvar="ALTER_DATA_ROOT", help="Folder that relative source paths may also lie under."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]


@app.command()
def check(
    domains: Annotated[
        list[str] | None, typer.Argument(metavar="[DOMAIN]...", help="Unset: all that are found.")
    ] = None,
) -> None:
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
    domain: Domain,
    data_root: DataRoot = None,
    force: Annotated[bool, typer.Option(help="Run even when nothing has changed since the champion.")] = False,
    quiet: Annotated[bool, typer.Option(help="Show no progress, only the result.")] = False,
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option(help="Show Prefect's own log as well.")] = False,
) -> None:
    """Produce a domain: ingest, validate, train both stages, evaluate, register, and promote if it holds.

    What is unchanged since an earlier run is reused; a run that was stopped goes on where it was.
    """
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.plan import Plan

    make_prefect_home()
    Plan.read(domain, data_root)  # a wrong spec is reported before anything starts
    from flows.display import console_display
    from flows.produce import produce
    from flows.summary import outcome_json, print_outcome

    with console_display(quiet).shown():
        outcome = produce(domain, str(data_root) if data_root else None, force)
    typer.echo(outcome_json(outcome)) if as_json else print_outcome(outcome, domain)


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
