"""Whatever a domain.yaml holds, reading it gives a spec or a SpecError: no other exception, no hang."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from alter_core.errors import SpecError
from alter_core.spec import DomainSpec
from alter_core.spec.load import load_domain
from tests.conftest import tiny_spec
from tests.fuzz.conftest import no_hang

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)
FRAGMENTS = (
    "&a ", "*a", "<<: *a\n", "- ", "? ", ": ", "\n", "\n  ", "name", "tasks:", "backbone: {model: x}", "[", "]", "{",
    "}", ",", "!!int ", "!!float ", "!!bool ", "!!timestamp ", "!!binary ", "!!null ", "!!set ", "!!omap ", "!!pairs ",
    "!!str ", "!!python/object/apply:os.system ", "!!python/name:os.system ", "!<x> ", "%YAML 9.9\n", "---\n", "...\n",
    "2024-13-45", "1e999", ".nan", ".inf", "0b", "0x", "1_", "190:20:30", "=", "~", "|\n", ">\n", '"\\ud800"',
    '"\\x00"', "\t", "#", "'", '"', "\ufeff", "\u2028", "\x85", "9" * 5000,
)  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.dates()
    | st.binary(max_size=8)
    | st.sampled_from(
        ["../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "a\0b", "x" * 10_000, "${HOME}", "* * * * *"]
    )
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
)


def load(folder: Path, text: str | bytes) -> DomainSpec | SpecError:
    """What a person would see."""
    file = folder / "domain.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with no_hang():
        try:
            return load_domain(file)
        except SpecError as error:
            return error


@given(text=st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=10), max_size=30).map("".join))
@example(text=BOMB)
@example(text=BOMB + "tasks: *i\n")
@example(
    text=BOMB
    + "name: x\nbackbone: {model: x}\ntasks: [{name: t, type: generation, source: {callable: a, arguments: *i}}]\n"
)
@example(text="tasks: &a [*a]")
@example(text="a: &a {b: *a}")
@example(text="[" * 5000)
@example(text="a: " * 3)
@example(text="!!int ''")
@example(text="name: !!int ''")
@example(text="name: !!bool maybe")
@example(text="name: !!timestamp today")
@example(text="name: !!float ''")
@example(text="? [a]\n: b")
@example(text="{? {a: b} : c}")
@example(text="name: " + "9" * 5000)
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    load(tmp_path_factory.getbasetemp(), text)


@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    load(tmp_path_factory.getbasetemp(), content)


@given(data=st.data())
def test_a_right_spec_with_a_part_replaced_removed_or_added(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    spec: Any = copy.deepcopy(tiny_spec(Path("tiny")))
    for _ in range(data.draw(st.integers(1, 3))):
        change(spec, data)
    found = load(tmp_path_factory.getbasetemp(), yaml.safe_dump(spec))
    if isinstance(found, DomainSpec):
        again = DomainSpec.model_validate(found.model_dump(mode="json"))
        assert again.digest == found.digest


def change(spec: Any, data: st.DataObject) -> None:
    """Walk down to a random place and change it."""
    here: Any = spec
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(here[key], dict | list) and here[key]
        if not deeper or data.draw(st.booleans()):
            break
        here = here[key]
    how = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if how == "replace":
        here[key] = data.draw(values)
    elif how == "remove":
        del here[key]
    elif isinstance(here, dict):
        here[data.draw(st.text(max_size=12))] = data.draw(values)
    else:
        here.append(data.draw(values))


def test_a_bomb_of_aliases_is_named_as_such(tmp_path: Path) -> None:
    found = load(tmp_path, BOMB)
    assert isinstance(found, SpecError)
    assert "alias" in str(found)


@pytest.mark.parametrize("tag", ["python/object/apply:os.system ['touch hacked']", "python/name:os.system"])
def test_no_code_runs_from_a_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    monkeypatch.chdir(tmp_path)
    found = load(tmp_path, f"name: !!{tag}")
    assert isinstance(found, SpecError)
    assert not (tmp_path / "hacked").exists()
