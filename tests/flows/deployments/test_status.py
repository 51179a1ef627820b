"""What `alter status` reads of a domain's runs."""

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


def test_of_runs_that_ended_the_later_one_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    runs = iter([SimpleNamespace(end_time=now - timedelta(hours=1)), SimpleNamespace(end_time=now)])
    monkeypatch.setattr(status, "_first", lambda *_: next(runs))
    client: Any = None
    last: Any = status._last_ended(client, "tiny")
    assert last.end_time == now
