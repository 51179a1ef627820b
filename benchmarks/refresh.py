"""What a refresh costs and gains against a full run, as the rows of two tasks grow by a tenth, again and again.

    python benchmarks/refresh.py pydocs package summary [--rounds 4] [--limit ROWS] [--steps STEPS] [--test ROWS]
        [--out FOLDER]

The domain's rows are read once and written to files, so that test rows stay. The tasks that are named begin with as
many training rows as grow to all of them. One workspace makes the first champion, and is copied: in one, each round is
a run of all tasks; in the other, `alter run --refresh`, which decides by task. Both are scored on the same test rows.
The answers of all other tasks are compared with those of the first champion, text and score.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import yaml

from alter_core.data.dataset import TaskDataset
from alter_core.data.ingest import ingest
from alter_core.inference.predict import Predictor
from alter_core.spec import DomainSpec
from alter_core.workspace import Workspace
from flows.production.plan import Plan
from registry.champions import CHAMPION
from registry.models import ModelStore

ANSWERED = 20  # test rows of each other task whose answers are compared
OF_EACH = 5  # rows of each label that come before all others, so that few rows have every label among those to train on
Row = dict[str, Any]


class Growing:
    """A domain in a folder, as files whose rows grow as the command line says."""

    def __init__(self, given: argparse.Namespace) -> None:
        root = os.environ.get("ALTER_DATA_ROOT")
        self.plan = Plan.read(given.domain, Path(root) if root else None)
        self.grow, self.rounds, self.steps = given.grow, given.rounds, given.steps
        found = ingest(self.plan.spec, self.plan.folder, Workspace.default(), self.plan.data_root)
        self.train = {task: self._rows(found, task, ("train", "validation"), given.limit) for task in found.task_names}
        self.test = {task: self._rows(found, task, ("test",), given.test) for task in found.task_names}

    @staticmethod
    def _rows(found: TaskDataset, task: str, splits: tuple[str, ...], limit: int | None) -> list[Row]:
        rows = [{key: row[key] for key in ("input", "target")} for split in splits for row in found.rows(split, task)]
        random.Random(0).shuffle(rows)
        seen: Counter[str] = Counter()
        first, others = [], []
        for row in rows:
            seen[row["target"]] += 1
            (first if seen[row["target"]] <= OF_EACH else others).append(row)
        return [*first, *others][:limit]

    def write(self, folder: Path, grown: int) -> Path:
        """The spec's file, with rows as they are after `grown` rounds."""
        spec = yaml.safe_load(self.plan.file.read_text(encoding="utf-8"))
        spec["split"] = {"validation": 0.15}
        spec["promotion"] = {"by": "task"}
        if self.steps:
            spec["stage_one"] = {**(spec.get("stage_one") or {}), "steps": self.steps}
            spec["stage_one"].pop("epochs", None)
        folder.mkdir(parents=True, exist_ok=True)
        for task in spec["tasks"]:
            name = task["name"]
            rows = self.train[name]
            if name in self.grow:
                rows = rows[: round(len(rows) / 1.1 ** (self.rounds - grown))]
            for kind, kept in (("source", rows), ("test", self.test[name])):
                file = folder / f"{name}-{kind}.jsonl"
                file.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
                task[kind] = {"path": file.name}
        file = folder / "domain.yaml"
        file.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
        return file

    def answers(self, home: Path) -> dict[str, list[tuple[str, float]]]:
        """What the champion of `home` answers to rows of each task that does not grow."""
        store = ModelStore(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
        predictor = Predictor.from_bundle(store.bundle_path(self.plan.spec.name, CHAMPION))
        found = {}
        for task in sorted(self.test.keys() - set(self.grow)):
            inputs = [row["input"] for row in self.test[task][:ANSWERED]]
            given = predictor.predict([task] * len(inputs), inputs)
            found[task] = [(answer.text, answer.score) for answer in given]
        return found


def produce(home: Path, file: Path, *more: str) -> Row:
    """The outcome of a run, with its wall and CPU seconds."""
    environment = {**os.environ, "ALTER_HOME": str(home)}
    command = [sys.executable, "-c", "from flows.cli.app import main; main()", "run", str(file), "--json", *more]
    begin, load = time.monotonic(), os.getloadavg()[0]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=home.parent, env=environment)
    assert process.stdout
    text = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run ended with {os.waitstatus_to_exitcode(status)}")
    seconds = {"wall": time.monotonic() - begin, "cpu": used.ru_utime + used.ru_stime, "load_before": load}
    return {**json.loads(text), **{key: round(value, 1) for key, value in seconds.items()}}


def row_of(outcome: Row, kind: str, grown: int, spec: DomainSpec) -> Row:
    cards = outcome["scorecards"]
    made = cards.get("refresh") or cards.get("stage_two") or cards["stage_one"]
    facts = {key: outcome[key] for key in ("status", "version", "wall", "cpu", "load_before", "reason")}
    tasks = {task: metrics[spec.task(task).effective_metrics[0]]["value"] for task, metrics in made["tasks"].items()}
    return {"round": grown, "kind": kind, **facts, "macro": made["macro"]["value"], "tasks": tasks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("domain")
    parser.add_argument("grow", nargs="+", help="tasks whose rows grow")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--limit", type=int, help="training rows of a task at most")
    parser.add_argument("--steps", type=int, help="steps of stage one, in place of the spec's")
    parser.add_argument("--test", type=int, help="test rows of a task at most")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    growing = Growing(given)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="alter-refresh-") as scratch:
        homes = {kind: Path(scratch) / kind for kind in ("full", "refresh")}
        folder = Path(scratch) / "domain"
        rows.append(row_of(produce(homes["full"], growing.write(folder, 0)), "full", 0, growing.plan.spec))
        shutil.copytree(homes["full"], homes["refresh"], symlinks=True)
        before = growing.answers(homes["refresh"])
        for grown in range(1, given.rounds + 1):
            file = growing.write(folder, grown)
            rows.append(row_of(produce(homes["full"], file), "full", grown, growing.plan.spec))
            rows.append(row_of(produce(homes["refresh"], file, "--refresh"), "refresh", grown, growing.plan.spec))
            after = growing.answers(homes["refresh"])
            rows[-1]["others_as_before"] = {task: after[task] == before[task] for task in before}
            _write(given, growing, rows)
    print(_page(given, growing, rows))


def _write(given: argparse.Namespace, growing: Growing, rows: list[Row]) -> None:
    name = f"refresh-{growing.plan.spec.name}"
    counts = {task: len(rows) for task, rows in growing.train.items()}
    facts = {"grow": growing.grow, "rows": counts, "cores": os.cpu_count(), "runs": rows}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (given.out / f"{name}.md").write_text(_page(given, growing, rows), encoding="utf-8")


def _page(given: argparse.Namespace, growing: Growing, rows: list[Row]) -> str:
    length = f", {given.steps} steps of stage one" if given.steps else ""
    lines = [
        f"# A refresh against a full run: {growing.plan.spec.name}",
        "",
        f"Rows of {' and '.join(growing.grow)} grow by a tenth a round{length}. "
        f"Made by `python benchmarks/refresh.py {' '.join(sys.argv[1:])}`.",
        "",
        f"| round | run | seconds | CPU seconds | macro | {' | '.join(growing.grow)} | came to | others as before |",
        "|---" * (7 + len(growing.grow)) + "|",
    ]
    for row in rows:
        scores = [f"{row['tasks'][task]:.3f}" for task in growing.grow]
        same = row.get("others_as_before")
        others = "" if same is None else "all" if all(same.values()) else f"{sum(same.values())} of {len(same)}"
        lines.append(
            f"| {row['round']} | {row['kind']} | {row['wall']:.0f} | {row['cpu']:.0f} | {row['macro']:.3f} "
            f"| {' | '.join(scores)} | {row['status']} | {others} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
