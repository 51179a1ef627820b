"""Write the pages of docs/reference from the code, so that they cannot go stale: `make docs`.

spec.md tells every field of a domain.yaml, commands.md every command of `alter`, settings.md the environment;
domain.schema.json is for editors.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from alter_core.spec import SOURCE_KINDS, DomainSpec, SourceSpec
from alter_core.spec.task_types import TASK_TYPES
from flows.cli.app import app
from flows.production.exit_codes import OF_ALTER
from flows.production.settings import SETTINGS
from registry.card import table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
# Where examples are taken from: the first that has the part.
SPECS = [ROOT / "domains" / name / "domain.yaml" for name in ("pydocs", "assistant")] + [FOLDER / "examples.yaml"]
NOTE = "<!-- Made by docs/reference.py from the code: change that, then run `make docs`. -->\n\n"
WIDTH = 100  # columns of usage lines and examples


def pages() -> dict[str, str]:
    """File name -> text of each page of docs/reference."""
    made = {"spec.md": spec_page(), "commands.md": commands_page(), "settings.md": settings_page()}
    schema = json.dumps(DomainSpec.model_json_schema(), indent=1, ensure_ascii=False) + "\n"
    return {**{name: NOTE + text for name, text in made.items()}, "domain.schema.json": schema}


def spec_page() -> str:
    """Every field of a domain.yaml by its path, with an example of each section, task types and sources."""
    blocks = [
        "# The spec: domain.yaml",
        "",
        "A domain is one YAML file. What must stand in it is marked *required*; beside that, a source names one of its",
        "kinds. An unknown key is an error, and `alter check DOMAIN` tells every problem with its line. `tasks[]`",
        "stands for each entry of `tasks`.",
        "",
        "Editors that know YAML complete and check fields by [domain.schema.json](domain.schema.json): name it in a",
        "spec's first line, `# yaml-language-server: $schema=../../docs/reference/domain.schema.json`.",
        "",
        "The smallest spec has a backbone and a task:",
        "",
        _yaml(_smallest()),
        "## Every field",
        "",
        *(f"- [{one.title}](#{_slug(one.title)})" for one in SECTIONS.values()),
        "",
    ]
    for one in SECTIONS.values():
        blocks += [f"## {one.title}", "", _sentence(one.model.__doc__), "", _fields_table(one)]
        if len(one.paths) > 1:
            blocks += [f"{one.title} have the same fields.\n"]
        if base := _base(one.model):
            blocks += [f"The other fields, and what each means, are those of {SECTIONS[base].title}.\n"]
        blocks += [_yaml(example) for example in _examples(one.paths[0])]
        if one.model is SourceSpec:
            blocks += ["Some fields go with one kind of source alone:", "", _kinds_table()]
    blocks += [
        "## Task types",
        "",
        "A task's `type` chooses what its own spec leaves out. The first metric is its score in the macro average.",
        "",
        _types_table(),
    ]
    return "\n".join(blocks)


@dataclass(frozen=True)
class Section:
    """A model of the spec, and where it stands."""

    model: type[BaseModel]
    paths: tuple[str, ...]
    """All the places, such as tasks[].source; empty for the whole."""

    @property
    def title(self) -> str:
        return " and ".join(filter(None, self.paths)) or "The top level"


def _walk(model: type[BaseModel], path: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Each model below `model` with its path, in the spec's order."""
    yield model, path
    for name, field in model.model_fields.items():
        held, many = _held(field.annotation)
        if held is not None:
            yield from _walk(held, _join(path, name) + ("[]" if many else ""))


def _base(model: type[BaseModel]) -> type[BaseModel] | None:
    """The section that a section takes its fields from, to give some of them other defaults."""
    return next((base for base in model.__bases__ if base in SECTIONS), None)


def _held(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model that a field holds, if any, and whether it holds many."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for inner in get_args(annotation):
        held, many = _held(inner)
        if held is not None:
            return held, many or get_origin(annotation) is tuple
    return None, False


def _fields_table(section: Section) -> str:
    schemas = section.model.model_json_schema()["properties"]
    base = _base(section.model)
    rows = []
    before: dict[str, Any] = {}
    for name, field in section.model.model_fields.items():
        default = _default(field, before)
        before[name] = None if field.is_required() else _default_value(field, before)
        if base and _default(base.model_fields[name], {}) == default:
            continue
        held, many = _held(field.annotation)
        if held is None:
            kind = _kind(schemas[name])
        else:
            kind = f"[{'list of sections' if many else 'section'}](#{_slug(SECTIONS[held].title)})"
        rows.append((f"`{_join(section.paths[0], name)}`", kind, default, _sentence(field.description)))
    return _table(("field", "type", "default", "meaning"), rows)


def _kind(schema: Mapping[str, Any]) -> str:
    """A field's JSON schema in words."""
    if "anyOf" in schema:
        return _any_of([each for each in schema["anyOf"] if each.get("type") != "null"])
    if "enum" in schema:
        return _choices(schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _bounds(schema)
    if kind == "array":
        each = schema.get("items", {})
        return f"list; each {_kind(each)}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping; each value {_kind(values)}" if isinstance(values, dict) else "mapping"
    if kind == "string":
        return f"text of the form `{schema['pattern']}`" if "pattern" in schema else "text"
    return {"boolean": "true or false"}[str(kind)]


def _any_of(schemas: Sequence[Mapping[str, Any]]) -> str:
    single = [_kind(each) for each in schemas if each.get("type") != "array"]
    single = [word for word in single if not (word == "whole number" and "number" in single)]
    told = ", ".join(single[:-1]) + (" or " if len(single) > 1 else "") + "".join(single[-1:])
    for each in schemas:
        if each.get("type") == "array":
            same = _kind(each["items"]) == told
            told = ", or a ".join(filter(None, [told, "list of them" if same else _kind(each)]))
    return told


def _bounds(schema: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    told = " ".join(f"{word} {schema[key]:.12g}" for key, word in words.items() if key in schema)
    return f" {told}" if told else ""


def _choices(values: Sequence[Any]) -> str:
    told = [f"`{value}`" for value in values]
    return f"{', '.join(told[:-1])} or {told[-1]}" if len(told) > 1 else told[0]


def _default_value(field: FieldInfo, before: dict[str, Any]) -> Any:
    """before: the defaults of the fields that are read before it, by which some defaults go."""
    return field.get_default(call_default_factory=True, validated_data=before)


def _default(field: FieldInfo, before: dict[str, Any]) -> str:
    if field.is_required():
        return "*required*"
    value = _default_value(field, before)
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        return "its defaults"
    if value in ("", (), {}):
        return "empty"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kinds_table() -> str:
    alone = {key for keys in SOURCE_KINDS.values() for key in keys} | set(SOURCE_KINDS)
    every = [name for name in SourceSpec.model_fields if name not in alone]
    rows = [(f"`{kind}`", ", ".join(f"`{key}`" for key in keys)) for kind, keys in SOURCE_KINDS.items()]
    return _table(("kind", "fields"), [*rows, ("every kind", ", ".join(f"`{name}`" for name in every))])


def _types_table() -> str:
    rows = [
        (
            f"`{name}`",
            f"“{kind.instruction}”",
            "one of the task's labels, with a probability each" if kind.labelled else "free text",
            ", ".join(f"`{metric}`" for metric in kind.metrics),
            str(kind.max_target_tokens),
        )
        for name, kind in TASK_TYPES.items()
    ]
    return _table(("`type`", "`instruction`", "answer", "`metrics`", "`max_target_tokens`"), rows)


def _smallest() -> dict[str, Any]:
    """What is required, of the first spec that reads files."""
    spec = next(each for each in _specs() if "path" in each["tasks"][0]["source"])
    task = _kept(spec["tasks"][0], ("name", "type", "source"))
    backbone = _kept(spec["backbone"], ("model",))
    return {"name": spec["name"], "backbone": backbone, "tasks": [task]}


def _examples(path: str) -> list[dict[str, Any]]:
    """Of a section: the beginning of a domain.yaml that holds it. Of sources: one of each kind."""
    head, _, rest = path.partition(".")
    if path == "":
        spec = _specs()[0]
        own = [name for name in DomainSpec.model_fields if name in spec and not isinstance(spec[name], dict | list)]
        settings = DomainSpec.model_construct().model_dump(include={"warm_start", "precision", "trunk_cache", "seed"})
        return [_kept(spec, own) | settings]
    if head != "tasks[]":
        spec = next(each for each in _specs() if head in each)
        if head != "licences":
            return [_kept(spec, (head,))]
        task = _kept(spec["tasks"][-1], ("name", "type", "licence", "source"))  # which are what is looked at
        return [_kept(spec, (head, "backbone")) | {"tasks": [task]}]
    tasks = [task for spec in _specs() for task in spec["tasks"]]
    if rest == "":
        return [{"tasks": tasks[:1]}]
    if rest == "source":
        firsts = [next(task for task in tasks if kind in task["source"]) for kind in SOURCE_KINDS]
        return [{"tasks": [_kept(task, ("name", "type", "source", "test"))]} for task in firsts]
    task = next(each for each in tasks if "quality" in each)
    lists = rest.endswith("[]")
    quality = {key: value for key, value in task["quality"].items() if isinstance(value, list) == lists}
    return [{"tasks": [_kept(task, ("name", "type", "source")) | {"quality": quality}]}]


def _specs() -> list[dict[str, Any]]:
    return [yaml.safe_load(file.read_text(encoding="utf-8")) for file in SPECS]


def _kept(mapping: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: mapping[name] for name in names if name in mapping}


def commands_page() -> str:
    """Every command of the app, grouped by the file it stands in, and the exit codes."""
    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    groups: dict[str, list[str]] = {}
    context = root.context_class(root, info_name="alter", terminal_width=WIDTH)
    for name, command in root.commands.items():
        module = sys.modules[str(inspect.unwrap(command.callback).__module__)] if command.callback else None
        title = str(module.__doc__).partition(":")[0].partition("\n")[0]
        groups.setdefault(title, []).append(_command(name, command, context))
    blocks = ["# Commands", "", _command_body(root, context)]
    for title, told in groups.items():
        blocks += [f"## {title}", "", *told]
    blocks += [
        "## Exit codes",
        "",
        _table(("code", "meaning"), [(str(code), meaning) for code, meaning in OF_ALTER.items()]),
        "Where a command has others, such as [`alter data`](#alter-data), its own part says so.",
        "",
    ]
    return "\n".join(blocks)


def _command(name: str, command: Any, parent: Any) -> str:
    context = command.context_class(command, info_name=name, parent=parent)
    told = f"### alter {name}\n\n{_command_body(command, context)}"
    return told + (f"\n{command.epilog}\n" if command.epilog else "")


def _command_body(command: Any, context: Any) -> str:
    usage = command.get_usage(context).removeprefix("Usage: ")
    rows = [_parameter(one, context) for one in command.get_params(context) if not one.hidden and one.name != "help"]
    text = "\n".join([f"```text\n{usage}\n```", "", inspect.cleandoc(command.help or ""), ""])
    return text + ("\n" + _table(("argument or option", "meaning", "default"), rows) if rows else "")


def _parameter(one: Any, context: Any) -> tuple[str, str, str]:
    if one.param_type_name == "argument":
        name = str(one.display_name_raw) + ("..." if one.nargs == -1 else "")
    else:
        name = " / ".join((*one.opts, *one.secondary_opts))
        if not one.is_flag:
            name += " " + (one.metavar or one.display_type(context).replace(" range", "").replace("list[str]", "str"))
    given = one.get_default(context, call=False)
    default = "*required*" if one.required else "" if given is None or given is False else f"`{given}`"
    if one.envvar:
        default += f"{', or ' if default else ''}what `{one.envvar}` says"
    more = " May be given several times." if getattr(one, "multiple", False) else ""
    more += f" At least {one.min:g}." if one.min is not None else ""
    return f"`{name}`", (one.help or "") + more, default


def settings_page() -> str:
    """The environment variables that a user may set."""
    rows = [(f"`{one.name}`", one.meaning, one.default) for one in SETTINGS]
    return "\n".join(
        [
            "# Settings",
            "",
            "Settings are environment variables; one machine and a team's stack differ in them alone.",
            "",
            _table(("variable", "meaning", "while unset"), rows),
            "A source's `sql` may name further variables, as `${NAME}`: see [the spec](spec.md). What Prefect, MLflow,",
            "Great Expectations and the hub's client read themselves works here too. What those would report home is",
            "turned off, unless you set its variable first: see `flows/__init__.py`.",
            "",
        ]
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _slug(title: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _yaml(value: Any) -> str:
    """An example, collections in one line where they hold no others."""
    text = yaml.safe_dump(value, default_flow_style=None, sort_keys=False, allow_unicode=True, width=WIDTH)
    return f"```yaml\n{text}```\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return table(head, cells, left=len(head)) + "\n"


_PLACES = list(_walk(DomainSpec))
SECTIONS = {model: Section(model, tuple(path for other, path in _PLACES if other is model)) for model, _ in _PLACES}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for page, text in pages().items():
        (FOLDER / page).write_text(text, encoding="utf-8")
