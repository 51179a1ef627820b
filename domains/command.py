"""`make domains`: the rows of the real domains, from public repositories to files under a data root."""

import argparse
import csv
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from xml.etree import ElementTree
from zipfile import BadZipFile

from alter_core.errors import AlterError, DataError
from alter_core.whole import written_whole
from domains.checkouts import Checkout, fetch
from domains.task_rows import Made, made

HERE = Path(__file__).parent
REMOTE = "https://github.com"
OTHER_LAYOUT = (
    AttributeError, BadZipFile, csv.Error, ElementTree.ParseError, IndexError, KeyError, TypeError, ValueError
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 2 when something is wrong, of which every problem is told; then no domain is half made."""
    given = _parser().parse_args(arguments)
    try:
        make(
            given.names or real_domains(),
            given.data_root,
            given.checkouts or given.data_root / "checkouts",
            given.remote,
        )
    except AlterError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{error}; name a folder that you may write to, with space left\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was not finished is not there\n")
        return 130
    return 0


def real_domains() -> list[str]:
    return sorted(file.parent.name for file in HERE.glob("*/rows.py"))


def make(names: Sequence[str], data_root: Path, checkouts: Path, remote: str) -> None:
    """Fetch what is missing under `checkouts`, then write `<data_root>/<name>/`, each domain whole or not at all.

    Raises DataError with all problems.
    """
    if unknown := [name for name in names if name not in real_domains()]:
        raise DataError(f"no rows are made for {', '.join(unknown)}; there are {', '.join(real_domains())}")
    modules = {name: import_module(f"domains.{name}.rows") for name in dict.fromkeys(names)}
    read = {name: _checkouts(module, checkouts, remote) for name, module in modules.items()}
    problems = [problem for of_domain in read.values() for _, found in of_domain for problem in found]
    if problems:
        raise DataError("the public files cannot be read as they are; no rows were written", problems)
    for name, module in modules.items():
        try:
            _write(name, module, [checkout for checkout, _ in read[name]], data_root)
        except DataError as error:
            problems += error.problems or [error.headline]
    if problems:
        raise DataError("these domains were not made", problems)


def _checkouts(module: ModuleType, folder: Path, remote: str) -> list[tuple[Checkout, list[str]]]:
    """Each repository's checkout, fetched where it is missing, and what is wrong with it."""
    found: list[tuple[Checkout, list[str]]] = []
    for repository in module.REPOSITORIES:
        checkout = Checkout(repository, folder / repository.folder)
        try:
            if not checkout.folder.exists():
                _say(f"fetching {repository.name} at {repository.commit[:12]} from {remote}")
                fetch(repository, checkout.folder, remote)
            found.append((checkout, list(checkout.problems())))
        except DataError as error:
            found.append((checkout, [error.headline]))
    return found


def _write(name: str, module: ModuleType, checkouts: Sequence[Checkout], data_root: Path) -> None:
    target = data_root / name
    data_root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{name}.", dir=data_root) as scratch:
        folder = Path(scratch) / name
        (folder / "LICENSES").mkdir(parents=True)
        for one in checkouts:
            (folder / "LICENSES" / f"{one.repository.folder}__{one.licence.name}").write_bytes(one.licence.read_bytes())
        _say(f"{name}:")
        for task, rows in _tasks(name, module, checkouts):
            rows.write(folder / task)
            _say(f"  {task}: {_told(rows)}; {_digests(folder / task)}")
        files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
        if not target.exists():
            with written_whole(target) as whole:
                folder.rename(whole)
            _say(f"{name}: {len(files)} files written under {target}")
        elif other := [str(file) for file in files if not _equal(folder / file, target / file)]:
            raise DataError(
                f"{target}: holds other rows than these ({', '.join(other[:3])}{' and more' if other[3:] else ''}), "
                "and they stay; move the folder away, or name another data root"
            )
        else:
            _say(f"{name}: the same as stands under {target}, which stays as it is")


def _tasks(name: str, module: ModuleType, checkouts: Sequence[Checkout]) -> Iterator[tuple[str, Made]]:
    """Each task's rows. Raises DataError where a file is not what its reader takes it for."""
    told = "its first task"
    try:
        for task in module.tasks({one.repository.name: one for one in checkouts}):
            told = task.name
            yield task.name, made(task)
            told = f"the task after {task.name}"
    except OTHER_LAYOUT as error:
        raise DataError(
            f"{name}: {told}: a file is not of the layout that domains/{name}/rows.py reads "
            f"({type(error).__name__}: {error}); change it together with the commit"
        ) from error


def _told(rows: Made) -> str:
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in rows.left_out.items() if count) or "none"
    return f"{len(rows.train):,} training and {len(rows.test):,} test rows of {rows.read:,}; left out: {left_out}"


def _digests(folder: Path) -> str:
    """The first digits of each file's SHA-256, as the domain's README has them."""
    return ", ".join(
        f"{name} {hashlib.sha256((folder / f'{name}.jsonl').read_bytes()).hexdigest()[:12]}"
        for name in ("train", "test")
    )


def _equal(made_file: Path, standing: Path) -> bool:
    return standing.is_file() and made_file.read_bytes() == standing.read_bytes()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m domains.command", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(real_domains())}; none means all")
    root = os.environ.get("ALTER_DATA_ROOT")
    parser.add_argument("--data-root", type=Path, default=root and Path(root), required=not root, help="where rows go")
    parser.add_argument(
        "--checkouts", type=Path, help="where checkouts are, or go; unset: checkouts under the data root"
    )
    parser.add_argument("--remote", default=REMOTE, help=f"has owner/name.git under it; unset: {REMOTE}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
