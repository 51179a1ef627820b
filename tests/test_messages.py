"""What messages name is there: commands with their options, make's targets, keys of a spec; and no error's class."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from alter_core.spec import DomainSpec
from tests.command_line import options_of

ROOT = Path(__file__).parent.parent
FILES = sorted(file for room in ("alter_core", "flows", "registry", "stack") for file in (ROOT / room).rglob("*.py"))
TARGETS = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


def texts(file: Path) -> Iterator[str]:
    """Every string of a file as a person sees it: what an f-string fills in is X."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def sections(model: type[BaseModel] = DomainSpec) -> dict[str, type[BaseModel]]:
    """Each key of a spec that holds keys of its own -> what it holds."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        todo = [field.annotation]
        while todo:
            kind = todo.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= {name: kind, **sections(kind)}
            todo.extend(get_args(kind))
    return found


SECTIONS = sections()


def wrong_names(text: str) -> Iterator[str]:
    """Commands, options, targets and keys that the text names and that are not there."""
    for name, rest in re.findall(r"`alter ([a-z][a-z-]*)\b([^`]*)`", text):
        options = options_of(name)
        if options is None or not set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= options:
            yield f"`alter {name}{rest}`"
    yield from (f"`make {name}`" for name in re.findall(r"`make ([a-z-]+)`", text) if name not in TARGETS)
    for section, key in re.findall(r"\b([a-z_]+) > ([a-z_]+)\b", text):
        if section in SECTIONS and key not in SECTIONS[section].model_fields:
            yield f"{section} > {key}"


@pytest.mark.parametrize(
    "text", ["`alter produce X`", "`alter run X --fast`", "`make castle`", "raise split > exam", "set mta > depth: 3"]
)
def test_what_is_not_there_is_found(text: str) -> None:
    assert list(wrong_names(text))


def test_messages_name_commands_targets_and_keys_that_are_there() -> None:
    wrong = {
        f"{file.relative_to(ROOT)}: {name}" for file in FILES for text in texts(file) for name in wrong_names(text)
    }
    assert sorted(wrong) == []


def test_no_message_shows_the_class_or_the_repr_of_the_error_behind_it() -> None:
    shown = []
    for file in FILES:
        for handler in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
                continue
            for raised in (node for node in ast.walk(handler) if isinstance(node, ast.Raise) and node.exc):
                said = ast.unparse(raised.exc)  # type: ignore[arg-type]
                if (
                    f"type({handler.name}).__name__" in said
                    or f"{handler.name}!r" in said
                    or f"repr({handler.name})" in said
                ):
                    shown.append(f"{file.relative_to(ROOT)}:{raised.lineno}")
    assert shown == []
