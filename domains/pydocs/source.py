"""Rows of five tasks from the docstrings of Python and of packages that are installed anyway.

Files are parsed with `ast`, never imported. A module belongs to one of many groups by hash, and rows are split by
group, so that near-copies do not straddle train and test; the wrong summaries of `fits` come from the same group.
"""

import ast
import gc
import inspect
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Class -> (distribution; "" is Python itself, words that would give the class away).
PACKAGES = {
    "python": ("", r"c?python3?|stdlib"),
    "numpy": ("numpy", r"numpy|np|ndarrays?|array_like"),
    "pandas": ("pandas", r"pandas|pd|dataframes?"),
    "scipy": ("scipy", r"scipy"),
    "scikit-learn": ("scikit-learn", r"sklearn|scikit-learn|scikit"),
    "sqlalchemy": ("SQLAlchemy", r"sqlalchemy|sqla|sa"),
    "matplotlib": ("matplotlib", r"matplotlib|mpl|pyplot|plt"),
    "mlflow": ("mlflow", r"mlflow"),
    "prefect": ("prefect", r"prefect"),
    "torch": ("torch", r"pytorch|torch|aten"),
}
_FOLDERS = {"python": "", "scikit-learn": "sklearn"}
_SKIPPED = {"tests", "test", "testing", "site-packages", "dist-packages", "_vendor", "vendored", "lib2to3", "idlelib"}
_GIVEAWAYS = re.compile(
    r"(?<![A-Za-z0-9_])(?:" + "|".join(w for _, w in PACKAGES.values()) + r")(?![A-Za-z0-9_])", re.I
)
GROUPS = 400
MAX_FILE_BYTES = 300_000
WORDS = 30  # of an input; about 45 tokens
MOST = 1000  # docstrings of a package
MOST_OF_MODULE = 15  # so that a few long modules do not fill it


@dataclass(frozen=True)
class Docstring:
    """One docstring, tidied: plain words, one line each of summary and body."""

    package: str
    module: str
    name: str
    is_function: bool
    summary: str
    body: str
    raises: str  # names of the exceptions in its Raises section, joined by "; "
    raises_text: str  # the section itself

    @property
    def group(self) -> str:
        """Modules that go to the same split."""
        return f"g{_number(self.module) % GROUPS:03d}"


def fingerprint(**_arguments: Any) -> dict[str, str]:
    """Versions of what is read: they stand for the files' contents."""
    return {"Python": platform.python_version()} | {dist: version(dist) for dist, _ in PACKAGES.values() if dist}


def package(rows: int = 1000) -> Iterator[dict[str, str]]:
    """Which package a docstring belongs to; as many rows of each, and no package's name in any input."""
    for name in PACKAGES:
        for doc in _first(name, rows // len(PACKAGES)):
            text = _GIVEAWAYS.sub("X", _cut(f"{doc.summary} {doc.body}", WORDS))
            yield {"input": text, "target": name, "group": doc.group}


def fits(rows: int = 1000) -> Iterator[dict[str, str]]:
    """Whether a summary fits a body: half do; of the others a quarter is of the same module, the rest of another."""
    for name in PACKAGES:
        docs = _first(name, 3 * rows // len(PACKAGES))
        modules: dict[str, list[Docstring]] = {}
        groups: dict[str, list[Docstring]] = {}
        for doc in _docstrings(name):
            modules.setdefault(doc.module, []).append(doc)
        for doc in (doc for other in PACKAGES for doc in _first(other, 3 * rows // len(PACKAGES))):
            groups.setdefault(doc.group, []).append(doc)
        made = 0
        for doc in docs:
            near = [d for d in modules[doc.module] if d.summary != doc.summary]
            far = [d for d in groups[doc.group] if d.module != doc.module and d.summary != doc.summary]
            number = _number(doc.module, doc.name, doc.summary)
            pool = (None, near, None, far, None, far, None, far)[made % 8]
            if pool is not None and not pool:
                continue
            summary = pool[number % len(pool)].summary if pool else doc.summary
            # The name comes last: a model that reads from left to right then weighs it against what it has read.
            text = f"summary: {_cut(summary, 15)} body: {_cut(doc.body, WORDS - 14)} name: {doc.name}"
            yield {"input": text, "target": "no" if pool else "yes", "group": doc.group}
            made += 1
            if made >= rows // len(PACKAGES):
                break


def raises(rows: int = 1000) -> Iterator[dict[str, str]]:
    """Which exceptions a docstring says that it raises."""
    docs = [doc for name in PACKAGES for doc in _docstrings(name) if doc.raises]
    docs.sort(key=lambda doc: _number(doc.module, doc.name, doc.summary))
    for doc in docs[:rows]:
        section = _cut(doc.raises_text, WORDS // 2)
        if not all(name in section for name in doc.raises.split("; ")):
            continue
        before = f"{doc.summary} {doc.body.partition(doc.raises_text)[0]}"
        yield {
            "input": f"{_cut(before, WORDS - len(section.split()))} {section}",
            "target": doc.raises,
            "group": doc.group,
        }


def summary(rows: int = 1000) -> Iterator[dict[str, str]]:
    """The one-line summary, from the body alone."""
    for doc in _mixed(rows, lambda doc: len(doc.body.split()) >= 15):
        yield {"input": f"{doc.name}: {_cut(doc.body, WORDS)}", "target": doc.summary, "group": doc.group}


def name(rows: int = 1000) -> Iterator[dict[str, str]]:
    """The function's name, from its docstring with the name masked."""
    for doc in _mixed(rows, lambda doc: doc.is_function and "_" in doc.name.strip("_") and doc.name[0] != "_"):
        text = re.sub(rf"(?<![A-Za-z0-9_]){re.escape(doc.name)}(?![A-Za-z0-9_])", "NAME", f"{doc.summary} {doc.body}")
        yield {"input": _cut(text, WORDS), "target": doc.name, "group": doc.group}


def _mixed(rows: int, fits: Any) -> Iterator[Docstring]:
    """Equal numbers of docstrings from each package, of those that fit."""
    for package_name in PACKAGES:
        found = [doc for doc in _docstrings(package_name) if fits(doc)]
        yield from found[: rows // len(PACKAGES)]


def _first(package_name: str, count: int) -> tuple[Docstring, ...]:
    return _docstrings(package_name)[:count]


@cache
def _docstrings(package_name: str) -> tuple[Docstring, ...]:
    """Docstrings of a package, each text once: the first of each module, then the second of each, and so on.

    So a small number of rows comes from many modules, and no split is filled by one of them.
    """
    root = _folder(package_name)
    files = {".".join(f.relative_to(root).with_suffix("").parts): f for f in _python_files(root)}
    found: dict[str, tuple[int, Docstring]] = {}
    for module in sorted(files, key=lambda module: _number(package_name, module)):
        for number, doc in enumerate(_module_docstrings(package_name, f"{package_name}.{module}", files[module])):
            if number < MOST_OF_MODULE or doc.raises:
                found.setdefault(doc.body.lower(), (number, doc))
        if len(found) >= MOST:
            break
    ranked = sorted(list(found.values())[:MOST], key=lambda pair: pair[0])
    return tuple(doc for _, doc in ranked)


def _folder(package_name: str) -> Path:
    folder = _FOLDERS.get(package_name, package_name)
    if not folder:
        return Path(sysconfig.get_paths()["stdlib"])
    spec = find_spec(folder)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package_name} is not installed; the domain pydocs reads its docstrings")
    return Path(next(iter(spec.submodule_search_locations)))


def _python_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.name in _SKIPPED or path.is_symlink():
            continue
        if path.is_dir():
            yield from _python_files(path)
        elif path.suffix == ".py" and path.stat().st_size <= MAX_FILE_BYTES:
            yield path


def _module_docstrings(package_name: str, module: str, file: Path) -> Iterator[Docstring]:
    source = file.read_bytes()
    if b'"""' not in source:
        return
    collects = gc.isenabled()
    gc.disable()  # a tree is a million objects, none of them garbage: the collector would double the time
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # some packages ship templates that end in .py
    finally:
        if collects:
            gc.enable()
    todo: list[ast.stmt] = list(tree.body)
    while todo:  # functions within functions have no docstring worth reading, so expressions are not walked
        node = todo.pop(0)
        if isinstance(node, ast.ClassDef):
            todo[:0] = node.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = ast.get_docstring(node, clean=False)
            if text and len(text) > 80 and text.isascii():
                doc = _tidy(package_name, module, node, inspect.cleandoc(text))
                if doc:
                    yield doc


_RAISES = re.compile(
    r"^(?P<head>Raises[ \t]*\n-{3,}[ \t]*\n|Raises:[ \t]*\n)(?P<section>.*?)"
    r"(?=\n[ \t]*\n[A-Z][A-Za-z ]+(?:\n-{3,}|:[ \t]*\n)|\Z)",
    re.M | re.S,
)
_EXCEPTION = re.compile(
    r"^[ \t]*[`~:a-z.]*?(?P<name>[A-Z]\w*(?:Error|Exception|Warning|Exit|Interrupt|StopIteration))\b"
)


def _raised(text: str) -> tuple[str, str]:
    """Names in the Raises section, and the section as plain words; two empty strings when there is none."""
    section = _RAISES.search(text)
    if section is None:
        return "", ""
    lines = section["section"].splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    heads = [line for line in lines if line.strip() and len(line) - len(line.lstrip()) == margin]
    matches = [_EXCEPTION.match(line) for line in heads]
    names = list(dict.fromkeys(m["name"] for m in matches if m))
    return ("; ".join(names), _plain(section["section"])) if 0 < len(names) <= 3 else ("", "")


def _tidy(package_name: str, module: str, node: Any, text: str) -> Docstring | None:
    """None when there is no one-line summary, or less than 12 words of body."""
    first, _, rest = text.partition("\n\n")
    summary_text = _plain(first)
    words = len(summary_text.split())
    body = _plain(rest)
    if not 3 <= words <= 20 or len(body.split()) < 12 or re.match(r"Parameters|Args|Returns|:", summary_text):
        return None
    names, section = _raised(text)
    is_function = not isinstance(node, ast.ClassDef)
    return Docstring(package_name, module, node.name, is_function, summary_text, body, names, section)


def _plain(text: str) -> str:
    """Running words: no markup, no doctests, no rules under headings."""
    kept = (line for line in text.splitlines() if not re.match(r"\s*(>>>|\.\.\.( |$)|\.\. |[-=~*+#|\s]+$)", line))
    joined = " ".join(kept)
    joined = re.sub(r":[\w:.+-]+:`~?([^`<]*?)\s*(?:<[^`]*>)?`", r"\1", joined)
    return " ".join(joined.replace("`", "").replace("**", "").split())


def _cut(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def _number(*texts: str) -> int:
    return int.from_bytes(blake2b("\0".join(texts).encode(), digest_size=8).digest(), "big")
