"""SourceSpec: where a task's rows come from."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from alter_core.spec.section import Free, Section, SpecProblem, spec_error
from alter_core.spec.template import template_columns

SOURCE_KINDS: Mapping[str, tuple[str, ...]] = {
    "path": ("format",),
    "hub": ("config", "split", "revision"),
    "sql": ("query",),
    "callable": ("arguments",),
}
"""Kind of a source -> the keys that it alone has; the other keys go with every kind."""


def _written(value: Any) -> Any:
    """A number or truth value as text, in specs that code has made; those that are read hold texts already."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


Written = Annotated[
    str,
    BeforeValidator(_written),
    WithJsonSchema({"anyOf": [{"type": kind} for kind in ("string", "number", "boolean")]}),
]
_PASSWORD = re.compile(r"://[^/@:]*:(?!\$\{[^}]*\}@)[^@]*@|[?&](password|passwd|pwd)=(?!\$\{)", re.I)
"""A password in a database's URL that is written out."""


class SourceSpec(Section):
    """Where a task's rows come from. Exactly one of path, hub, sql, callable."""

    path: str | tuple[str, ...] | None = None
    """File, URL or glob (JSONL, CSV, TSV, Parquet; compressed or not), relative to the spec's folder or data root."""
    format: Literal["jsonl", "csv", "tsv", "parquet"] | None = None
    """Unset: told by the file's ending."""
    hub: str | None = None
    """Id of a `datasets` hub data set, or a local data set folder."""
    config: str | None = None
    """Configuration of the hub data set."""
    split: str | None = None
    """Split of the hub data set; unset means train."""
    revision: str | None = None
    """Commit or tag of the hub data set."""
    sql: str | None = None
    """A SQLAlchemy URL. ${VAR} is replaced from the environment: the only place where credentials may come from."""
    query: str | None = None
    """The SELECT to run, with `sql`."""
    callable: str | None = None
    """FILE.py:FUNCTION under the domain's folder, or the name of an entry point in the group alter.sources. It yields
    mappings."""
    arguments: Annotated[dict[str, Any], Free()] = Field(default_factory=dict)
    """Keyword arguments of the callable. What YAML would take for something else than is written (NO, 0010, 1.10, a
    date) stands in quotes."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Canonical column (input, target, id, group) -> column of the source."""
    template: str | None = None
    """Builds the input from several source columns, such as 'premise: {first} hypothesis: {second}'."""
    label_map: dict[str, str] = Field(default_factory=dict)
    """Source target -> label, applied before the label list is checked."""
    where: Annotated[dict[str, Written | tuple[Written, ...]], Free(texts=True)] = Field(default_factory=dict)
    """Keep only rows whose source column holds the value, or one of the values, as it is written here: NO is NO, and
    0010 is 0010. A number or truth value of a typed column (Parquet, SQL, code) is met in each of its spellings: 2020
    and 2020.0. A value that no row has is told."""
    limit: int | None = Field(default=None, ge=1)
    """Keep at most so many rows, chosen by hash so that the choice is stable as data grows."""

    @model_validator(mode="after")
    def _one_kind(self) -> "SourceSpec":
        wrong: list[SpecProblem] = []
        given = [kind for kind in SOURCE_KINDS if getattr(self, kind)]
        if len(given) != 1:
            wrong.append(((), f"give exactly one of {', '.join(SOURCE_KINDS)}; got {', '.join(given) or 'none'}"))
        if bool(self.sql) != bool(self.query):
            wrong.append((("sql" if self.sql else "query",), "sql and query go together: give both, or neither"))
        if len(given) == 1:
            unread = [(key, kind) for kind, keys in SOURCE_KINDS.items() if kind not in given for key in keys]
            wrong += [
                ((key,), f"read with {kind} only, and this source has {given[0]}: drop one")
                for key, kind in unread
                if getattr(self, key) and (key, kind) != ("query", "sql")
            ]
        if self.query and not re.match(r"\s*(select|with)\b", self.query, re.I):
            wrong.append((("query",), "a source only reads; write one SELECT"))
        if self.sql and _PASSWORD.search(self.sql):
            wrong.append(
                (("sql",), "a password does not belong in a spec; write ${VAR} and set VAR in the environment")
            )
        if self.template is not None:
            try:
                template_columns(self.template)
            except ValueError as error:
                wrong.append((("template",), str(error)))
            if "input" in self.columns:
                wrong.append(
                    (("template",), "it builds the input, and columns > input names a column for it: drop one")
                )
        wrong += [
            (("columns", key), "no such column here; keys are input, target, id, group")
            for key in self.columns
            if key not in ("input", "target", "id", "group")
        ]
        if wrong:
            raise spec_error(wrong)
        return self
