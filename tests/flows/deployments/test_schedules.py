"""Domains that would start together start some minutes apart, and nothing else about their times changes."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError

from alter_core.errors import AlterError, SpecError
from alter_core.spec import DomainSpec, ScheduleSpec
from flows.deployments import declarations, deploy
from flows.deployments.declarations import declare
from flows.deployments.schedules import STAGGER_MINUTES, Schedule, shifted, staggered
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


def cron_that_we_read(text: str) -> bool:
    try:
        return bool(ScheduleSpec(cron=text))
    except ValidationError:
        return False


def test_prefect_takes_every_cron_that_a_spec_may_hold() -> None:
    fields = (
        ("0", "*/20", "5/25", "0,57", "10-12/2", "007"),
        ("3", "*", "*/5", "1,2-4"),
        ("*", "1", "31", "L", "1,L", "LW", "1,LW", "L/2", "1-L", "5/3", "*/40"),
        ("*", "2", "jan,MAR", "4-6/2", "dec/2"),
        ("*", "0", "7", "mon-FRI", "5L", "L5", "5,6L", "1#2", "1#2,3#4", "1#2,3", "1,3#2", "fri-sun", "5-7", "*/2"),
    )
    plain = [choices[0] for choices in fields]
    one_apart = [[*plain[:i], choice, *plain[i + 1 :]] for i, choices in enumerate(fields) for choice in choices]
    pairs = [[*plain[:2], day, month, weekday] for day in fields[2] for month in fields[3] for weekday in fields[4]]
    taken = [text for text in map(" ".join, [*one_apart, *pairs]) if cron_that_we_read(text)]
    assert {"0 3 L * *", "0 3 1,L * *", "0 3 * * 1#2,3#4", "0 3 31 * *"} <= set(taken)
    for text in taken:
        Schedule(text, "UTC", True).of_prefect()


def test_a_cron_that_prefect_does_not_take_is_told_before_the_server_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("aa", "bb"):
        write_domain(tmp_path / "domains" / name, {**tiny_spec(Path("backbone")), "name": name})
    monkeypatch.setattr(
        declarations, "staggered", lambda specs: {name: Schedule("0 3 LW * *", "UTC", True) for name in specs}
    )
    with pytest.raises(AlterError, match=r"(?s)aa/domain\.yaml: .*'0 3 LW \* \* *'.*bb/domain\.yaml: "):
        declare(["aa", "bb"], None)


def test_a_schedule_reaches_prefect_with_its_time_zone() -> None:
    found = Schedule("0 3 * * *", "Europe/Berlin", True).of_prefect()
    assert (found.cron, found.timezone) == ("0 3 * * *", "Europe/Berlin")


def test_of_a_deployments_schedules_only_the_specs_own_is_changed() -> None:
    calls: list[Any] = []
    client: Any = SimpleNamespace(
        delete_deployment_schedule=lambda _, schedule: calls.append(("deleted", schedule)),
        update_deployment_schedule=lambda _, one, **to: calls.append((one, to["schedule"].timezone)),
    )
    ours = SimpleNamespace(slug="spec", id="ours", active=True, schedule=CronSchedule(cron="0 3 * * *", timezone="UTC"))
    known: Any = SimpleNamespace(id=1, schedules=[ours, SimpleNamespace(slug="ann", id="hers")])
    assert not deploy._reschedule(client, known, Schedule("0 3 * * *", "UTC", True))
    assert deploy._reschedule(client, known, Schedule("0 3 * * *", "Europe/Berlin", True))
    assert deploy._reschedule(client, known, None)
    assert calls == [("ours", "Europe/Berlin"), ("deleted", "ours")]


def test_a_deployments_runs_come_one_at_a_time_and_tell_that_they_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_domain(tmp_path / "tiny", tiny_spec(Path("backbone")))
    (one,) = declare([str(file)], "alter", Path("data"))
    assert one.limit.limit == one.fields["concurrency_limit"] == 1
    assert one.fields["parameters"]["data_root"] == str(tmp_path / "data")
    environment = one.fields["job_variables"]["env"]
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert Path(environment["ALTER_HOME"]).is_absolute()
