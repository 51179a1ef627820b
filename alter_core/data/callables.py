"""Sources that are code: FILE.py:FUNCTION under the domain's folder, or an installed entry point.

A callable yields mappings. Its module may define `fingerprint(**arguments)`, which returns values that change
whenever the rows do (versions, dates), JSON-able or known by their text; without one, rows are read anew in every run,
and their content tells.
"""

import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from alter_core.data.places import Roots
from alter_core.data.rows import Rows
from alter_core.errors import DataError
from alter_core.problems import counted, kind_of
from alter_core.whole import digest_of_files

GROUP = "alter.sources"


class Callables:
    """The callables of one domain; a file is executed once, so that its functions share what they have read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[Path, ModuleType] = {}

    def rows(self, name: str, arguments: Mapping[str, object]) -> Rows:
        """Mappings that the callable yields, numbered from 1. Raises DataError for whatever goes wrong inside."""
        function, _ = self._find(name)
        try:
            inspect.signature(function).bind(**arguments)
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: source > arguments do not fit it: {error}") from error
        number = 0
        try:
            for number, row in enumerate(function(**arguments), 1):
                if not isinstance(row, Mapping):
                    raise DataError(
                        f"{name}, row {number}: it must yield mappings such as {{'input': ..., 'target': ...}}, got "
                        f"{kind_of(row)}"
                    )
                yield number, row
        except (DataError, GeneratorExit):
            raise
        except Exception as error:
            raise DataError(f"{name}: failed after {counted(number, 'row')}: {self._reason(error)}") from error

    def fingerprint(self, name: str, arguments: Mapping[str, object]) -> Any | None:
        """What the rows depend on, JSON-able; None when only reading can tell. Raises DataError."""
        function, code = self._find(name)
        module = sys.modules.get(function.__module__)
        own = getattr(module, "fingerprint", None)
        if own is None:
            return None
        try:
            return {"code": code, "facts": json.loads(json.dumps(own(**arguments), default=str))}
        except Exception as error:
            raise DataError(f"{name}: its fingerprint failed: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        """The error and the line of the domain's own code that it comes from."""
        own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) in self._modules]
        where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
        return f"{type(error).__name__}: {error}{where}"

    def _find(self, name: str) -> tuple[Callable[..., Any], str]:
        """The function, and the digest or version of its code."""
        file, colon, function_name = name.partition(":")
        if not colon:
            return self._entry_point(name)
        path = Roots(self._folder).find(file)
        if path is None or not path.is_file():
            raise DataError(f"{name}: there is no file {file} under {self._folder}")
        module = self._load(path.resolve())
        function = getattr(module, function_name, None)
        if not callable(function):
            known = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
            raise DataError(f"{name}: {file} has no function {function_name!r}; it has {', '.join(known) or 'none'}")
        code = {p for folder in (self._folder, path.parent) for p in folder.glob("*.py")}
        return function, digest_of_files({p.relative_to(self._folder).as_posix(): p for p in sorted(code)})

    def _load(self, path: Path) -> ModuleType:
        if path in self._modules:
            return self._modules[path]
        name = f"alter_source_{digest_of_files({str(path): path})}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise DataError(f"{path.name}: is no Python file; write source > callable as FILE.py:FUNCTION")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up by name
        self._modules[path] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            reason = self._reason(error)
            del sys.modules[name], self._modules[path]
            raise DataError(f"{path.name}: cannot be loaded: {reason}") from error
        return module

    def _entry_point(self, name: str) -> tuple[Callable[..., Any], str]:
        found = entry_points(group=GROUP, name=name)
        if not found:
            known = ", ".join(sorted(e.name for e in entry_points(group=GROUP))) or "none is installed"
            raise DataError(
                f"source > callable: {name!r} is neither FILE.py:FUNCTION under the domain's folder nor an entry point "
                f"in the group {GROUP} ({known})"
            )
        entry = next(iter(found))
        try:
            function = entry.load()
        except Exception as error:
            raise DataError(
                f"{name}: the entry point {entry.value} cannot be loaded: {error}; install its package again"
            ) from error
        return function, f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
