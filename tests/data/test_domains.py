"""The domains that the package ships: the embedded one, and three on real rows where a data root is given."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from alter_core.data.dataset import TaskDataset
from alter_core.data.fingerprint import source_fingerprint
from alter_core.data.ingest import ingest
from alter_core.errors import DataError
from alter_core.quality.report import validate
from alter_core.spec.load import load_domain
from alter_core.workspace import Workspace

DOMAINS = Path(__file__).parents[2] / "domains"
REAL = ("assistant", "clinical", "scholarly")
ROOT = os.environ.get("ALTER_DATA_ROOT")


@pytest.fixture(scope="module")
def pydocs(tmp_path_factory: pytest.TempPathFactory) -> TaskDataset:
    spec = load_domain(DOMAINS / "pydocs")
    return ingest(spec, DOMAINS / "pydocs", Workspace(tmp_path_factory.mktemp("pydocs")))


def test_pydocs_has_enough_rows_of_five_types_of_task(pydocs: TaskDataset) -> None:
    rows = {name: task["rows"] for name, task in pydocs.manifest["tasks"].items()}
    assert list(pydocs.task_names) == ["package", "fits", "raises", "summary", "name"]
    assert all(c["train"] >= 150 and c["validation"] >= 30 and c["test"] >= 100 for c in rows.values()), rows


def test_pydocs_gives_nothing_away(pydocs: TaskDataset) -> None:
    for row in pydocs.rows("train", "package"):
        words = set(row["input"].lower().replace(".", " ").replace("(", " ").split())
        assert not words & {"numpy", "np", "pandas", "pd", "torch", "scipy", "sklearn", "mlflow", "plt"}, row
    assert all(row["target"] not in row["input"].split() for row in pydocs.rows("test", "name"))
    for row in pydocs.rows("test", "raises"):
        assert all(name in row["input"] for name in row["target"].split("; "))


def test_pydocs_is_balanced_enough_that_the_majority_is_a_poor_guess(pydocs: TaskDataset) -> None:
    for name, most in (("package", 0.25), ("fits", 0.6)):
        counts = pydocs.manifest["tasks"][name]["label_counts"]["test"]
        assert max(counts.values()) / sum(counts.values()) < most


def test_the_fingerprint_of_pydocs_holds_the_versions_that_it_read(pydocs: TaskDataset) -> None:
    facts = pydocs.manifest["facts"]["package"]["source"]
    assert set(facts) == {
        "Python", "numpy", "pandas", "scipy", "scikit-learn", "SQLAlchemy", "matplotlib", "mlflow", "prefect", "torch"
    }  # fmt: skip
    spec = load_domain(DOMAINS / "pydocs")
    assert source_fingerprint(spec, DOMAINS / "pydocs", None) == pydocs.manifest["fingerprint"]


@pytest.mark.real_data
@pytest.mark.skipif(ROOT is None, reason="ALTER_DATA_ROOT is not set")
@pytest.mark.parametrize("name", REAL)
def test_a_domain_on_real_rows_is_not_blocked(name: str, tmp_path: Path) -> None:
    root = Path(str(ROOT))
    assert (root / name).is_dir(), f"ALTER_DATA_ROOT is {root}, and has no folder {name}"
    spec = load_domain(DOMAINS / name)
    dataset = ingest(spec, DOMAINS / name, Workspace(tmp_path), root)
    report = validate(dataset, spec, None)
    report.raise_if_blocked()
    assert all(task["rows"]["test"] >= 150 for task in dataset.manifest["tasks"].values())


@pytest.mark.parametrize("name", REAL)
def test_without_rows_the_command_that_makes_them_is_said_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        ingest(load_domain(DOMAINS / name), DOMAINS / name, Workspace(tmp_path))
    assert f"`make domains DATA_ROOT=FOLDER NAMES={name}`" in raised.value.headline
    assert str(raised.value).count("make domains") == 1


def test_a_domain_that_does_not_make_its_rows_names_no_such_command(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    spec = (DOMAINS / "assistant" / "domain.yaml").read_text(encoding="utf-8")
    (tmp_path / "own" / "domain.yaml").write_text(spec, encoding="utf-8")
    with pytest.raises(DataError, match="no such file") as raised:
        ingest(load_domain(tmp_path / "own"), tmp_path / "own", Workspace(tmp_path))
    assert "make domains" not in str(raised.value)


@pytest.mark.parametrize(("name", "task"), [("assistant", "banking_intent"), ("clinical", "pubmed_answer")])
def test_the_hub_source_that_a_comment_shows_can_stand_in_its_place(name: str, task: str, tmp_path: Path) -> None:
    lines = (DOMAINS / name / "domain.yaml").read_text(encoding="utf-8").splitlines()
    shown = next(number for number, line in enumerate(lines) if line.lstrip().startswith("# source:"))
    replaced = [line for line in lines[:shown] if f"{name}/{task}/" not in line]
    replaced += [line.replace("# ", "", 1) if line.startswith("    # ") else line for line in lines[shown:]]
    (tmp_path / "domain.yaml").write_text("\n".join(replaced), encoding="utf-8")
    one = next(one for one in load_domain(tmp_path).tasks if one.name == task)
    assert one.source.hub
    assert one.test is None or one.test.hub


@pytest.mark.real_data
@pytest.mark.skipif(ROOT is None, reason="ALTER_DATA_ROOT is not set")
@pytest.mark.parametrize("name", REAL)
def test_the_rows_are_those_whose_digests_the_readme_has(name: str) -> None:
    page = (DOMAINS / name / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \| \w+ \| ([\d,]+) / ([\d,]+) \| `(\w+)` / `(\w+)` \|", page, re.M)
    assert [task for task, *_ in told] == [task.name for task in load_domain(DOMAINS / name).tasks]
    for task, *counts, train, test in told:
        for side, count, digest in zip(("train", "test"), counts, (train, test), strict=True):
            content = (Path(str(ROOT)) / name / task / f"{side}.jsonl").read_bytes()
            assert content.count(b"\n") == int(count.replace(",", ""))
            assert hashlib.sha256(content).hexdigest().startswith(digest), f"{task}/{side}.jsonl"


def test_every_shipped_spec_is_read() -> None:
    found = sorted(file.parent.name for file in DOMAINS.glob("*/domain.yaml"))
    assert found == sorted([*REAL, "pydocs"])
    assert all(load_domain(DOMAINS / name).name == name for name in found)
    assert all((DOMAINS / name / "README.md").exists() for name in REAL)
