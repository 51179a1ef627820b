"""YAML does not guess for the user: what is compared with rows is what is written, or is refused."""

from pathlib import Path

import pytest

from alter_core.errors import SpecError
from alter_core.spec import DomainSpec
from alter_core.spec.load import load_domain

SPEC = """\
name: made
backbone: {{model: none}}
tasks:
  - name: task
    type: classification
    source: {source}
    quality: {quality}
stage_one: {{trains: [adapters], steps: {steps}}}
"""
GUESSED = ("NO", "no", "yes", "on", "off", "Off", "True", "0010", "010", "0x1F", "0b11", "1_000", "12:30", "190:20:30",
           "1.10", "1.0e+3", ".5", "1.", "2024-01-01", "2024-01-01 12:30:00", ".inf", ".nan", "+5")  # fmt: skip
"""What YAML takes for something whose text is another."""
SAID = (
    "10",
    "-3",
    "0",
    "0.5",
    "1.0",
    "true",
    "false",
    "null",
    "'NO'",
    '"0010"',
    "abc",
    "1e3",
    "a b",
    "'2024-01-01'",
    "!!str 5",
)
"""What is as it is written."""


def _load(tmp_path: Path, source: str = "{path: rows.csv}", quality: str = "{}", steps: str = "1") -> DomainSpec:
    file = tmp_path / "domain.yaml"
    file.write_text(SPEC.format(source=source, quality=quality, steps=steps), encoding="utf-8")
    return load_domain(file)


@pytest.mark.parametrize("text", [*GUESSED, "10", "0.5", "true", "abc", "1e3"])
def test_a_filter_holds_the_text_that_is_written(tmp_path: Path, text: str) -> None:
    source = _load(tmp_path, f"{{path: rows.csv, where: {{a: {text}, b: [x, {text}], c: '{text}'}}}}").tasks[0].source
    assert source.where == {"a": text, "b": ("x", text), "c": text}


@pytest.mark.parametrize("text", ["~", "null", "Null", "", "[~]"])
def test_a_filter_for_nothing_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError) as told:
        _load(tmp_path, f"{{path: rows.csv, where: {{a: {text}}}}}")
    assert "line 6: tasks[0] (task) > source > where > a" in str(told.value)
    assert "put it in quotes" in str(told.value)


def test_a_filter_that_an_alias_or_a_merge_brings_holds_its_text_too(tmp_path: Path) -> None:
    file = tmp_path / "domain.yaml"
    file.write_text(
        "name: made\nbackbone: {model: none}\ntasks:\n  - name: task\n    type: classification\n"
        "    source: &rows\n      path: rows.csv\n      where: {country: [NO, 0010]}\n"
        "    test:\n      <<: *rows\n      limit: 5\n"
        "stage_one: {trains: [adapters], steps: 1}\n"
    )
    [task] = load_domain(file).tasks
    assert task.test is not None
    assert task.source.where == task.test.where == {"country": ("NO", "0010")}


@pytest.mark.parametrize("text", GUESSED)
def test_an_argument_that_yaml_takes_for_something_else_is_refused(tmp_path: Path, text: str) -> None:
    asked = f"{{expectations: [{{expectation: ExpectColumnToExist, arguments: {{column: input, x: [{text}]}}}}]}}"
    for source, quality in ((f"{{callable: 's.py:rows', arguments: {{x: {{y: [1, {text}]}}}}}}", "{}"),
                            ("{path: rows.csv}", asked)):  # fmt: skip
        with pytest.raises(SpecError) as told:
            _load(tmp_path, source, quality)
        assert f"YAML reads {text} as" in str(told.value)
        assert "or put it in quotes" in str(told.value)


@pytest.mark.parametrize("text", SAID)
def test_an_argument_that_is_as_it_is_written_is_taken(tmp_path: Path, text: str) -> None:
    import yaml

    source = _load(tmp_path, f"{{callable: 's.py:rows', arguments: {{x: {text}}}}}").tasks[0].source
    assert source.arguments == {"x": yaml.safe_load(text)}


@pytest.mark.parametrize("key", ["NO", "0010", "2024-01-01", "~"])
def test_a_key_of_an_argument_that_is_no_text_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(SpecError) as told:
        _load(tmp_path, f"{{callable: 's.py:rows', arguments: {{map: {{{key}: a}}}}}}")
    assert f"the key {key} is no text; put it in quotes" in str(told.value)


@pytest.mark.parametrize("text", ["NO", "0010", "1.10", "2024-01-01", "12:30", "1_000", "5", "true"])
@pytest.mark.parametrize("place", ["label_map: {{x: {}}}", "columns: {{input: {}}}", "template: {}", "split: {}"])
def test_a_text_that_is_no_text_is_refused_wherever_a_field_wants_one(tmp_path: Path, place: str, text: str) -> None:
    with pytest.raises(SpecError) as told:
        _load(tmp_path, f"{{hub: rows, {place.format(text)}}}")
    assert "put it in quotes" in str(told.value)


@pytest.mark.parametrize(("text", "read"), [("0010", 8), ("1_000", 1000), ("12:30", 750), ("0x10", 16)])
def test_a_number_of_another_base_is_refused_where_a_number_is_wanted(tmp_path: Path, text: str, read: int) -> None:
    with pytest.raises(SpecError) as told:
        _load(tmp_path, steps=text)
    assert f"line 8: stage_one > steps: YAML reads {text} as {read}; write {read} if it is meant" in str(told.value)


def test_texts_are_compared_with_texts(tmp_path: Path) -> None:
    asked = (
        "{expectations: [{expectation: ExpectColumnValuesToBeInSet, arguments: {column: target, value_set: [1, a]}}]}"
    )
    with pytest.raises(SpecError) as told:
        _load(tmp_path, quality=asked)
    assert "column target holds texts: put 1 in quotes" in str(told.value)


@pytest.mark.parametrize("arguments", ["regex: ''", "regex_list: [a, '']", "like_pattern: ''"])
def test_a_pattern_that_fits_everything_is_refused(tmp_path: Path, arguments: str) -> None:
    given = f"{{column: target, {arguments}}}"
    asked = f"{{expectations: [{{expectation: ExpectColumnValuesToMatchRegex, arguments: {given}}}]}}"
    with pytest.raises(SpecError) as told:
        _load(tmp_path, quality=asked)
    assert "a check that cannot fail" in str(told.value)
