"""Results: there once their file is, whole, of the right work, and the same as they were written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from alter_core.whole import Result


@dataclass(frozen=True)
class Part:
    value: float


@dataclass(frozen=True)
class Whole(Result):
    key: str
    parts: Mapping[str, tuple[Part, ...]]
    why: str | None = None


WRITTEN = Whole("k", {"a": (Part(0.1), Part(float("inf"))), "b": ()})


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    WRITTEN.write(tmp_path / "deep" / "result.json")
    assert Whole.read(tmp_path / "deep" / "result.json") == WRITTEN
    assert Whole.read(tmp_path / "deep" / "result.json", key="k") == WRITTEN


def test_what_later_code_adds_to_a_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({**WRITTEN.to_json(), "new": 1}))
    assert Whole.read(tmp_path / "result.json") == WRITTEN


@pytest.mark.parametrize(
    "text", [None, "", '{"key": "k", "par', "[]", '{"key": "k"}', '{"key": "k", "parts": {"a": 1}}']
)
def test_half_a_result_is_none(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    assert Whole.read(tmp_path / "result.json") is None


def test_the_result_of_other_work_is_none(tmp_path: Path) -> None:
    WRITTEN.write(tmp_path / "result.json")
    assert Whole.read(tmp_path / "result.json", key="other") is None
