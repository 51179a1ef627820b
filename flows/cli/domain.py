"""Commands on a domain before it is produced: new, data, ablate."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alter_core.errors import BackboneError
from flows import make_prefect_home
from flows.cli.options import DataRoot, Domain, Json, Quiet
from flows.production.exit_codes import OF_DATA, listed

if TYPE_CHECKING:
    from flows.production.plan import Plan

app = typer.Typer()


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower case letters, digits and _.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="Rows to begin with.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the domain's folder is made.")] = Path("domains"),
) -> None:
    """Make a new domain's spec, filled from what its files hold."""
    from flows.production.scaffold import scaffold

    made = scaffold(name, files or [], folder / name)
    typer.echo(f"wrote {made}; next: `alter check {made}`, then `alter data {made}`")


@app.command(epilog=f"Exit codes: {listed(OF_DATA)}; of several domains, the highest.")
def data(
    domains: Annotated[list[str], typer.Argument(metavar="DOMAIN", help="Names, folders or domain.yaml files.")],
    data_root: DataRoot = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Ingest and validate domains' rows; nothing is trained."""
    from flows.production.data_check import Checked, check_each, checked_json, print_checked
    from flows.production.display import console_display

    def on_end(one: Checked) -> None:
        if not as_json:
            print_checked(one)
        if one.error is not None:
            typer.echo(f"error: {one.error}", err=True)

    with console_display(quiet).shown() as display:
        found = check_each(domains, data_root, display, on_end)
    if as_json:
        typer.echo(checked_json(found))
    raise typer.Exit(max(one.exit_code for one in found))


@app.command()
def ablate(
    domain: Domain,
    data_root: DataRoot = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every arm.")] = 3,
    arms: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            help="An arm to run: zero_shot, bag_of_words, plain_multi_task, mta_two_stages, mta_stage_one, "
            "mta_one_stage, peft_lora, single_task, peft_poly or a variant's name; unset: all.",
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="At most so many rows of each source; unset: as the spec says.")
    ] = None,
    variants: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="YAML of further arms: name: {mta, stage_one, stage_two} as they differ.",
        ),
    ] = None,
    rates: Annotated[
        list[float] | None,
        typer.Option(
            "--rate", min=1e-9, help="Learning rate of stage one to try, again for more; unset: a grid that widens."
        ),
    ] = None,
    steps_factor: Annotated[float, typer.Option(min=0.001, help="Multiplies the length of every stage.")] = 1.0,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop an arm after so many scores without a better one.")
    ] = None,
    at_once: Annotated[
        int, typer.Option(min=1, help="Trials side by side, each with its share of the processors.")
    ] = 1,
    screen: Annotated[
        bool,
        typer.Option(
            "--screen", help="Compare by loss alone, with the first --arm: no answers, and a small part of the time."
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare the domain's model with its baselines on the same rows and budget; hours for a real domain."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    make_prefect_home()
    from flows.ablate import ablate as compare
    from flows.deployments.deploy import server_errors
    from flows.production.display import console_display
    from flows.production.plan import Plan

    plan = Plan.read(domain, data_root)  # what is wrong is told before anything starts
    if arms or variants:
        _check_arms(plan, arms or (), variants)
    with console_display(quiet).shown(), server_errors():
        found = compare(
            domain,
            str(data_root) if data_root else None,
            seeds,
            tuple(arms) if arms else None,
            rows,
            str(variants) if variants else None,
            tuple(rates) if rates else None,
            steps_factor,
            patience,
            at_once,
            screen,
        )
    text = found.page.read_text(encoding="utf-8")
    typer.echo(json.dumps(found.table.to_json(), indent=2) if as_json else text)
    typer.echo(f"all of it is in {found.folder}", err=True)


def _check_arms(plan: "Plan", arms: Sequence[str], variants: Path | None) -> None:
    """Raises SpecError for variants that cannot be read or are no specs, and with every arm that is not there."""
    from alter_core.ablation.arms import make_arms
    from alter_core.backbone import resolve_backbone
    from flows.ablate import read_variants

    further = read_variants(variants) if variants else {}
    try:
        backbone = resolve_backbone(plan.spec.backbone, plan.workspace, base=plan.folder)
    except BackboneError:
        return  # the run's own step tells it, and tries again where that may help
    make_arms(plan.spec, backbone, 1, further, arms or None)  # whatever number of rows
