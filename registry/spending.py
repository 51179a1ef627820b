"""What a domain's productions and ablations took by month, as MLflow's runs tell: those that failed too."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from registry.errors import reported
from registry.store import open_client, pages

RATE_SETTING = "ALTER_RATE_PER_HOUR"
RATE = "alter.rate"  # tag of a run: what an hour of its machine cost then
ENERGY = "alter.energy"  # tag of a run: what its machine used meanwhile, or why that is not measured
ABLATION = " ablation"  # after the domain's name: the experiment of its ablations
_RATE = re.compile(r"(\d+(?:\.\d+)?) ([A-Z]{3})")
_ENERGY = re.compile(r"(\d+\.\d+) Wh")
_PARENT = "mlflow.parentRunId"  # tag of a run that is a part of another


@dataclass(frozen=True)
class Spending:
    """A domain's month."""

    domain: str
    month: str
    """In UTC, as 2026-11; a run belongs to the month that it began in."""
    runs: int
    failed: int
    """Of them, that ended badly."""
    hours: float
    money: Mapping[str, float]
    """Currency -> amount, at the rate of each run's own day."""
    unpriced: int
    """Runs without a rate."""
    kwh: float
    """Of the machines, while runs that measured it were on."""
    unmeasured: int
    """Runs of which that is not known."""


def rate_problem(given: str) -> str | None:
    """What is wrong with a rate, in words."""
    if not given or _RATE.fullmatch(given):
        return None
    return f"{given!r} is no amount and currency such as '0.85 EUR'; correct or unset it"


def rate_tag() -> dict[str, str]:
    """The tag of a run that begins now; none where no rate is set."""
    rate = os.environ.get(RATE_SETTING, "")
    return {RATE: rate} if _RATE.fullmatch(rate) else {}


def energy_tag(joules: float | None, why: str) -> dict[str, str]:
    """The tag of a run that ends. why: it is not measured."""
    return {ENERGY: f"not measured: {why}" if joules is None else f"{joules / 3600:.3f} Wh"}


def spending(tracking_uri: str, domains: Sequence[str]) -> list[Spending]:
    """By domain, the newest month first; runs that are on are left out. Raises RegistryError."""
    client = open_client(tracking_uri)
    found = []
    for domain in domains:
        months: dict[str, list[Any]] = defaultdict(list)
        with reported(f"list runs of {domain}", tracking_uri):
            for name in (domain, domain + ABLATION):
                if experiment := client.get_experiment_by_name(name):
                    for run in _runs(client, experiment.experiment_id):
                        if run.info.end_time and _PARENT not in run.data.tags:
                            begin = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
                            months[f"{begin:%Y-%m}"].append(run)
        found += [_month(domain, month, months[month]) for month in sorted(months, reverse=True)]
    return found


def _runs(client: Any, experiment: str) -> list[Any]:
    return pages(lambda token: client.search_runs([experiment], max_results=1000, page_token=token))


def _month(domain: str, month: str, runs: Sequence[Any]) -> Spending:
    money: dict[str, float] = defaultdict(float)
    hours, unpriced, failed, kwh, unmeasured = 0.0, 0, 0, 0.0, 0
    for run in runs:
        own = (run.info.end_time - run.info.start_time) / 3_600_000
        hours += own
        failed += run.info.status != "FINISHED"
        if rate := _RATE.fullmatch(run.data.tags.get(RATE, "")):
            money[rate[2]] += own * float(rate[1])
        else:
            unpriced += 1
        if energy := _ENERGY.fullmatch(run.data.tags.get(ENERGY, "")):
            kwh += float(energy[1]) / 1000
        else:
            unmeasured += 1
    return Spending(domain, month, len(runs), failed, hours, dict(money), unpriced, kwh, unmeasured)
