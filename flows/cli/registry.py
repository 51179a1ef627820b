"""Commands on registered versions: promote, reject, rollback, compare, report, export, gc."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alter_core.errors import AlterError
from flows import make_prefect_home
from flows.cli.options import Domain, Json

if TYPE_CHECKING:
    from flows.production.decisions import Decided

app = typer.Typer()
Format = Literal["merged", "peft", "gguf"]
Waiting = Annotated[
    str | None,
    typer.Argument(
        metavar="VERSION", help="A version number or an alias; unset: the one that waits, `review` before `challenger`."
    ),
]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A version number or an alias.")]


@app.command()
def promote(
    domain: Domain,
    version: Waiting = None,
    reason: Annotated[
        str | None, typer.Option(help="Why; kept with it. Needed where the promotion rule says no.")
    ] = None,
) -> None:
    """Make a version the champion that users load."""
    from flows.production import decisions

    _tell(decisions.promote(domain, version, reason))


@app.command()
def reject(
    domain: Domain, reason: Annotated[str, typer.Option(help="Why; kept with it.")], version: Waiting = None
) -> None:
    """Say no to a version that waits for a decision; the champion stays."""
    from flows.production import decisions

    _tell(decisions.reject(domain, version, reason))


@app.command()
def rollback(domain: Domain) -> None:
    """Give the champion's place back to the version before it; again goes one further back."""
    from flows.production import decisions

    _tell(decisions.rollback(domain))


def _tell(made: "Decided") -> None:
    """The person here, and where there is a Prefect server those who listen there."""
    typer.echo(made.text)
    if made.news and os.environ.get("PREFECT_API_URL"):
        make_prefect_home()
        from flows.approval import show
        from flows.news import tell
        from flows.production.stores import model_store

        tell(made.news, made.domain, made.text, made.version)
        show(model_store(), made.domain)


@app.command()
def compare(
    domain: Domain,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="A version number or an alias.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="The one that the rule is asked about.")],
    replay: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="Ask both what came, from the log of `alter endpoint --log`, instead."),
    ] = None,
    to_label: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="With --replay: rows that they answer otherwise, as JSONL."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Two versions side by side, per task, and what the promotion rule says of the second; or on what really came."""
    from flows.production import decisions
    from flows.production.stores import need_versions

    if to_label is not None and replay is None:
        raise AlterError("--to-label goes with --replay LOG: which rows differ is known of those that were asked")
    need_versions(domain, (first, second))
    if replay is not None:
        return _replay(domain, first, second, replay, to_label, as_json)
    found = decisions.compare(domain, first, second)
    typer.echo(json.dumps(found, indent=2)) if as_json else decisions.print_comparison(found, first, second)


def _replay(domain: str, first: str, second: str, log: Path, to_label: Path | None, as_json: bool) -> None:
    from alter_core.problems import counted
    from flows.production.display import console_display
    from flows.serving import replay

    with console_display(quiet=as_json).shown() as display:
        found = replay.replay(domain, first, second, log, display)
    typer.echo(json.dumps(found.json(), indent=2)) if as_json else replay.print_replay(found, first, second)
    if to_label is not None:
        found.write(to_label)
        rows = counted(len(found.to_label), "row")
        typer.echo(f"wrote {to_label}: {rows}; fill in `target`, then name it as a source", err=True)


@app.command()
def report(
    domain: Domain,
    version: Annotated[str, typer.Option(help="A version number or an alias.")] = "champion",
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to write; unset: DOMAIN-VERSION.html here.")
    ] = None,
) -> None:
    """Write a version's report as one HTML file that needs nothing else."""
    from alter_core.whole import write_text
    from flows.production import decisions
    from flows.production.stores import model_name

    file = output or Path(f"{model_name(domain)}-{version}.html")
    write_text(file, decisions.report(domain, version))
    typer.echo(f"wrote {file}")


@app.command()
def export(
    domain: Domain,
    to: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="merged: one task as a plain transformers model. peft: one base, and a LoRA for each task. gguf: the "
            "same for llama.cpp, or the task that is named alone.",
        ),
    ] = "merged",
    task: Annotated[str | None, typer.Option(help="Which of the domain's tasks; unset: all.")] = None,
    version: Annotated[str, typer.Option(help="A version number or an alias.")] = "champion",
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Of one task: allow a fold that is not exact.")
    ] = False,
    fill_rank: Annotated[
        bool, typer.Option("--fill-rank", help="peft: fill ranks with zeros up to a size that vLLM takes.")
    ] = False,
) -> None:
    """Write a version as a folder that needs nothing of this program, with how to ask it and how engines serve it.

    The version's recorded sample rows are then asked of the folder, in a process of its own, and of the version.
    """
    from flows.production import decisions

    parity = decisions.export(domain, version, to, form, task, approximate, fill_rank)
    typer.echo(f"wrote {to}, whose README.md says how to ask it")
    if parity is None:
        typer.echo("its answers were not compared: that takes llama.cpp, `pip install xllamacpp`", err=True)
    else:
        typer.echo(
            f"of {parity.rows} rows {parity.different_answers} are answered otherwise than by the {version}, and a "
            f"probability differs by at most {parity.largest_probability_difference:.1e}"
        )


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=0, help="Newest versions of each domain that stay.")] = 3,
    days: Annotated[float, typer.Option(min=0, help="Caches that were used in these last days stay.")] = 30,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only the plan is shown.")] = False,
    as_json: Json = False,
) -> None:
    """Show which old versions and caches may go, and with --yes remove them. Aliased versions and the last champion
    stay.
    """
    from alter_core.workspace import Workspace
    from flows.production import decisions
    from flows.production.caches import plan_caches, remove_caches

    workspace = Workspace.default()
    plan, caches = decisions.plan_gc(keep), plan_caches(workspace, days)
    if as_json:
        typer.echo(decisions.removals_json(plan, caches))
    else:
        for item in plan:
            what = f"version {item.version}" if item.version is not None else f"unfinished model {item.model_id}"
            stays = f"; it stays, as {item.stays}" if item.stays else ""
            typer.echo(f"{item.domain} {what}: {item.reason}, {item.bytes / 1e6:,.1f} MB{stays}")
        for cache in caches:
            place = cache.path.relative_to(workspace.home)
            typer.echo(f"cache {place}: not used for {cache.unused_days:.0f} days, {cache.bytes / 1e6:,.1f} MB")
    if any(not item.bytes and not item.stays for item in plan):
        typer.echo("files that lie on MLflow's server are freed by its own `mlflow gc`", err=True)
    if yes:
        freed = decisions.gc(plan) + remove_caches(workspace, caches)
        typer.echo(f"freed {freed / 1e6:,.1f} MB", err=True)
    elif not as_json:
        typer.echo("nothing was removed; add --yes" if plan or caches else "there is nothing to remove")
