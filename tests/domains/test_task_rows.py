"""The steps from all rows of a public data set to a domain's: nothing twice, nothing given away, everything counted."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.task_rows import MOST_WORDS, Row, Task, made, same, split_by_group

TEXTS = st.sampled_from(["a b", "A, b!", "a  b", "c", "[c] d", "c d", "<c> d", "", " ", "word " * (MOST_WORDS + 1)])
ROWS = st.lists(st.builds(Row, TEXTS, st.sampled_from(["yes", "no", "", "may be", "may  be"])), max_size=30)
MOST = st.none() | st.integers(0, 8)


@given(ROWS, ROWS, MOST, MOST, st.none() | st.sampled_from([0.2, 0.5]))
@settings(max_examples=200, deadline=None)
def test_every_row_is_kept_or_counted(
    train: list[Row], test: list[Row], most_train: int | None, most_test: int | None, largest: float | None
) -> None:
    rows = made(Task("any", train, test, most_train, most_test, largest))
    assert rows.read == len(train) + len(test) == len(rows.train) + len(rows.test) + rows.left_out.total()
    keys = [[same(row.input) for row in side] for side in (rows.train, rows.test)]
    assert all(len(set(side)) == len(side) for side in keys)
    assert not set(keys[0]) & set(keys[1])
    for side, read, most in ((rows.train, train, most_train), (rows.test, test, most_test)):
        assert most is None or len(side) <= most
        for row in side:
            assert row.input == " ".join(row.input.split())
            assert 0 < len(row.input.split()) <= MOST_WORDS
            targets = {" ".join(r.target.split()) for r in read if same(r.input) == same(row.input)} - {""}
            assert targets == {row.target}


@given(ROWS, ROWS)
@settings(max_examples=50, deadline=None)
def test_the_same_rows_give_the_same(train: list[Row], test: list[Row]) -> None:
    task = Task("any", train, test, 5, 5, 0.5)
    assert made(task) == made(task)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("No. None", "no, NONE!", True),
        ("a [b] <c>", "a b c", False),
        ("a [b] <c>", "a <b> [c]", False),
        ("ab", "a b", False),
        ("Größe", "größe", True),
    ],
)
def test_inputs_are_one_whatever_case_and_signs_but_not_whatever_brackets(one: str, other: str, equal: bool) -> None:
    assert (same(one) == same(other)) == equal


def test_no_target_has_more_than_its_share_before_the_last_draw() -> None:
    rows = [Row(f"text {n}", "often" if n % 10 else "seldom") for n in range(400)]
    kept = made(Task("any", rows, [], 100, 0, 0.5))
    assert Counter(row.target for row in kept.train) == {"often": 50, "seldom": 40}


def test_an_input_with_two_targets_on_one_side_is_on_neither() -> None:
    test = [Row("what?", "yes"), Row("why?", "no")]
    assert made(Task("any", [Row("What", "yes"), Row("what", "no")], test)).test == [Row("why?", "no")]
    assert made(Task("any", test, [Row("What", "yes"), Row("what", "no")])).train == [Row("why?", "no")]


def test_a_group_is_on_one_side_whatever_the_order_of_the_rows() -> None:
    rows = [Row(f"text {n}", "yes", group=str(n % 50)) for n in range(200)]
    train, test = split_by_group(rows, 0.2)
    assert len({row.group for row in test}) == 10
    assert not {row.group for row in train} & {row.group for row in test}
    assert {row.group for row in split_by_group(rows[::-1], 0.2)[1]} == {row.group for row in test}


def test_a_file_holds_an_object_a_line_and_keeps_other_letters(tmp_path: Path) -> None:
    made(Task("any", [Row("Größe\u2028?", "ja", {"id": "1"})], [Row("warum", "nein")])).write(tmp_path / "any")
    assert (tmp_path / "any" / "train.jsonl").read_bytes() == (
        '{"input": "Größe ?", "target": "ja", "meta": {"id": "1"}}\n'.encode()
    )
    assert json.loads((tmp_path / "any" / "test.jsonl").read_text(encoding="utf-8")) == {
        "input": "warum",
        "target": "nein",
    }
