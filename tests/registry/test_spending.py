"""What runs took is summed by domain and month, each at the rate of its own day."""

from datetime import UTC, datetime

import pytest

from registry.spending import RATE_SETTING, energy_tag, rate_problem, spending
from tests.registry.conftest import Store


def ran(store: Store, experiment: str, begin: str, hours: float, status: str = "FINISHED", **tags: str) -> None:
    client = store.models.client
    tracker = store.tracker(experiment)
    start = int(datetime.fromisoformat(begin).replace(tzinfo=UTC).timestamp() * 1000)
    run = client.create_run(tracker.experiment_id, start_time=start, tags=tags)
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status, int(start + hours * 3_600_000))


def test_hours_and_money_are_summed_by_month_failures_and_ablations_with_them(store: Store) -> None:
    rate = {"alter.rate": "2.00 EUR"}
    ran(store, "tickets", "2026-10-31T23:30", 1.0, **rate)  # belongs to the month that it began in
    ran(store, "tickets", "2026-11-02T00:00", 0.5, **{"alter.rate": "3.00 EUR"}, **energy_tag(5.4e6, ""))
    ran(store, "tickets", "2026-11-03T00:00", 0.5, "FAILED", **{"alter.rate": "1.00 USD"}, **energy_tag(900.0, ""))
    ran(store, "tickets", "2026-11-04T00:00", 0.25, **energy_tag(None, "5.000 Wh would be a guess"))
    ran(store, "tickets", "2026-11-05T00:00", 0.0, "RUNNING", **rate)
    ran(store, "tickets ablation", "2026-11-06T00:00", 2.0, **rate)
    ran(store, "tickets ablation", "2026-11-06T00:00", 2.0, **rate, **{"mlflow.parentRunId": "r"})
    ran(store, "other", "2026-11-06T00:00", 9.0, **rate)
    november, october = spending(store.uri, ["tickets", "never ran"])
    assert (november.month, november.runs, november.failed, november.unpriced) == ("2026-11", 4, 1, 1)
    assert (november.kwh, november.unmeasured) == (pytest.approx(1.50025), 2)
    assert november.hours == pytest.approx(3.25)
    assert november.money == pytest.approx({"EUR": 5.5, "USD": 0.5})
    assert (october.month, october.money) == ("2026-10", pytest.approx({"EUR": 2.0}))
    assert (october.kwh, october.unmeasured) == (0.0, 1)


def test_a_run_keeps_the_rate_of_its_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = store.tracker("tickets")
    for rate in ("0.50 EUR", "4 EUR", ""):
        monkeypatch.setenv(RATE_SETTING, rate)
        tracker.end_run(tracker.start_run("tickets", {}, {}), "FINISHED")
    (month,) = spending(store.uri, ["tickets"])
    assert (month.runs, month.unpriced, list(month.money)) == (3, 1, ["EUR"])


@pytest.mark.parametrize("given", ["cheap", "0.85", "EUR 0.85", "-1 EUR", "0,85 EUR", "1 euro"])
def test_a_rate_that_is_no_amount_and_currency_is_refused(given: str) -> None:
    assert f"{given!r} is no amount and currency" in (rate_problem(given) or "")
