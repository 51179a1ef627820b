"""What domains cost by month, as a table and for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from alter_core.problems import counted
from alter_core.workspace import Workspace
from flows.production.stores import model_name, tracking_uri
from registry.spending import ENERGY, RATE_SETTING, Spending, spending


def read_costs(domains: Sequence[str]) -> list[Spending]:
    """Of the domains (names, folders or spec files), the newest month first. Raises RegistryError."""
    return spending(tracking_uri(Workspace.default()), [model_name(domain) for domain in domains])


def costs_json(rows: Sequence[Spending]) -> str:
    """Rows for programs."""
    return json.dumps([asdict(row) for row in rows], indent=2)


def print_costs(rows: Sequence[Spending]) -> None:
    """Rows for people; what has no price says so."""
    out = Console()
    if not rows:
        out.print("nothing was produced yet; `alter run DOMAIN` makes a first version")
        return
    table = Table("domain", "month (UTC)", "runs", "failed", "hours", "money", "kWh")
    for row in rows:
        money = ", ".join(f"{amount:,.2f} {currency}" for currency, amount in sorted(row.money.items()))
        energy = "not measured" if row.unmeasured == row.runs else f"{row.kwh:,.3f}"
        counts = (str(row.runs), str(row.failed), f"{row.hours:,.2f}")
        table.add_row(row.domain, row.month, *counts, money or "no rate", energy)
    out.print(table)
    notes = {
        f"no rate and stand in the hours alone; {RATE_SETTING}='0.85 EUR' gives later ones a rate": "unpriced",
        f"no measured energy; the tag {ENERGY} of a run in MLflow says why": "unmeasured",
    }
    for note, missing in notes.items():
        if count := sum(getattr(row, missing) for row in rows):
            has = "has" if count == 1 else "have"
            out.print(f"{counted(count, 'run')} {has} {note}", markup=False, highlight=False, soft_wrap=True)
