"""Templates that build an input from several columns: plain {column} fields, and nothing that reaches further."""

import string
from collections.abc import Mapping


def template_columns(template: str) -> tuple[str, ...]:
    """Columns that a template names. Raises ValueError for anything but plain {column} fields."""
    names = []
    for _, field, format_spec, conversion in string.Formatter().parse(template):
        if field is not None:
            if not field or any(c in field for c in ".[]!:") or format_spec or conversion:
                raise ValueError(f"template: fields are plain column names such as {{title}}, got {{{field}}}")
            names.append(field)
    if not names:
        raise ValueError("template: it names no column; write such as 'question: {question} context: {text}'")
    return tuple(names)


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with `values` for its columns. Not `str.format`, to which a field named 0 is a position."""
    parts = string.Formatter().parse(template)
    return "".join(literal + ("" if field is None else values[field]) for literal, field, _, _ in parts)
