"""Values of a spec that no field gives a type: YAML takes NO for false and 0010 for 8; a spec means what it says."""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from alter_core.spec.section import Free, kinds, section_of

_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|nan)", re.I)
_QUOTES = "put it in quotes"


def settle(values: Any, node: yaml.Node, schema: type[BaseModel]) -> list[str]:
    """Write into `values` the texts that stand in the file where they are compared with texts of rows; a line for each
    value that YAML takes for something else than is written, and no field says what it is.

    values: what was read of `node`, the YAML of a `schema`.
    """
    return [f"line {line}: {' > '.join(words)}: {wrong}" for line, words, wrong in _section(values, node, schema, [])]


Wrong = tuple[int, list[str], str]


def _section(values: Any, node: yaml.Node, schema: Any, words: list[str]) -> Iterator[Wrong]:
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        return
    for key, inner in _pairs(node).items():
        field = schema.model_fields.get(key)
        if field is None or key not in values:
            continue
        here = [*words, key]
        free = next((each for each in field.metadata if isinstance(each, Free)), None)
        model = section_of(field.annotation)
        if free is not None:
            if free.texts:
                yield from _texts(values, key, inner, here)
            else:
                yield from _plain(inner, here)
        elif model is None and kinds(field.annotation) & {int, float}:
            yield from _numbers(inner, here)
        elif isinstance(inner, yaml.SequenceNode) and isinstance(values[key], list):
            for number, (value, each) in enumerate(zip(values[key], inner.value, strict=True)):
                name = value.get("name") if isinstance(value, dict) else None
                called = f"{key}[{number}]" + (f" ({name})" if isinstance(name, str) else "")
                yield from _section(value, each, model, [*words, called]) if model else ()
        elif model is not None:
            yield from _section(values[key], inner, model, here)


def _texts(values: Any, key: Any, node: yaml.Node, words: list[str]) -> Iterator[Wrong]:
    """Put each scalar's own text in the place of what YAML makes of it, below values[key]."""
    held = values[key]
    if isinstance(node, yaml.ScalarNode):
        if node.tag == _TAG + "null":
            yield _line(node), words, f"{node.value or 'nothing'} is no text; if it is what rows hold, {_QUOTES}"
        elif node.tag != _TAG + "binary":
            values[key] = node.value
    elif isinstance(node, yaml.SequenceNode) and isinstance(held, list):
        for number, each in enumerate(node.value):
            yield from _texts(held, number, each, words)
    elif isinstance(held, dict):
        for inner_key, each in _pairs(node).items():
            if inner_key in held:
                yield from _texts(held, inner_key, each, [*words, inner_key])


def _plain(node: yaml.Node, words: list[str]) -> Iterator[Wrong]:
    """Scalars that are not written as JSON writes what they become: whether a text was meant cannot be told."""
    if isinstance(node, yaml.ScalarNode):
        if node.style is None and not _as_json(node):
            read = _read(node)
            yield _line(node), words, f"YAML reads {node.value or 'nothing'} as {read}: write {read}, or {_QUOTES}"
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _plain(each, words)
    elif isinstance(node, yaml.MappingNode):
        for key, each in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag not in (_TAG + "str", _TAG + "merge"):
                yield _line(key), words, f"the key {key.value or 'null'} is no text; {_QUOTES}"
            yield from _plain(each, [*words, str(key.value)])


def _numbers(node: yaml.Node, words: list[str]) -> Iterator[Wrong]:
    """Numbers of another base than ten, and such as 12:30 and 1_000."""
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _numbers(each, words)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        odd = node.tag == _TAG + "int" and not _WHOLE.fullmatch(node.value.removeprefix("+"))
        if odd or (node.tag == _TAG + "float" and not _DECIMAL.fullmatch(node.value)):
            read = _read(node)
            yield _line(node), words, f"YAML reads {node.value} as {read}; write {read} if it is meant"


def _as_json(node: yaml.ScalarNode) -> bool:
    text, tag = node.value, node.tag.removeprefix(_TAG)
    if tag == "int":
        return _WHOLE.fullmatch(text) is not None
    if tag == "float":
        return bool(text == repr(_read(node)))
    if tag == "bool":
        return text in ("true", "false")
    return text == "null" if tag == "null" else tag in ("str", "binary")


def _read(node: yaml.ScalarNode) -> Any:
    """What YAML makes of a scalar, in words of JSON."""
    value = yaml.SafeLoader("").construct_object(node)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _pairs(node: yaml.Node) -> dict[str, yaml.Node]:
    """Key -> value of a mapping, those that << merges into it too, where it has none of its own."""
    found: dict[str, yaml.Node] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.tag == _TAG + "merge":
            for merged in value.value if isinstance(value, yaml.SequenceNode) else (value,):
                found = {**_pairs(merged), **found}
        elif isinstance(key, yaml.ScalarNode):
            found[key.value] = value
    return found
