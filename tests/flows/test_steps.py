"""Steps of a production that other steps rely on, each for itself."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alter_core.data.ingest import ingest
from alter_core.errors import AlterError, QualityBlocked
from flows import steps
from flows.production.plan import Plan
from flows.production.production import Backbone, Rows
from registry.errors import RegistryInputError, StoreUnavailable
from tests.conftest import tiny_rows, tiny_spec, write_domain
from tests.flows.conftest import Produce


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, outside_a_flow: None) -> None:
    """There is no flow run that progress could be told to."""
    monkeypatch.setattr(steps, "Follower", lambda *_: None)


def test_data_that_a_check_blocks_are_blocked_again(production: Produce, tiny_backbone: Path, tmp_path: Path) -> None:
    rows = tiny_rows()
    rows["colour"][0]["target"] = "mauve"
    given = tiny_spec(tiny_backbone)
    given["tasks"][0]["labels"] = ["red", "green", "blue"]
    plan = Plan.read(str(write_domain(tmp_path / "tiny", given, rows)))
    found = Rows.of(ingest(plan.spec, plan.folder, plan.workspace))
    backbone = Backbone(tiny_backbone, "tiny", None, "b", 10)
    for _ in range(2):
        with pytest.raises(QualityBlocked, match="mauve"):
            steps.validate.fn(production(plan, rows=found, backbone=backbone), None)


@pytest.mark.parametrize(
    ("error", "heals"),
    [
        (OSError("disk"), True),
        (StoreUnavailable("busy"), True),
        (AlterError("wrong"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_what_may_pass_by_itself_is_tried_again(error: Exception, heals: bool) -> None:
    def result() -> None:
        raise error

    state: Any = SimpleNamespace(result=result)
    assert steps._heals(None, None, state) == heals


def away(*_: Any) -> None:
    raise StoreUnavailable("the store does not answer")


def test_a_store_that_is_away_ends_no_training_and_a_wrong_call_does() -> None:
    def wrong(_rows: Any) -> None:
        raise RegistryInputError("no such run")

    assert steps._logged(lambda rows: None, [{}])
    assert not steps._logged(away, [{}])
    with pytest.raises(RegistryInputError):
        steps._logged(wrong, [{}])
