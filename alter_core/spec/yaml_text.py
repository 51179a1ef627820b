"""YAML that strangers may have written: plain values out of it, or a SpecError that says where it is wrong."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from alter_core.errors import SpecError

_UNPRINTED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
MAX_BYTES = 2**20  # of one file; a spec is a page or two
MAX_VALUES = 100_000  # of one file, aliases written out: nested aliases grow to billions from a few lines


def read_mapping(file: Path) -> tuple[dict[str, Any], yaml.Node, list[str]]:
    """A file's values, its nodes (they know their lines), and what no spec may hold, one line of text each.

    Raises SpecError when the file is not there, or is no YAML mapping of plain values.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise SpecError(f"{file}: larger than {MAX_BYTES:,} bytes; a spec names its rows and does not hold them")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{file}: there is no such spec; `alter check` lists the domains that can be found") from None
    except OSError as error:
        raise SpecError(f"{file}: cannot be read: {error.strerror}; check its permissions") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{file}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _check_aliases(node)
        values = yaml.safe_load(text)
    # PyYAML raises LookupError and AttributeError for tags that do not fit their text, such as !!float ''.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or "a tag does not fit its value"
        raise SpecError(f"{file}{place}: not valid YAML: {problem}") from error
    if not isinstance(values, dict) or node is None:
        held = "nothing" if values is None else "a list" if isinstance(values, list) else "one value"
        raise SpecError(f"{file}: a spec is a mapping of keys (`name: ...`), and this file holds {held}")
    return values, node, [f"line {line}: {text}" for line, text in _problems(node, set())]


def _check_aliases(root: yaml.Node) -> None:
    """Raises ValueError when aliases lead in a circle, or grow to more than a machine can hold."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise ValueError(f"an alias in line {node.start_mark.line + 1} stands for a value that holds itself")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    if size(root) > MAX_VALUES:
        raise ValueError(f"its aliases stand for more than {MAX_VALUES:,} values; write out what is meant")


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _problems(node: yaml.Node, visited: set[int]) -> Iterator[tuple[int, str]]:
    """Line and text of what YAML allows and a spec does not: values that are no text to write down again, and equal
    keys, of which the last wins in silence, which a person never means."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:binary":
            yield node.start_mark.line + 1, "a binary value; write it as text"
        elif not node.value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in node.value):
            yield node.start_mark.line + 1, "holds half of a character (a lone surrogate); write the whole one"
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key.start_mark.line + 1, f"the key {key.value!r} stands twice; keep one"
                seen.add(key.value)
    for child in _children(node):
        yield from _problems(child, visited)


def quoted(value: str | Sequence[str] | Mapping[str, str]) -> str:
    """A text, or several of them, as YAML and JSON both write it: letters as they are, and escaped what YAML does not
    take raw."""
    written = json.dumps(value, ensure_ascii=False)
    return _UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", written)
