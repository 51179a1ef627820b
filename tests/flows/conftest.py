"""The tiny domain's plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.production.plan import Plan
from tests.conftest import tiny_spec, write_domain

Read = Callable[..., Plan]


@pytest.fixture
def read(tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """A function that reads the plan of the tiny domain with some changes, in a workspace of the test's own."""
    monkeypatch.setenv("ALTER_HOME", str(tmp_path / "home"))

    def make(**changes: Any) -> Plan:
        return Plan.read(str(write_domain(tmp_path / "tiny", {**tiny_spec(tiny_backbone), **changes})))

    return make
