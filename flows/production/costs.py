"""What domains cost by month, as a table and for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from alter_core.workspace import Workspace
from flows.production.stores import model_name, tracking_uri
from registry.spending import RATE_SETTING, Spending, spending


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
    table = Table("domain", "month (UTC)", "runs", "failed", "hours", "money")
    for row in rows:
        money = ", ".join(f"{amount:,.2f} {currency}" for currency, amount in sorted(row.money.items()))
        table.add_row(row.domain, row.month, str(row.runs), str(row.failed), f"{row.hours:,.2f}", money or "no rate")
    out.print(table)
    if unpriced := sum(row.unpriced for row in rows):
        runs = "1 run has" if unpriced == 1 else f"{unpriced:,} runs have"
        out.print(
            f"{runs} no rate and stand in the hours alone; {RATE_SETTING}='0.85 EUR' gives later ones a rate",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
