"""A registry that an earlier release made, read by this code: it answers, compares, reports and rolls back."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from registry.card import own_scorecard
from registry.models import ModelStore
from registry.verification import JUST_RECORDED
from tests.command_line import Alter, caller
from tests.registry.conftest import verify_in_fresh_process
from tests.registry.old import Old, unpacked
from tests.registry.server import environment

Rows = Sequence[dict[str, Any]]


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return unpacked("c66842c", tmp_path / "old")


@pytest.fixture
def alter(old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Alter:
    """Run a command line on the old workspace; gives exit code, stdout and stderr."""
    monkeypatch.setenv("ALTER_HOME", str(old.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capsys)


def samples_of(old: Old, version: int | str) -> Rows:
    """Rows of a version's test with what it answered when it was made."""
    cards = ModelStore(old.uri).facts("tiny", version)["scorecards"]
    rows: Rows = own_scorecard(cards)["samples"]
    assert len(rows) > 5
    return rows


def test_the_champion_gives_the_answers_that_were_recorded(old: Old, alter: Alter, tmp_path: Path) -> None:
    rows = samples_of(old, "champion")
    asked = "".join(json.dumps({"task": row["task"], "input": row["input"]}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(asked, encoding="utf-8")
    code, _, err = alter("predict", str(old.domain), "--file", "rows.jsonl", "--out", "answers.jsonl", "--quiet")
    assert code == 0, err
    found = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["prediction"] for row in found] == [row["prediction"] for row in rows]
    scores = [row["score"] for row in rows]
    assert [row["score"] for row in found] == pytest.approx(scores, abs=JUST_RECORDED.score)


def test_its_stored_model_code_runs_with_this_package(old: Old) -> None:
    found = verify_in_fresh_process(old.uri, "tiny", 2, samples_of(old, 2))
    assert found["different"] == 0


def test_its_stored_wheel_still_answers_alone(old: Old, tmp_path: Path) -> None:
    rows = samples_of(old, 1)
    asked = [{"task": row["task"], "input": row["input"]} for row in rows]
    (tmp_path / "rows.json").write_text(json.dumps(asked), encoding="utf-8")
    code = """
import importlib.abc, json, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("alter_core", "registry", "flows") and not any(".whl" in p for p in sys.path):
            raise ModuleNotFoundError(name, name=name.split(".")[0])
sys.meta_path.insert(0, Hidden())
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/tiny/1")
answers = model.predict(pd.DataFrame(json.load(open("rows.json"))))
import alter_core
print(json.dumps([alter_core.__file__, answers["prediction"].tolist()]))
"""
    given = {name: value for name, value in environment(MLFLOW_TRACKING_URI=old.uri).items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=given, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    where, answers = json.loads(ended.stdout.splitlines()[-1])
    assert f"27e39cc4a469d3a3-py3-none-any.whl{os.sep}alter_core" in where
    assert answers == [row["prediction"] for row in rows]


def test_its_versions_are_listed_and_compared(old: Old, alter: Alter) -> None:
    code, out, err = alter("models", str(old.domain), "--json")
    assert code == 0, err
    assert [(row["version"], row["aliases"]) for row in json.loads(out)] == [(2, ["champion"]), (1, [])]
    code, out, err = alter("compare", str(old.domain), "1", "2", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["macro"]["second"] == pytest.approx(0.324444, abs=1e-6)
    assert found["decision"]["promote"]


def test_the_report_of_a_version_is_written(old: Old, alter: Alter, tmp_path: Path) -> None:
    code, _, err = alter("report", str(old.domain), "--version", "1", "--output", "page.html")
    assert code == 0, err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(task in page for task in ("colour", "match", "thing"))


def test_the_champion_can_be_rolled_back_and_promoted_again(old: Old, alter: Alter) -> None:
    code, out, err = alter("rollback", str(old.domain))
    assert code == 0, err
    assert "version 1" in out
    code, out, err = alter("promote", str(old.domain), "2")
    assert code == 0, err
    champion = ModelStore(old.uri).alias("tiny", "champion")
    assert champion is not None
    assert champion["version"] == 2
    assert "champion" in champion["description"]


def test_it_is_exported_as_a_base_with_a_lora_each_that_answer_its_recorded_rows_alike(
    old: Old, alter: Alter, tmp_path: Path
) -> None:
    code, out, err = alter("export", str(old.domain), "--format", "peft", "--to", "exported")
    assert code == 0, err
    told = json.loads((tmp_path / "exported" / "alter_export.json").read_text(encoding="utf-8"))
    assert (told["name"], told["prompt_format"]) == ("tiny version 2", 1)
    header, page = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)
    assert "model-index:" in header
    assert page.startswith("#")  # the page for people
    assert {file.name for file in (tmp_path / "exported" / "adapters").iterdir()} == {"colour", "match", "thing"}
    rows, parity = samples_of(old, "champion"), told["parity"]
    recorded = [(row["task"], row["input"], row["prediction"]) for row in rows]
    assert [(row["task"], row["input"], row["champion"]) for row in parity["each"]] == recorded
    assert f"of {len(rows)} rows {parity['different_answers']} are answered otherwise than by the champion" in out
