"""Commands on a domain before it is produced: new, data, ablate."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from flows import make_prefect_home
from flows.options import DataRoot, Domain, Json

app = typer.Typer()


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Lower case letters, digits and _.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Rows to begin with.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the domain's folder is made.")] = Path("domains"),
) -> None:
    """Make a new domain's spec, filled from what its files hold."""
    from alter_core.data.scaffold import scaffold

    made = scaffold(name, files or [], folder / name)
    typer.echo(f"wrote {made}; next: `alter check {made}`, then `alter data {made}`")


@app.command()
def data(domain: Domain, data_root: DataRoot = None, as_json: Json = False) -> None:
    """Ingest and validate a domain's rows; nothing is trained. Exit code 2 when a blocking check fails."""
    from transformers import AutoTokenizer

    from alter_core.backbone import resolve_backbone
    from alter_core.data.ingest import ingest
    from alter_core.data.quality import validate
    from flows.plan import Plan

    plan = Plan.read(domain, data_root)
    backbone = resolve_backbone(plan.spec.backbone, plan.workspace, lambda *_, **__: None, base=plan.folder)
    dataset = ingest(plan.spec, plan.folder, plan.workspace, data_root)
    report = validate(dataset, plan.spec, AutoTokenizer.from_pretrained(backbone))
    page = plan.run_folder("quality.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(report.to_html(), encoding="utf-8")
    found = report.to_json()
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=str))
    else:
        for task, facts in found["tasks"].items():
            rows = ", ".join(f"{count:,} {split}" for split, count in facts["rows"].items())
            typer.echo(f"{task}: {rows}")
        for warning in found["warnings"]:
            typer.echo(f"warning: {warning}")
        typer.echo(f"data {dataset.digest}: quality {found['outcome']}; the whole report is {page}")
    report.raise_if_blocked()


@app.command()
def ablate(
    domain: Domain,
    data_root: DataRoot = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every arm.")] = 3,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="An arm to run; unset: all.")] = None,
    steps_factor: Annotated[float, typer.Option(help="Multiplies the length of every stage.")] = 1.0,
    patience: Annotated[int | None, typer.Option(help="Stop an arm after so many scores without a better one.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the domain's model with its baselines on the same rows and budget; hours for a real domain."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    make_prefect_home()
    from flows.ablate import ablate as compare
    from flows.display import console_display

    with console_display().shown():
        found = compare(
            domain, str(data_root) if data_root else None, seeds, tuple(arms) if arms else None, steps_factor, patience
        )
    folder = Path(found["folder"])
    typer.echo(
        json.dumps(found["table"], indent=2) if as_json else (folder / "ablation.md").read_text(encoding="utf-8")
    )
    typer.echo(f"all of it is in {folder}", err=True)
