"""What a run does again when something has changed, and what it reuses: each test changes one thing more."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import tiny_rows, tiny_spec, write_domain
from tests.flows.server import Factory, factory

pytestmark = pytest.mark.server


class Domain:
    """A domain that a test changes and runs again."""

    def __init__(self, works: Factory, spec: dict[str, Any]) -> None:
        self.works = works
        self.spec = spec
        self.rows = tiny_rows()

    def write(self) -> str:
        return str(write_domain(self.works.home / "tiny", self.spec, self.rows))

    def do(self, command: str, *arguments: str) -> tuple[dict[str, Any], str]:
        """The outcome of a command on the domain as it is now, and what it said meanwhile."""
        done = self.works.alter(command, self.write(), *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Any) -> Iterator[Domain]:
    """Made once, without the task `thing`; later tests go on from what earlier ones left."""
    with factory(tmp_path_factory.mktemp("retraining")) as works:
        spec = {**tiny_spec(tiny_backbone), "warm_start": "champion"}
        made = Domain(works, {**spec, "tasks": spec["tasks"][:2]})
        outcome, said = made.do("run")
        assert outcome["status"] == "champion"
        assert "starts from" not in said
        yield made


def test_another_promotion_rule_trains_nothing_again(domain: Domain) -> None:
    domain.spec["promotion"] = {"max_task_drop": 0.9}
    outcome, said = domain.do("run")
    assert outcome["version"] == 2
    assert "stage_one: reused" in said
    assert "stage_two: reused" in said
    assert "starts from" not in said


def test_other_rows_warm_start_from_the_champion_and_are_held_against_its_own(domain: Domain) -> None:
    domain.rows["colour"] = [row for row in domain.rows["colour"] if row["target"] != "red"]
    domain.spec["tasks"][0]["quality"] = {"max_drift": 0.05}
    outcome, said = domain.do("run")
    assert "training starts from version" in said
    assert "stage_one: reused" not in said
    assert set(outcome["scorecards"]) == {"zero_shot", "stage_one", "stage_two", "champion"}
    reports = (domain.works.home / "alter" / "runs" / "tiny").glob("quality-*/quality.json")
    warnings = [text for report in reports for text in json.loads(report.read_text(encoding="utf-8"))["warnings"]]
    assert any("champion's training rows" in text for text in warnings)


def test_a_task_is_added_and_the_others_answer_as_before(domain: Domain, tiny_backbone: Any) -> None:
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


def test_what_a_person_rolled_back_is_not_made_again(domain: Domain) -> None:
    back = domain.works.alter("rollback", "tiny")
    assert back.returncode == 0, back.stderr
    outcome, _ = domain.do("add-task", "thing")
    assert outcome["status"] == "unchanged"
    assert "champion" not in outcome["aliases"]


def test_a_task_that_does_not_fit_the_champion_is_not_added(domain: Domain) -> None:
    domain.spec["mta"] = {**domain.spec["mta"], "rank": 8}
    refused = domain.works.alter("add-task", domain.write(), "thing")
    assert refused.returncode == 2
    assert "another mta" in refused.stderr
    unknown = domain.works.alter("add-task", domain.write(), "thin")
    assert unknown.returncode == 2
    assert "colour, match, thing" in unknown.stderr
