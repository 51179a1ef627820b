"""What the code never does, read from its syntax: SECURITY.md rests on it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(file for room in ("alter_core", "registry", "flows", "stack") for file in (ROOT / room).rglob("*.py"))
RUNS_WHAT_IT_LOADS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.save", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}


def nodes(file: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def wrong(node: ast.AST) -> str | None:
    """What is forbidden about a piece of code."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        found = {module.split(".")[0] for module in modules} & RUNS_WHAT_IT_LOADS
        return f"imports {', '.join(found)}" if found else None
    if isinstance(node, ast.Call):
        if name_of(node.func) in FORBIDDEN_CALLS:
            return f"calls {name_of(node.func)}"
        for keyword in node.keywords:
            literal = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if keyword.arg == "trust_remote_code" and literal is not False:
                return "lets a model bring its own code"
            if keyword.arg == "shell" and literal is not False:
                return "gives a command to a shell"
            if keyword.arg == "weights_only" and literal is not True:
                return "loads more than weights"
    return None


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_unpickles_evaluates_or_trusts_remote_code(file: Path) -> None:
    assert [f"line {node.lineno}: {told}" for node in nodes(file) if (told := wrong(node))] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "torch.load(f)",
        "load(m, trust_remote_code=flag)",
        "run(c, shell=True)",
    ],
)
def test_what_is_forbidden_is_found(code: str) -> None:
    assert [told for node in ast.walk(ast.parse(code)) if (told := wrong(node))]
