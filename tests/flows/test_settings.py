"""The table of settings holds what is read, and a wrong value is a message."""

import re
from pathlib import Path

import pytest

from alter_core.errors import AlterError
from flows.settings import CHECKPOINT_SECONDS, SETTINGS, checkpoint_seconds

ROOT = Path(__file__).parents[2]


def test_every_variable_of_the_factory_is_told() -> None:
    read = {
        name
        for room in ("alter_core", "flows", "registry")
        for file in (ROOT / room).rglob("*.py")
        for name in re.findall(r"\bALTER_[A-Z_]+\b", file.read_text(encoding="utf-8"))
    }
    assert {one.name for one in SETTINGS if one.name.startswith("ALTER_")} == read


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan"])
def test_a_time_between_checkpoints_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ALTER_CHECKPOINT_SECONDS", given)
    with pytest.raises(AlterError, match=rf"ALTER_CHECKPOINT_SECONDS: '{given}' is no number of seconds above 0"):
        checkpoint_seconds()


@pytest.mark.parametrize(("given", "seconds"), [("", CHECKPOINT_SECONDS), ("0.5", 0.5)])
def test_the_time_between_checkpoints_is_read(monkeypatch: pytest.MonkeyPatch, given: str, seconds: float) -> None:
    monkeypatch.setenv("ALTER_CHECKPOINT_SECONDS", given)
    assert checkpoint_seconds() == seconds
