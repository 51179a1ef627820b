"""What a run does again when something has changed, and what it reuses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import tiny_rows, tiny_spec, write_domain
from tests.flows.server import Factory, factory

pytestmark = pytest.mark.server


class Domain:
    """A domain that a test changes and runs again."""

    def __init__(self, works: Factory, backbone: Path) -> None:
        self.works = works
        self.spec: dict[str, Any] = {**tiny_spec(backbone), "warm_start": "champion"}
        self.spec["tasks"] = self.spec["tasks"][:2]
        self.rows = tiny_rows()

    def do(self, command: str, *arguments: str) -> tuple[dict[str, Any], str]:
        """The outcome of a command on the domain as it is now, and what it said meanwhile."""
        file = write_domain(self.works.home / "tiny", self.spec, self.rows)
        done = self.works.alter(command, str(file), *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path) -> Iterator[Factory]:
    """A workspace with a champion that was made once, without the task `thing`."""
    with factory(tmp_path_factory.mktemp("retraining")) as works:
        outcome, said = Domain(works, tiny_backbone).do("run")
        assert outcome["status"] == "champion"
        assert "starts from" not in said
        yield works


@pytest.fixture
def domain(original: Factory, tmp_path: Path, tiny_backbone: Path) -> Domain:
    """The domain in the test's own copy of that workspace."""
    return Domain(original.copied(tmp_path / "works"), tiny_backbone)


def test_other_rows_warm_start_from_the_champion_and_are_held_against_its_own(domain: Domain) -> None:
    domain.rows["colour"] = [row for row in domain.rows["colour"] if row["target"] != "red"]
    domain.spec["tasks"][0]["quality"] = {"max_drift": 0.05}
    outcome, said = domain.do("run")
    assert "training starts from version" in said
    assert "stage_one: reused" not in said
    assert set(outcome["scorecards"]) == {"zero_shot", "bag_of_words", "stage_one", "stage_two", "champion"}
    reports = (domain.works.home / "alter" / "runs" / "tiny").glob("quality-*/quality.json")
    warnings = [text for report in reports for text in json.loads(report.read_text(encoding="utf-8"))["warnings"]]
    assert any("champion's training rows" in text for text in warnings)


def test_a_task_is_added_and_the_others_answer_as_before(domain: Domain, tiny_backbone: Path) -> None:
    domain.spec["tasks"].append(tiny_spec(tiny_backbone)["tasks"][2])
    outcome, _ = domain.do("add-task", "thing")
    cards = outcome["scorecards"]
    assert set(cards["add_task"]["tasks"]) == {"colour", "match", "thing"}
    for task in ("colour", "match"):
        assert cards["add_task"]["tasks"][task] == cards["champion"]["tasks"][task]
    assert outcome["costs"]["add_task"]["trained_parameters"] > 0
    new = cards["add_task"]["tasks"]["thing"]["rouge_l"]
    worse = new["low"] <= cards["zero_shot"]["tasks"]["thing"]["rouge_l"]["value"]
    assert any(line.startswith("thing is not shown to do better") for line in outcome["limits"]) == worse


def test_a_refresh_teaches_the_tasks_with_other_rows_and_leaves_all_others_as_they_are(domain: Domain) -> None:
    domain.spec["stage_one"] |= {"trains": ["adapters"], "active": "all"}
    domain.spec["stage_two"] = {"trains": ["gates"], "gate": "strength", "steps": 2, "best_by_task": True}
    domain.spec |= {"warm_start": "refresh", "promotion": {"by": "task", "max_task_drop": 1.0}}
    first, said = domain.do("run")
    assert (first["status"], first["version"]) == ("champion", 2)
    assert "no task has other rows than version 1 learnt from: all are trained" in said
    domain.rows["colour"] = domain.rows["colour"][3:]
    outcome, said = domain.do("run", "--refresh")
    assert "refreshed alone, as their rows have changed: colour; match stay as they are in version 2" in said
    cards = outcome["scorecards"]
    assert "refresh" in cards
    assert "stage_one" not in cards
    assert cards["refresh"]["tasks"]["match"] == cards["champion"]["tasks"]["match"]
    again, said = domain.do("run", "--refresh")
    assert (again["status"], again["version"]) == ("unchanged", outcome["version"])
