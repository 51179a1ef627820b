"""What the package asks for is what its modules import, and nothing of ours is taken for somebody else's."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from alter_core.code import Code

TREE = Path(__file__).parents[1]
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ROOMS = ("alter_core", "registry", "flows", "stack")
NOT_IMPORTED = {
    "fastapi": "a bound on what Prefect and MLflow serve with",
    "sentencepiece": "transformers imports it for tokenizers that come without tokenizer.json",
}
OTHER_HALVES = {"pydantic-core", "markupsafe"}  # of pydantic and Jinja2, which bring them


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported() -> list[set[str]]:
    """Of each library that a module of any room imports, the distributions that bring it."""
    homes = packages_distributions()
    found = set()
    for room in ROOMS:
        files = [file.relative_to(TREE).with_suffix("") for file in (TREE / room).rglob("*.py")]
        found |= set(Code(TREE / room).libraries(*(".".join(file.parts).removesuffix(".__init__") for file in files)))
    away = {*sys.stdlib_module_names, *ROOMS, "domains"}
    return [{canonicalize_name(home) for home in homes.get(name, [name])} for name in found - away]


def test_every_library_that_is_imported_is_asked_for() -> None:
    extras = [text for one in PROJECT["optional-dependencies"].values() for text in one]
    asked = {*names(PROJECT["dependencies"]), *names(extras), *OTHER_HALVES}
    assert [homes for homes in imported() if not homes & asked] == []


def test_every_library_that_is_asked_for_is_imported_or_has_a_reason() -> None:
    assert names(PROJECT["dependencies"]) - set().union(*imported()) == set(NOT_IMPORTED)


@pytest.mark.parametrize("name", ["registry", "domains"])
def test_another_package_of_a_name_of_ours_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n", encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-c", "from flows.cli.app import main; main()", "check"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TREE)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2, ended.stderr
    assert f"{name}: {(tmp_path / name).resolve()}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_of_specs_called_domains_is_no_other_package(tmp_path: Path) -> None:
    (tmp_path / "domains").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", "from flows.cli.app import main; main()", "--version"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TREE)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
