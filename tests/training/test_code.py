"""What a training really imports, and how a number in its loss reaches the scorecards."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import alter_core
from alter_core.code import own_code
from alter_core.mta import bundle_digest
from alter_core.workspace import Workspace
from flows.production.plan import Plan
from tests.training.conftest import Domain

TREE = Path(str(alter_core.__file__)).parent.parent
TRAIN = """
import json, sys
from alter_core.training.job import main
code = main(sys.argv[1:])
loaded = sorted(name for name in sys.modules if name.partition(".")[0] == "alter_core")
print(json.dumps([code, loaded]))
"""


def trained_by(tree: Path, domain: Domain, output: Path) -> set[str]:
    """Train stage one by the code in `tree`; the modules of alter_core that were imported for it."""
    job = domain.job(output, evaluate_every=3)
    output.mkdir(parents=True)
    file = output / "job.json"
    file.write_text(job.model_dump_json(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(file)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return set(loaded)


@pytest.fixture(scope="module")
def trained(domain: Domain, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Folder of a stage that this code trained and scored, and what was imported for it."""
    output = tmp_path_factory.mktemp("trained") / "stage_one"
    return output, trained_by(TREE, domain, output)


def test_all_that_a_training_imports_is_in_its_key(trained: tuple[Path, set[str]]) -> None:
    _, loaded = trained
    assert "alter_core.training.loop" in loaded
    assert loaded <= set(own_code().closure("alter_core.training.job"))


def test_another_number_in_the_loss_is_another_bundle_and_so_another_scorecard(
    trained: tuple[Path, set[str]], domain: Domain, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(TREE / "alter_core", tree / "alter_core", ignore=shutil.ignore_patterns("__pycache__"))
    loop = tree / "alter_core" / "training" / "loop.py"
    text = loop.read_text(encoding="utf-8")
    assert text.count("* batch.weights).sum()") == 1
    loop.write_text(text.replace("* batch.weights).sum()", "* batch.weights).sum() * 0.5"))
    trained_by(tree, domain, tmp_path / "other")

    plan = Plan(tmp_path / "domain.yaml", domain.spec, Workspace(tmp_path), None)
    one, other = (plan.score_key(bundle_digest(at / "bundle"), "rows") for at in (trained[0], tmp_path / "other"))
    assert one != other
