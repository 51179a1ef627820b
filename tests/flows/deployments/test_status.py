"""What `alter status` reads of a domain's runs."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from flows.deployments import status


@pytest.mark.parametrize(("seconds", "late"), [(-3600, False), (30, False), (120, True)])
def test_a_run_is_late_once_its_time_has_passed(seconds: float, late: bool) -> None:
    due = datetime.now(UTC) - timedelta(seconds=seconds)
    state = SimpleNamespace(is_scheduled=lambda: True, name="Scheduled")
    run: Any = SimpleNamespace(state=state, next_scheduled_start_time=due, expected_start_time=None)
    assert status.is_late(run) == late


def test_of_runs_that_ended_the_later_one_is_the_last() -> None:
    now = datetime.now(UTC)
    runs = iter([SimpleNamespace(end_time=now - timedelta(hours=1)), SimpleNamespace(end_time=now)])

    async def read(**_: Any) -> list[SimpleNamespace]:
        return [next(runs)]

    client: Any = SimpleNamespace(read_flow_runs=read)
    last: Any = asyncio.run(status._last_ended(client, "tiny"))
    assert last.end_time == now


@pytest.mark.parametrize(
    ("known", "unknown"),
    [({}, True), ({"champion": 3}, False), ({"state": "Completed"}, False), ({"problem": None}, False)],
)
def test_of_a_domain_without_a_right_spec_something_may_be_known(known: dict[str, Any], unknown: bool) -> None:
    nothing = dict.fromkeys(("state", "message", "started", "run", "next", "champion", "macro", "promoted"))
    row = {"domain": "x", "problem": "there is no domain 'x'", "late": False, "scheduled": False, **nothing}
    assert status.DomainStatus(**{**row, **known}).unknown == unknown
