"""What tidying, filters, groups, labels and split columns lose is told; a check that saw nothing has not passed."""

from typing import Any

import pytest

from alter_core.data.dataset import SPLITS
from alter_core.errors import DataError
from alter_core.text import look, tidied, tidying
from tests.data.conftest import MadeDomain, good_rows

CODE = "def f(x):\n    if x:\n        return 'a  b'\n\n\n    return 0"
YAML = "service:\n  ports:\n    - 800\n\tx:   1"


def _targets(made: MadeDomain, **task: Any) -> set[str]:
    dataset = made.ingest({"type": "generation", **task})
    return {row["target"] for split in SPLITS for row in dataset.rows(split)}


def _checks(made: MadeDomain, *tasks: Any, **more: Any) -> dict[str, str]:
    report = made.validate(*tasks, **more)
    return {item.check: item.text for item in report.items if item.outcome in ("warn", "block")}


@pytest.mark.parametrize("text", [CODE, YAML, "a:\n\tb", "if x:\n  y"])
@pytest.mark.parametrize("type_", ["generation", "extraction"])
def test_an_indented_text_keeps_its_blanks(made: MadeDomain, text: str, type_: str) -> None:
    made.write("rows.jsonl", [{"input": f"{text}\n  {n}", "target": f"{text}\n  # {n}\r\n"} for n in range(60)])
    dataset = made.ingest({"type": type_})
    rows = [row for split in SPLITS for row in dataset.rows(split)]
    assert {row["target"] for row in rows} == {f"{text}\n  # {n}" for n in range(60)}
    assert all(row["input"].startswith(text) for row in rows)
    assert dataset.manifest["tasks"]["task"]["notes"] == []


@pytest.mark.parametrize(
    ("text", "layout", "written"),
    [
        (" a  b\t c \r\n d", "prose", "a b c\nd"),
        ("a  b\t c", "auto", "a b c"),
        ("a  b\n\n\n\nc", "auto", "a b\n\nc"),
        (" a  b\n  c \r\nd\n", "auto", "a  b\n  c \nd"),
        (" a  b\t c \n", "kept", "a  b\t c"),
        ("a\u2003b", "kept", "a\u2003b"),
        ("cafe\u0301", "kept", "caf\u00e9"),
        ("x\u00b2 \uff21 \ufb01", "prose", "x\u00b2 \uff21 \ufb01"),
    ],
)
def test_layout_says_which_blanks_stay(text: str, layout: Any, written: str) -> None:
    assert tidied(text, layout) == written
    assert tidied(written, layout) == written


@pytest.mark.parametrize(
    ("text", "changed"),
    [("a b ", None), ("\na b\r\n", None), ("a  b", "blanks"), ("a\n\n\nb", "blanks"), ("    return x", "indentation"),
     ("  a\n    b", "indentation"), ("\u2126", "letters")],
)  # fmt: skip
def test_what_tidying_changes_has_a_name(text: str, changed: str | None) -> None:
    assert tidying(text, tidied(text, "auto")) == changed


def test_targets_whose_blanks_went_are_counted_and_told_unless_that_is_asked_for(made: MadeDomain) -> None:
    made.write("rows.jsonl", [{"input": f"a {n}", "target": f"col  {n}" if n < 7 else f"col {n}"} for n in range(60)])
    told = _checks(made, {"type": "generation"})
    assert told["tidying leaves what carries meaning"] == "tidying changed the blanks of 7 targets"
    for layout in ("prose", "kept"):
        assert "tidying leaves what carries meaning" not in _checks(made, {"type": "generation", "layout": layout})
    assert "col  3" in _targets(made, layout="kept")
    assert made.ingest({"type": "generation", "layout": "prose"}).manifest["tasks"]["task"]["tidied"] == {
        "target: blanks": 7
    }


def test_targets_that_differ_by_case_or_form_are_two_targets(made: MadeDomain) -> None:
    pairs = [("1 mW", "1 MW"), ("May", "may"), ("x\u00b2", "x2"), ("\uff21", "A"), ("a\u200bb", "ab")]
    rows = [{"input": f"row {n}", "target": target} for n, pair in enumerate(pairs) for target in pair]
    made.write("rows.jsonl", rows)
    assert _targets(made) == {target for pair in pairs for target in pair}


def test_inputs_that_case_tells_apart_contradict_nothing_and_are_told(made: MadeDomain) -> None:
    units = (("mW", "yes"), ("MW", "no"))
    rows = [{"input": f"{unit} {n}", "target": target} for n in range(3) for unit, target in units]
    made.write("rows.jsonl", good_rows(60) + rows)
    task = made.ingest().manifest["tasks"]["task"]
    assert (task["contradictions"], task["contradicting"], task["by_case"], sum(task["rows"].values())) == (0, 0, 3, 66)
    assert _checks(made)["case tells no inputs apart"].startswith("3 inputs differ from another by case alone")


ALIKE = [
    ("yes", "ye\u0455"),  # a Cyrillic letter
    ("yes", "y\u200bes"),
    ("yes", "\uff59\uff45\uff53"),
    ("not known", "not\u00a0\u00adknown"),
    ("e-mail", "e\u2011mail"),
    ("don't", "don\u2019t"),
    ("A", "\u0391"),  # Greek
]


@pytest.mark.parametrize(("one", "two"), ALIKE)
def test_labels_that_look_alike_block_and_warn_where_the_spec_lists_them(made: MadeDomain, one: str, two: str) -> None:
    targets = (one, two, "other")
    made.write("rows.jsonl", [{"input": f"row {n}", "target": targets[n % 3]} for n in range(90)])
    assert look(one) == look(two)
    outcomes = {}
    for labels in (None, [one, two, "other"]):
        report = made.validate({"labels": labels} if labels else {})
        outcomes[bool(labels)] = {item.check: item.outcome for item in report.items}["labels do not look alike"]
    assert outcomes == {False: "block", True: "warn"}


def test_labels_that_only_resemble_each_other_are_left_alone() -> None:
    assert (
        len({look(text) for text in ("yes", "no", "yes.", "yes no", "1", "10", "l", "\u00e9", "e", "\u00fc", "u")})
        == 11
    )


def test_a_label_that_one_or_two_rows_have_is_told(made: MadeDomain) -> None:
    rare = [{"input": f"is it {n}", "target": "maybe"} for n in range(2)]
    made.write("rows.jsonl", [*good_rows(200), *rare])
    made.write("test.jsonl", good_rows(20, first=500))
    told = _checks(made, {"test": {"path": "test.jsonl"}}, split={"validation": 0})
    assert told["no label is rare"] == "labels that one or two training rows have: 'maybe (2)'"


@pytest.mark.parametrize(
    ("one", "two"), [("Acme", "ACME"), ("acme", "a\u0441me"), ("acme", "ac\u200bme"), ("acme", "\uff41cme")]
)
def test_groups_that_look_alike_and_go_apart_are_told(made: MadeDomain, one: str, two: str) -> None:
    rows = [{**row, "group": f"{(one, two)[n % 2]} {n // 2 % 40}"} for n, row in enumerate(good_rows(400))]
    made.write("rows.jsonl", rows)
    told = _checks(made, split={"by": "group", "test": 0.3})
    assert "groups look like another one and are in another split" in told["groups that look alike go together"]


def test_a_filter_value_that_no_row_has_is_told_with_those_that_rows_have(made: MadeDomain) -> None:
    made.write("rows.csv", "input,target,country\n" + "".join(
        f"row {n},{('a', 'b')[n % 2]},{('NO', 'SE', 'False')[n % 3]}\n" for n in range(90)))  # fmt: skip
    source = {"path": "rows.csv", "where": {"country": ["NO", "DK"]}}
    told = _checks(made, {"source": source})["values of where are there"]
    assert told == "no row has 'DK' in column 'country'; rows have 'SE', 'False'"
    with pytest.raises(DataError) as error:
        made.ingest({"source": {**source, "where": {"country": "DK"}}})
    assert "none of its 90 rows passes source > where (no row has 'DK' in column 'country'; rows have" in str(
        error.value
    )


def test_nothing_in_a_filtered_column_is_no_text(made: MadeDomain) -> None:
    made.write("rows.jsonl", [{**row, "x": None if n % 2 else "None"} for n, row in enumerate(good_rows(60))])
    source = {"path": "rows.jsonl", "where": {"x": "None"}}
    assert made.ingest({"source": source}).manifest["tasks"]["task"]["read"] == 30


SPLIT_COLUMNS = {
    "split": (["train", "train", "test"], True),
    "Split": (["train", "test", "validation"], True),
    "fold": (["0", "1", "2"], True),
    "subset": (["a", "b"], True),
    "part": (["dev", "training", "TEST"], True),
    "data_split": (["train", "eval"], True),
    "kind": (["train", "bus", "tram"], False),
    "manifold": (["0", "1"], False),
    "topic": (["x", "y"], False),
}


@pytest.mark.parametrize("column", SPLIT_COLUMNS)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_column_that_says_the_split_and_is_not_used_is_told(made: MadeDomain, column: str, form: str) -> None:
    values, told = SPLIT_COLUMNS[column]
    rows = [{**row, column: values[n % len(values)]} for n, row in enumerate(good_rows(90))]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    made.write(f"rows.{form}", rows if form == "jsonl" else "\n".join(lines) + "\n")
    source = {"path": f"rows.{form}"}
    report = made.validate({"source": source})
    items = [item for item in report.items if item.check == "a column that says the split is used"]
    assert bool(items) == told
    if told:
        assert f"column {column!r} holds" in items[0].text
        assert f'where: {{"{column}": [' in items[0].remedy
        used = {"source": {**source, "where": {column: values[0]}}, "test": {**source, "where": {column: values[-1]}}}
        assert "a column that says the split is used" not in _checks(made, used)


EMPTY = [
    ("ExpectColumnValuesToMatchRegex", {"column": "target", "regex": "^zzz$"}),
    ("ExpectColumnValuesToBeInSet", {"column": "target", "value_set": ["zzz"]}),
    ("ExpectColumnUniqueValueCountToBeBetween", {"column": "target", "max_value": 100}),
    ("ExpectColumnValueLengthsToBeBetween", {"column": "input", "min_value": 900}),
]


@pytest.mark.parametrize(("name", "arguments"), EMPTY)
@pytest.mark.parametrize("severity", ["block", "warn"])
def test_an_expectation_that_looked_at_nothing_has_not_passed(
    made: MadeDomain, name: str, arguments: dict[str, Any], severity: str
) -> None:
    made.write("rows.jsonl", good_rows(200))
    condition = {"row_condition": 'split == "tset"', "condition_parser": "pandas"}
    asked = {"expectation": name, "arguments": arguments | condition, "severity": severity}
    report = made.validate({"quality": {"expectations": [asked]}})
    [item] = [item for item in report.items if item.check == name]
    assert item.outcome == severity
    assert "checked no value" in item.text or "cannot be checked" in item.text


def test_a_count_of_rows_that_is_to_be_none_is_a_check_of_all(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    asked = {"expectation": "ExpectTableRowCountToEqual",
             "arguments": {"value": 0, "row_condition": 'target == "bad"', "condition_parser": "pandas"}}  # fmt: skip
    report = made.validate({"quality": {"expectations": [asked]}})
    assert [item.outcome for item in report.items if item.check == asked["expectation"]] == ["ok"]


def test_a_language_that_no_text_tells_is_not_passed(made: MadeDomain) -> None:
    made.write("rows.jsonl", [{"input": f"{n} {n * 7}", "target": ("a", "b")[n % 2]} for n in range(100)])
    told = _checks(made, {"quality": {"language": "en"}})
    assert "checked no value" in told["in the language asked for"]


def test_what_needs_a_tokenizer_is_unchecked_without_one(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    report = made.validate()
    assert {item.check for item in report.wrong("unchecked")} == {
        "inputs fit max_input_tokens",
        "targets fit max_target_tokens",
        "targets come back from their tokens",
        "targets can be learnt",
        "labels stay apart",
        "prompts and answers have room",
    }
    assert report.outcome == "ok"
