"""What is wrong with a spec, in words: pydantic's errors with their line, their path in the file and a close match."""

import json
from collections.abc import Iterator
from datetime import date
from itertools import chain
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from alter_core.problems import did_you_mean
from alter_core.spec.section import section_of

# pydantic's own words for these name Python's types and our classes.
_KINDS = {
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def explained(error: ValidationError, schema: type[BaseModel], values: Any, root: yaml.Node | None) -> list[str]:
    """A line for each place that is wrong. Where a value may be of several kinds, pydantic reports each of them.

    schema: what was to be read; values: what was read; root: the file's YAML, which knows the lines.
    """
    messages: dict[str, str] = {}
    kinds: dict[str, list[str]] = {}
    for item in chain.from_iterable(map(_spread, error.errors(include_url=False))):
        if no_text := _keys_that_are_no_text(item, values, root):
            messages |= no_text
            continue
        place, message = _explain(item, schema, values, root)
        if kind := _KINDS.get(item["type"]):
            wanted = kinds.setdefault(place, [])
            wanted += [kind] if kind not in wanted else []
            messages[place] = f"must be {' or '.join(wanted)}, got {_said(item['input'])}"
            if "text" in wanted and isinstance(item["input"], bool | int | float | date):
                messages[place] += "; put it in quotes"
        elif place not in kinds:
            messages[place] = f"{messages[place]}; and {message}" if place in messages else message
    return [f"{place}: {message}" for place, message in messages.items()]


def _spread(item: ErrorDetails) -> Iterator[ErrorDetails]:
    """An error of pydantic's; one for each place where a section's values do not fit each other."""
    if item["type"] != "spec_problems":
        yield item
        return
    for place, problem in item["ctx"]["found"]:
        yield {"type": "spec_problem", "loc": (*item["loc"], *place), "msg": problem, "input": None}


def _said(value: Any) -> str:
    """A value as a spec would write it."""
    try:
        return repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)[:120]
    except TypeError:  # a key that is neither text nor a number, such as a date
        return str(value)[:120]


def _keys_that_are_no_text(item: ErrorDetails, values: Any, root: yaml.Node | None) -> dict[str, str]:
    """Of an error about a key, which pydantic knows as Python has it (`on` is True): a line for each of its mapping."""
    of_section, of_mapping = item["type"] == "invalid_key", item["loc"][-1:] == ("[key]",)
    if not of_section and not of_mapping:
        return {}
    _, words, node = _walk(item["loc"][: -1 if of_section else -2], item["type"], values, root)
    keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    wrong: dict[str, list[str]] = {}
    for key in keys:
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            wrong.setdefault(_place(key.start_mark.line + 1, words), []).append(key.value or "null")
    return {
        place: "; and ".join(f"the key {key} is no text; put it in quotes" for key in w) for place, w in wrong.items()
    }


def _place(line: int, words: list[str]) -> str:
    return f"line {line}: {' > '.join(words)}" if words else f"line {line}"


def _explain(item: ErrorDetails, schema: type[BaseModel], values: Any, root: yaml.Node | None) -> tuple[str, str]:
    """One pydantic error: its line and path, and what is wrong, with a close match for a misspelt key."""
    line, words, _ = _walk(item["loc"], item["type"], values, root)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "unknown key"
        parent = _model_at(schema, item["loc"][:-1])
        if parent is not None:
            known = ", ".join(sorted(parent.model_fields))
            message += did_you_mean(str(item["loc"][-1]), parent.model_fields) or f"; known keys are {known}"
    elif item["type"] == "missing":
        message = "this key is required"
    elif item["type"] == "string_pattern_mismatch":
        message = f"{item['input']!r} must be lower case letters, digits and _, starting with a letter"
    elif item["type"] not in ("value_error", "spec_problem"):
        message = f"{message.replace('Input should be', 'must be')}, got {_said(item['input'])}"
    return _place(line, words), message


def _walk(
    location: tuple[str | int, ...], problem: str, values: Any, root: yaml.Node | None
) -> tuple[int, list[str], yaml.Node | None]:
    """Line, path in words and node of the place that an error of the type `problem` is at."""
    here: Any = values
    node: yaml.Node | None = root
    line = root.start_mark.line + 1 if root else 1
    words: list[str] = []
    for step in location:
        if isinstance(step, int):
            if not isinstance(here, list) or step >= len(here):
                continue  # pydantic names the member of a union here, not a place in the file
            here = here[step]
            node = node.value[step] if isinstance(node, yaml.SequenceNode) else None
            name = here.get("name") if isinstance(here, dict) else None
            words[-1] += f"[{step}]" + (f" ({name})" if isinstance(name, str) else "")
        else:
            found = None
            if isinstance(node, yaml.MappingNode):
                found = next(((k, v) for k, v in reversed(node.value) if k.value == step), None)
            named = problem == "spec_problem" or (isinstance(here, dict) and problem in ("missing", "extra_forbidden"))
            if found is None and not named:
                continue  # a member of a union again
            words.append(step)
            here = here.get(step) if isinstance(here, dict) else None
            if found:
                line, node = found[0].start_mark.line + 1, found[1]
            else:
                node = None
        if node is not None:
            line = node.start_mark.line + 1 if isinstance(step, int) else line
    return line, words, node


def _model_at(schema: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel] | None:
    model: Any = schema
    for step in location:
        model = _submodel(model, step)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _submodel(model: Any, step: str | int) -> Any:
    """The model that a field holds, through tuples and optionals; None when the step leads to no model."""
    if isinstance(step, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
        return model
    field = model.model_fields.get(step)
    return None if field is None else section_of(field.annotation)
