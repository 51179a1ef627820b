"""Which code stands in which key: what a change of a file touches, shown on a copy of the whole tree."""

import ast
import shutil
from pathlib import Path

import pytest

import alter_core
from alter_core.code import Code
from alter_core.data.fingerprint import source_fingerprint
from alter_core.spec.load import load_domain
from alter_core.workspace import Workspace
from flows.production.plan import Plan, code_of
from tests.conftest import tiny_spec, write_domain

TREE = Path(str(alter_core.__file__)).parent.parent
ROOMS = ("alter_core", "flows", "registry")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the rooms, to be changed."""
    for room in ROOMS:
        shutil.copytree(TREE / room, tmp_path / "tree" / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "tree"


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """The keys of the code as it is."""
    return keys(TREE, tmp_path_factory.mktemp("unchanged"))


def keys(tree: Path, folder: Path) -> dict[str, str | None]:
    """Every key of one domain, as the code in `tree` would make them."""
    file = write_domain(folder, tiny_spec(Path("backbone")))
    with pytest.MonkeyPatch.context() as patch:
        code = Code(tree / "alter_core")
        patch.setattr("alter_core.code.own_code", lambda: code)
        return keys_of(file)


def keys_of(file: Path) -> dict[str, str | None]:
    plan = Plan(file, load_domain(file), Workspace(file.parent / "home"), None)
    return {
        "data set": source_fingerprint(plan.spec, file.parent, None),
        "quality report": plan.quality_key("rows", {}, "backbone", None),
        "stage one": plan.stage_key("stage_one", "rows", "backbone", None),
        "stage two": plan.stage_key("stage_two", "rows", "backbone", "bundle"),
        "scorecard": plan.score_key("bundle", "rows"),
        "ablation trial": code_of("ablation trial"),
        "run": plan.run_key("rows", "backbone"),
    }


def change_a_number(file: Path) -> None:
    """Another value for the first number that stands in a function, or where none does, in the file."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    inside = [node for part in ast.walk(tree) if isinstance(part, ast.FunctionDef) for node in ast.walk(part)]
    numbers = [n for n in (*inside, *ast.walk(tree)) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
    if not numbers:
        file.write_text(text + "\n_MORE = 1\n", encoding="utf-8")
        return
    lines = text.splitlines(keepends=True)
    line = lines[numbers[0].lineno - 1].encode()
    begin, end = numbers[0].col_offset, numbers[0].end_col_offset
    lines[numbers[0].lineno - 1] = (line[:begin] + b"77" + line[end:]).decode()
    file.write_text("".join(lines), encoding="utf-8")


TRAINED = {"stage one", "stage two", "ablation trial", "run"}
SCORED = {*TRAINED, "scorecard"}
EVERY = {*SCORED, "data set", "quality report"}


@pytest.mark.parametrize(
    ("file", "touched"),
    [
        ("alter_core/training/loop.py", TRAINED),
        ("alter_core/training/batches.py", TRAINED),
        ("alter_core/training/sampling.py", TRAINED),
        ("alter_core/training/ending.py", TRAINED),
        ("alter_core/mta/gates.py", SCORED),
        ("alter_core/inference/decoding.py", SCORED),
        ("alter_core/evaluation/metrics.py", SCORED),
        ("alter_core/evaluation/calibration.py", {"scorecard", "run"}),
        ("alter_core/prompts/encode.py", {*SCORED, "quality report"}),
        ("alter_core/data/deduplicate.py", {"data set", "run"}),
        ("alter_core/data/sql.py", {"data set", "run"}),
        ("alter_core/quality/checks.py", {"quality report", "run"}),
        ("alter_core/spec/task.py", EVERY),
        ("alter_core/ablation/peft_arms.py", {"ablation trial"}),
        ("alter_core/ablation/arms.py", set()),
        ("alter_core/ablation/job.py", set()),
        ("alter_core/ablation/table.py", set()),
        ("alter_core/ablation/plot.py", set()),
        ("alter_core/ablation/duration.py", set()),
        ("alter_core/ablation/grid.py", set()),
        ("alter_core/ablation/pool.py", set()),
        ("alter_core/quality/page.py", set()),
        ("alter_core/inference/answer_file.py", set()),
        ("alter_core/mta/folding.py", set()),
        ("alter_core/process.py", set()),
        ("alter_core/spec/load.py", set()),
        ("alter_core/spec/problems.py", set()),
        ("flows/production/scaffold.py", set()),
        ("flows/cli/app.py", set()),
        ("registry/card.py", set()),
    ],
)
def test_another_number_changes_the_keys_of_what_it_computes_and_no_others(
    file: str, touched: set[str], tree: Path, tmp_path: Path, unchanged: dict[str, str | None]
) -> None:
    change_a_number(tree / file)
    after = keys(tree, tmp_path / "domain")
    assert {name for name in unchanged if unchanged[name] != after[name]} == touched


def test_no_comment_docstring_or_layout_is_in_a_key(
    tree: Path, tmp_path: Path, unchanged: dict[str, str | None]
) -> None:
    for file in tree.rglob("*.py"):
        parsed = ast.parse(file.read_bytes())
        for node in ast.walk(parsed):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = "Said otherwise."
        written = ast.unparse(parsed)  # without comments, blank lines and line breaks of ours
        assert written != file.read_text(encoding="utf-8") or not written
        file.write_text(f"# A comment.\n\n\n{written}\n", encoding="utf-8")
    assert keys(tree, tmp_path / "domain") == unchanged


def package(folder: Path, **modules: str) -> Code:
    """A package `made` of such modules; `__` in a name stands for a dot."""
    for name, text in {"__init__": "", **modules}.items():
        file = (folder / "made").joinpath(*name.replace("__init__", "INIT").split("__")).with_suffix(".py")
        file = file.with_name(file.name.replace("INIT", "__init__"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return Code(folder / "made")


IMPORTS = {
    "import made.b": {"made.b"},
    "import made.b as b": {"made.b"},
    "from made.b import x": {"made.b"},
    "from made import b": {"made.b"},
    "from .b import x": {"made.b"},
    "from . import b": {"made.b"},
    "def f():\n    from made.b import x": {"made.b"},
    "try:\n    import made.b\nexcept ImportError:\n    pass": {"made.b"},
    "from made.room.c import x": {"made.room", "made.room.c", "made.d"},
    "import os": set(),
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made.b import x": set(),
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    from made.b import x": {"made.b"},
    "from made.lazy import x": {"made.lazy", "made.b"},
    "from made.lazy import y": {"made.lazy"},
}


@pytest.mark.parametrize("statement", IMPORTS)
def test_what_an_import_brings_in_is_found(statement: str, tmp_path: Path) -> None:
    lazy = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made.b import x\ny = 1\ndef __getattr__(n): ..."
    )
    room = {"room____init__": "import made.d", "room__c": "x = 1"}
    code = package(tmp_path, a=statement, b="x = 1", d="", lazy=lazy, **room)
    assert set(code.closure("made.a")) == {"made", "made.a", *IMPORTS[statement]}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = None", "x = 0"),
        ("x = 'a'", "x = b'a'"),
        ("x = [1]", "x = (1,)"),
        ("x = {**y}", "x = {None: y}"),
        ("x = [[1], 2]", "x = [[1, 2]]"),
        ("x = a - b", "x = b - a"),
        ("x = a < b", "x = a <= b"),
        ("f(a, b=c)", "f(a, c)"),
        ("def f(a, b=1): ...", "def f(a=1, *, b): ..."),
        ("def f(a, *, b=1): ...", "def f(a, *, b): ..."),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),
        ("x: int = 1", "x: float = 1"),
        ("import made.b", ""),
    ],
)
def test_what_a_module_does_is_in_its_digest(before: str, after: str, tmp_path: Path) -> None:
    one, other = (package(tmp_path / name, a=text, b="") for name, text in (("one", before), ("other", after)))
    assert one.digest("made.a") != other.digest("made.a")


def test_a_module_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"made\.z is no module of .*made"):
        package(tmp_path).closure("made.z")
    with pytest.raises(ModuleNotFoundError, match=r"made\.z is no module"):
        package(tmp_path, a="from made.z import x").closure("made.a")


def test_other_libraries_are_named_by_what_is_imported_first(tmp_path: Path) -> None:
    code = package(tmp_path, a="import yaml.nodes\nfrom made import b", b="def f():\n    from torch import nn")
    assert code.libraries("made.a") == ("torch", "yaml")
