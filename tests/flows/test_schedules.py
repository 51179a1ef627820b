"""Domains that would start together start some minutes apart, and nothing else about their times changes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from alter_core.errors import SpecError
from alter_core.spec import DomainSpec
from flows.declarations import declare
from flows.schedules import STAGGER_MINUTES, shifted, staggered
from tests.conftest import tiny_spec, write_domain


def specs(**schedules: Mapping[str, Any] | None) -> dict[str, DomainSpec]:
    values = tiny_spec(Path("backbone"))
    return {name: DomainSpec.model_validate({**values, "name": name, "schedule": s}) for name, s in schedules.items()}


def test_domains_with_the_same_cron_start_apart_and_the_first_keeps_its_own() -> None:
    night = {"cron": "0 3 * * 1", "timezone": "Europe/Berlin"}
    found = staggered(specs(b=night, a=night, c=night, other={**night, "timezone": "UTC"}))
    assert [found[name].cron for name in ("a", "b", "c", "other")] == [
        "0 3 * * 1",
        f"{STAGGER_MINUTES} 3 * * 1",
        f"{2 * STAGGER_MINUTES} 3 * * 1",
        "0 3 * * 1",
    ]


def test_a_domain_without_a_schedule_has_none_and_a_paused_one_says_so() -> None:
    found = staggered(specs(by_hand=None, paused={"cron": "5 4 * * *", "active": False}))
    assert list(found) == ["paused"]
    assert not found["paused"].active


@pytest.mark.parametrize(
    ("cron", "moved"),
    [
        ("58 23 * * *", "3 23 * * *"),
        ("*/20 * * * *", "5,25,45 * * * *"),
        ("0,57 6 1 * *", "2,5 6 1 * *"),
        ("10-12 * * * *", "15,16,17 * * * *"),
        ("50/5 * * * *", "0,55 * * * *"),
        ("* * * * *", "* * * * *"),
    ],
)
def test_a_shift_moves_every_minute_within_its_hour(cron: str, moved: str) -> None:
    assert shifted(cron, 5) == moved


@pytest.mark.parametrize("by", [1, 59, 60, 121])
@pytest.mark.parametrize("minute", [0, 1, 30, 59])
def test_a_shift_keeps_hour_day_month_and_weekday(minute: int, by: int) -> None:
    first, *rest = shifted(f"{minute} 3 1 */2 mon", by).split()
    assert rest == ["3", "1", "*/2", "mon"]
    assert int(first) == (minute + by) % 60


@pytest.mark.parametrize("field", ["60", "x", "5-", "*/0", "-1", "9-5"])
def test_minutes_that_are_none_are_reported_with_their_cron(field: str) -> None:
    with pytest.raises(SpecError, match="minutes"):
        shifted(f"{field} 3 * * *", 1)


def test_a_domain_deployed_alone_starts_when_it_does_among_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("aa", "bb"):
        spec = {**tiny_spec(Path("backbone")), "name": name, "schedule": {"cron": "0 3 * * 1"}}
        write_domain(tmp_path / "domains" / name, spec)
    monkeypatch.chdir(tmp_path)
    (alone,) = declare(["bb"], None)
    assert alone.schedule is not None
    assert alone.schedule.cron == f"{STAGGER_MINUTES} 3 * * 1"
