"""The code behind a result: the modules that compute it, found from their imports, and a digest of what they do.

A module stands in a digest by its syntax tree, without docstrings, comments, layout and what only type checkers read.
Nothing is run for it. Versions of other libraries and of Python are not in it.
"""

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from alter_core.whole import digest_of


@dataclass(frozen=True)
class _Module:
    """What is kept of a module's syntax tree."""

    digest: str
    imports: tuple[tuple[str, str], ...]
    """(module, name in it) of each import that can run; the name is empty for `import module`."""
    handed_on: dict[str, str]
    """Name -> module that an `if TYPE_CHECKING` block imports it from: what a package gives on first use (PEP 562)."""


_IMPORTS = (ast.Import, ast.ImportFrom)


class Code:
    """The modules of one package in a folder, each read once."""

    def __init__(self, folder: Path) -> None:
        """folder: of the package, with its name."""
        self._folder = folder
        self._modules: dict[str, _Module] = {}

    def closure(self, *entries: str) -> tuple[str, ...]:
        """Names of the package's modules that the modules `entries` are made of, themselves among them, in order.

        An import inside a function counts, and so do the `__init__` of the packages on a module's path, which run when
        it is imported. Raises ModuleNotFoundError for a name that is no module of the package.
        """
        found: set[str] = set()
        waiting = list(entries)
        with _no_collection():
            while waiting:
                name = waiting.pop()
                if name in found:
                    continue
                found.add(name)
                waiting += [name.rpartition(".")[0]] if "." in name else []
                for module, member in self._module(name).imports:
                    if module.partition(".")[0] == self._folder.name:
                        waiting += self._behind(module, member)
        return tuple(sorted(found))

    def files(self, *entries: str) -> dict[str, Path]:
        """Path from the folder that holds the package -> file, of the modules that `entries` are made of."""
        files = [self._file(name) for name in self.closure(*entries)]
        return {file.relative_to(self._folder.parent).as_posix(): file for file in files if file}

    def digest(self, *entries: str) -> str:
        """Of all that the modules `entries` are made of inside the package."""
        return digest_of({name: self._module(name).digest for name in self.closure(*entries)})

    def libraries(self, *entries: str) -> tuple[str, ...]:
        """Top-level names of what these modules and those behind them import from outside the package, in order."""
        imports = {module for name in self.closure(*entries) for module, _ in self._module(name).imports}
        return tuple(sorted({module.partition(".")[0] for module in imports} - {self._folder.name}))

    def _behind(self, module: str, member: str) -> Iterator[str]:
        """The modules that `from module import member` brings in."""
        yield module
        if member and self._file(f"{module}.{member}"):
            yield f"{module}.{member}"
        elif home := self._module(module).handed_on.get(member):
            yield home

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            file = self._file(name)
            if file is None:
                raise ModuleNotFoundError(f"{name} is no module of {self._folder}", name=name)
            self._modules[name] = _read(file, name if file.name == "__init__.py" else name.rpartition(".")[0])
        return self._modules[name]

    def _file(self, name: str) -> Path | None:
        path = self._folder.joinpath(*name.split(".")[1:])
        files = (path / "__init__.py", path.with_suffix(".py"))
        return next((file for file in files if file.is_file()), None)


def code_digest(*entries: str) -> str:
    """Of the code of this package that the modules `entries` are made of."""
    return own_code().digest(*entries)


@cache
def own_code() -> Code:
    """This package as it is installed."""
    return Code(Path(__file__).parent)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without looking for garbage, which takes longer than parsing does and finds none: trees hold no circles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read(file: Path, package: str) -> _Module:
    """package: the one that a relative import of the module starts from."""
    reader = _Reader(package)
    reader.take(ast.parse(file.read_bytes(), str(file)))
    text = "".join(reader.text)
    return _Module(sha256(text.encode()).hexdigest(), tuple(reader.imports), reader.handed_on)


class _Reader:
    """Walks a syntax tree once: writes it down, and notes its imports.

    Fields that are empty are left out, so that a later Python which knows more fields writes the same.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self.text: list[str] = []
        self.imports: list[tuple[str, str]] = []
        self.handed_on: dict[str, str] = {}

    def take(self, node: Any) -> None:
        """Write down a node, a list of nodes, or a plain value."""
        write, kind = self.text.append, type(node)
        if kind is list:
            write("[")
            for part in node:
                self.take(part)
            write("]")
        elif kind is ast.Constant:
            write(f"={node.value!r},")  # None of the program, not an absent node
        elif not isinstance(node, ast.AST):
            write(f"{node!r},")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring, of whatever: a value that nothing takes
        elif isinstance(node, ast.If) and _for_types_only(node.test):
            for part in node.body:
                self.handed_on |= {name: module for module, name in self._imported(part)}
            self.take(node.orelse)
        else:
            if kind in _IMPORTS:
                self.imports += self._imported(node)
            write(f"{kind.__name__}(")
            for field in node._fields:
                value = getattr(node, field, None)
                if value is not None and value != []:
                    write(field)
                    self.take(value)
            write(")")

    def _imported(self, node: ast.AST) -> list[tuple[str, str]]:
        if isinstance(node, ast.Import):
            return [(alias.name, "") for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), self._package)
            return [(module, alias.name) for alias in node.names]
        return []


def _for_types_only(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
