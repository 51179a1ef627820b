"""The room in short: rows are looked at before anything trains; what is wrong warns, or blocks, with its line."""

import pytest

from alter_core.errors import QualityBlocked
from tests.data.conftest import MadeDomain, good_rows


def test_good_rows_pass(made: MadeDomain) -> None:
    made.write("rows.jsonl", good_rows(200))
    report = made.validate()
    assert report.outcome == "ok"
    report.raise_if_blocked()


def test_a_target_that_is_no_label_blocks_and_is_named_with_its_line(made: MadeDomain) -> None:
    made.write("rows.jsonl", [*good_rows(200), {"input": "is the melon ripe", "target": "perhaps"}])
    report = made.validate({"labels": ["yes", "no"]})
    assert report.outcome == "block"
    with pytest.raises(QualityBlocked, match=r"rows\.jsonl:201: 'perhaps'"):
        report.raise_if_blocked()
