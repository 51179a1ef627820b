"""A spec is read whole or refused with every problem at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from alter_core.errors import SpecError
from alter_core.spec import DomainSpec, TaskSpec
from alter_core.spec.load import load_domain
from tests.conftest import tiny_spec, write_domain


def problems_of(tmp_path: Path, text: str) -> str:
    file = tmp_path / "domain.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_domain(file)
    return str(caught.value)


def spec_text(**changes: object) -> str:
    return yaml.safe_dump({**tiny_spec(Path("backbone")), **changes}, sort_keys=False)


def test_a_good_spec_is_read_from_its_folder_too(tmp_path: Path) -> None:
    file = write_domain(tmp_path, tiny_spec(tmp_path), rows={})
    assert load_domain(tmp_path) == load_domain(file)


def test_a_misspelt_key_gets_its_line_and_a_close_match(tmp_path: Path) -> None:
    text = problems_of(tmp_path, spec_text().replace("learning_rate", "x").replace("labels:", "lables:"))
    assert "tasks[0] (colour) > lables: unknown key; did you mean 'labels'?" in text
    line = next(i for i, row in enumerate(spec_text().splitlines(), 1) if "labels:" in row)
    assert f"line {line}:" in text


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = problems_of(tmp_path, spec_text(name="Bad Name", seed=-1, mta={"layers": "some"}))
    assert "3 problems" in text
    for part in ("name: 'Bad Name'", "seed", "mta > layers: 'some'"):
        assert part in text


def test_values_that_do_not_fit_each_other_are_told_at_their_own_lines(tmp_path: Path) -> None:
    stage = {"trains": ["gates", "shared_adapters"], "active": "task", "gate": "hard", "epochs": 1, "steps": 1}
    text = spec_text(stage_two=stage, mta={"layers": "all", "homes": {"colour": "nowhere", "match": "nobody"}})
    lines = {row.strip(): number for number, row in enumerate(text.splitlines(), 1)}
    told = problems_of(tmp_path, text)
    # Those between sections too, though stage_two is not right for itself.
    assert "4 problems" in told
    assert f"line {lines['colour: nowhere']}: mta > homes > colour: 'nowhere' is no task; tasks are colour," in told
    assert f"line {lines['match: nobody']}: mta > homes > match: 'nobody' is no task" in told
    assert f"line {lines['stage_two:']}: stage_two: give exactly one of epochs, steps" in told
    trains = next(
        number for number, row in enumerate(text.splitlines(), 1) if "trains" in row and number > lines["stage_two:"]
    )
    assert f"line {trains}: stage_two > trains: gates train where they are not hard" in told
    assert "; and shared_adapters take no part in a stage with active: task" in told


def test_a_spec_says_what_differs_and_a_default_that_does_not_fit_it_is_named(tmp_path: Path) -> None:
    said = {name: value for name, value in tiny_spec(tmp_path).items() if name in ("name", "backbone", "tasks")}
    spec = load_domain(write_domain(tmp_path, said, rows={}))
    two = spec.stages["stage_two"]
    assert (list(spec.stages), spec.mta.is_beneath) == (["stage_one", "stage_two"], True)
    assert (two.gate, two.parts, two.best_by_task) == ("strength", {"gates"}, True)
    assert (spec.stage_one.epochs, spec.stage_one.steps) == (3.4, None)
    assert load_domain(write_domain(tmp_path, spec.model_dump(mode="json"), rows={})) == spec  # all that it means
    told = problems_of(tmp_path, yaml.safe_dump({**said, "mta": {"layers": "none"}}))
    assert "2 problems" in told
    assert "line 1: stage_one > trains: shared_adapters, task_adapters: mta > layers: none leaves" in told


def test_a_length_in_steps_replaces_that_in_epochs() -> None:
    spec = DomainSpec.model_validate(tiny_spec(Path("backbone")) | {"stage_two": {"steps": 7}})
    assert spec.stage_two is not None
    assert (spec.stage_two.steps, spec.stage_two.epochs) == (7, None)


def test_a_repeated_key_is_an_error(tmp_path: Path) -> None:
    assert "the key 'name' stands twice" in problems_of(tmp_path, spec_text() + "name: again\n")


@pytest.mark.parametrize(
    ("stage", "best"),
    [
        ({}, True),
        ({"trains": ["task_adapters", "gates"]}, True),
        ({"best_by_task": False}, False),
        ({"gate": "soft"}, False),
        ({"gate": "signed"}, False),
        ({"trains": ["backbone", "gates"]}, False),
        ({"trains": ["adapters", "gates"]}, False),
        ({"patience": 2}, False),
        ({"average": 0.5}, False),
    ],
)
def test_each_task_keeps_its_best_of_stage_two_unless_something_else_is_asked(
    stage: dict[str, Any], best: bool
) -> None:
    """No default makes a spec that says something else of stage two wrong."""
    spec = DomainSpec.model_validate(tiny_spec(Path("backbone")) | {"stage_two": {"steps": 7, **stage}})
    assert spec.stage_two is not None
    assert spec.stage_two.best_by_task is best


ONLY_GATES = {"trains": ["gates"], "gate": "soft", "steps": 1}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "a spec is a mapping"),
        ("- 1\n", "a spec is a mapping"),
        ("name: [\n", "not valid YAML"),
        ("name: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_what_is_no_spec_is_refused(tmp_path: Path, text: str, part: str) -> None:
    assert part in problems_of(tmp_path, text)


def test_a_missing_spec_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"domain\.yaml: there is no such spec"):
        load_domain(tmp_path)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"stage_one": {"epochs": None}}, "exactly one of epochs, steps"),
        ({"stage_one": {"trains": ["adapters"], "epochs": 1, "steps": 1}}, "exactly one of epochs, steps"),
        ({"stage_one": {"trains": [], "steps": 1}}, "name at least one part"),
        ({"split": {"test": 0.5, "validation": 0.5}}, "must leave rows to train on"),
        ({"schedule": {"cron": "daily"}}, "five fields"),
        ({"schedule": {"cron": "0 3 * * 1", "timezone": "Europe/Berln"}}, "did you mean 'Europe/Berlin'"),
        ({"schedule": {"cron": "99 3 * * 1"}}, "'99 3 * * 1' is no time that cron knows: bad minute"),
        ({"schedule": {"cron": "0 3 LW * *"}}, "'0 3 LW * *': of days with L it knows L alone"),
        ({"schedule": {"cron": "0 3 L/2 * *"}}, "'0 3 L/2 * *': of days with L it knows L alone"),
        ({"schedule": {"cron": "0 3 * * 5l"}}, "'0 3 * * 5l': it knows no last weekday"),
        ({"schedule": {"cron": "0 3 * * 5,6L"}}, "'0 3 * * 5,6L': it knows no last weekday"),
        ({"schedule": {"cron": "0 3 * * mon#1,wed"}}, "write all weekdays with # or none"),
        ({"stage_one": {"trains": ["adapters"], "epochs": float("inf")}}, "finite number"),
        ({"seed": 2**70}, "less than"),
        ({"tasks": []}, "give at least one"),
        ({"mta": {"homes": {"colour": "nowhere"}}}, "'nowhere' is no task"),
        ({"mta": {"shared_adapters": 2}}, "mta > shared_place: beneath lies one shared adapter, and there are 2"),
        ({"mta": {"homes": {"colour": "match", "match": "thing"}}}, "on the adapter of match, whose own home"),
        ({"mta": {"layers": "none"}}, "shared_adapters: mta > layers: none leaves"),
        ({"mta": {"shared_adapters": 0}}, "stage_one > trains: shared_adapters: there are none"),
        (
            {"mta": {"layers": "none"}, "stage_one": {}, "stage_two": {}},
            "line 30: stage_two > trains: gates: mta",
        ),
        ({"warm_start": "champion", "stage_one": {"start": "zero"}}, "champion brings trained adapters"),
        ({"stage_two": {**ONLY_GATES, "active": "shared"}}, "stage_two > trains: gates: they would weigh 0 adapter"),
        ({"stage_two": ONLY_GATES, "mta": {"homes": {"colour": "thing", "match": "thing"}}}, "would weigh 1 adapter"),
        (
            {"stage_two": {**ONLY_GATES, "start": "shared"}, "mta": {"shared_adapters": 0}},
            "needs mta > shared_adapters: 1, got 0",
        ),
        ({"stage_one": {"trains": ["adapters"], "steps": 1, "start": "pretrained"}}, "write zero"),
        ({"mta": {"alpha": float("inf")}}, "mta > alpha: must be a finite number"),
        ({"seed": True}, "seed: must be a whole number, got true"),
        ({"stage_one": {"trains": ["adapters"], "steps": True}}, "steps: must be a whole number, got true"),
        ({"stage_one": {"trains": ["adapters"], "epochs": False}}, "epochs: must be a number, got false"),
        ({"mta": {"rank": True}}, "rank: must be a whole number, got true"),
        ({"mta": {"layers": True}}, "layers: must be text or a list, got true"),
        ({"mta": {"layers": [True, 2]}}, "layers: must hold numbers alone, got [true, 2]"),
        ({"backbone": {"model": " "}}, "backbone > model: is empty; give a hub id"),
    ],
)
def test_values_that_contradict_each_other_are_explained(tmp_path: Path, changes: dict[str, object], part: str) -> None:
    assert part in problems_of(tmp_path, spec_text(**changes))


def test_numbers_in_quotes_are_numbers_and_yaml_reads_2e_3_as_text(tmp_path: Path) -> None:
    text = spec_text(seed="7", stage_one={"trains": ["adapters"], "steps": "5"}) + "promotion: {max_task_drop: 2e-3}\n"
    (tmp_path / "domain.yaml").write_text(text)
    spec = load_domain(tmp_path)
    assert (spec.seed, spec.stage_one.steps, spec.promotion.max_task_drop) == (7, 5, 0.002)


def test_tasks_with_the_same_name_are_refused(tmp_path: Path) -> None:
    spec = tiny_spec(tmp_path)
    assert "more than once" in problems_of(tmp_path, spec_text(tasks=[spec["tasks"][0]] * 2))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"quality": {"input_pattern": "("}}, "'(' is no regular expression"),
        ({"labels": ["red", " red "]}, "two or more different ones"),
        ({"labels": ["red", " "]}, "one of them is empty"),
        ({"metrics": []}, "tasks[0] (colour) > metrics: names none; give one or more"),
        ({"abstain_precision": 1}, "tasks[0] (colour) > abstain_precision: must be less than 1, got 1"),
        ({"abstain_precision": 0.9, "abstain_below": 0.6}, "abstain_precision: abstain_below gives the bound that"),
        ({"type": "generation", "labels": None, "abstain_precision": 0.9}, "a task of type generation has no labels"),
        ({"source": {"path": "x", "where": {"new": True}}, "quality": {"min_rows": True}}, "1 problem\n"),
    ],
)
def test_values_of_a_task_are_checked(tmp_path: Path, change: dict[str, object], part: str) -> None:
    assert part in problems_of(tmp_path, spec_text(tasks=[tiny_spec(tmp_path)["tasks"][0] | change]))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: {2024-01-01: x}\n", "name: must be text"),
        ("name: tiny\non: x\n", "line 2: the key on is no text; put it in quotes"),
        ("name: tiny\nnull: x\n1: x\n", "line 3: the key 1 is no text; put it in quotes"),
        ("name: tiny\nmta: {homes: {\n 1: a}}\n", "line 3: mta > homes: the key 1 is no text; put it in quotes"),
        ("name: tiny\nsplit: {yes: a, no: b}\n", "the key yes is no text; put it in quotes; and the key no is"),
        ("name: !!binary gIGC\n", "line 1: a binary value; write it as text"),
        ('name: tiny\ndescription: "\\ud800"\n', "line 2: holds half of a character"),
    ],
)
def test_yaml_that_cannot_be_written_down_again_is_refused(tmp_path: Path, text: str, part: str) -> None:
    assert part in problems_of(tmp_path, text)


def test_a_key_that_a_source_of_this_kind_does_not_read_is_refused(tmp_path: Path) -> None:
    task = tiny_spec(tmp_path)["tasks"][0] | {"source": {"path": "rows.jsonl", "split": "train", "revision": "v1"}}
    text = problems_of(tmp_path, spec_text(tasks=[task]))
    for key in ("split", "revision"):
        assert f"source > {key}: read with hub only, and this source has path: drop one" in text


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("postgresql://me:hunter2@db/x", True),
        ("postgresql://${DB_USER}:hunter2@db/x", True),
        ("postgresql://me:hun/ter2@db/x", True),
        ("postgresql://db/x?user=me&password=hunter2", True),
        ("postgresql://${DB_USER}:${DB_PASSWORD}@db:5432/x", False),
        ("postgresql://db/x?password=${DB_PASSWORD}", False),
        ("postgresql://db:5432/x", False),
        ("sqlite:///rows.db", False),
    ],
)
def test_a_password_that_is_written_out_is_refused(tmp_path: Path, url: str, refused: bool) -> None:
    source = {"sql": url, "query": "select 1"}
    text = spec_text(tasks=[tiny_spec(tmp_path)["tasks"][0] | {"source": source}])
    if refused:
        assert "a password does not belong in a spec" in problems_of(tmp_path, text)
    else:
        (tmp_path / "domain.yaml").write_text(text)
        assert load_domain(tmp_path).tasks[0].source.sql == url


def test_the_digest_ignores_schedule_and_description_only() -> None:
    def digest(**changes: object) -> str:
        return DomainSpec.model_validate({**tiny_spec(Path("backbone")), **changes}).digest

    assert digest(description="other", schedule={"cron": "0 3 * * 1"}) == digest()
    others: list[dict[str, object]] = [{"seed": 1}, {"split": {"test": 0.3}}, {"evaluation": {"max_rows": 7}}]
    others += [{"promotion": {"max_task_drop": 0.1}}, {"precision": "bf16"}, {"warm_start": "champion"}]
    assert len({digest(), *(digest(**other) for other in others)}) == 1 + len(others)


def test_every_field_of_the_schema_is_explained() -> None:
    schema = DomainSpec.model_json_schema()
    silent = [
        f"{name}.{field}"
        for name, part in {"DomainSpec": schema, **schema["$defs"]}.items()
        for field, facts in part.get("properties", {}).items()
        if name != "DomainSpec" and "description" not in facts and "$ref" not in facts
    ]
    assert silent == []


def test_what_models_learn_by_is_all_of_a_task_but_its_rows_place_what_people_read_and_its_bound() -> None:
    task = DomainSpec.model_validate(tiny_spec(Path("backbone"))).tasks[0]
    apart = {"source", "test", "quality", "description", "licence", "abstain_below", "abstain_precision"}
    assert set(task.content) == set(TaskSpec.model_fields) - apart


def test_a_licence_that_is_not_listed_and_one_that_is_not_stated_are_refused(tmp_path: Path) -> None:
    spec = tiny_spec(Path("backbone"))
    spec["backbone"]["licence"] = "Apache-2.0"
    spec["tasks"][0]["licence"] = "CC-BY-NC-4.0"
    spec["tasks"][1].pop("licence", None)
    told = problems_of(tmp_path, yaml.safe_dump({**spec, "licences": {"allow": ["apache-2.0", "MIT"]}}))
    assert "licences > allow: task colour has 'CC-BY-NC-4.0', which is not listed" in told
    assert "; and task match states no licence; give its `licence`" in told
    assert "backbone" not in told.partition("licences > allow")[2]


def test_licences_that_are_listed_pass_and_are_no_part_of_what_a_version_is_made_of(tmp_path: Path) -> None:
    spec = tiny_spec(Path("backbone"))
    for part in (spec["backbone"], *spec["tasks"]):
        part["licence"] = "CC-BY-4.0"
    listed = DomainSpec.model_validate({**spec, "licences": {"allow": ["CC-BY-4.0 "]}})
    assert listed.digest == DomainSpec.model_validate(spec).digest
