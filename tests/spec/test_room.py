"""The room in short: a domain.yaml becomes one frozen value, or every problem of it with its line."""

from pathlib import Path

import pytest

from alter_core.errors import SpecError
from alter_core.spec.load import load_domain

TEXT = """
name: shop
backbone: {model: org/small}
tasks:
  - {name: topic, type: classification, source: {path: topic.csv}, labels: [billing, delivery]}
stage_one: {epochs: 2}
"""


def test_a_spec_says_what_differs_from_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "domain.yaml").write_text(TEXT)
    spec = load_domain(tmp_path)
    assert (spec.stage_one.epochs, spec.stage_one.trains) == (2, ("shared_adapters", "task_adapters"))
    assert (spec.mta.layers, list(spec.stages)) == ("last_7", ["stage_one", "stage_two"])
    assert spec.task("topic").effective_metrics == ("accuracy", "macro_f1")


def test_what_is_wrong_is_told_at_once_and_by_line(tmp_path: Path) -> None:
    (tmp_path / "domain.yaml").write_text(TEXT.replace("labels", "lables").replace("epochs: 2", "epochs: none"))
    with pytest.raises(SpecError) as caught:
        load_domain(tmp_path)
    assert list(caught.value.problems) == [
        "line 5: tasks[0] (topic) > lables: unknown key; did you mean 'labels'?",
        "line 6: stage_one > epochs: must be a number, got 'none'",
    ]
