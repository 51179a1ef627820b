"""A domain for trials: tasks of `assistant`, `clinical` and `scholarly`, with as many rows as asked for.

    python benchmarks/trial_domain.py TO --data-root FOLDER [--domains assistant clinical scholarly]
                                      [--rows 1200] [--few TASK...] [--few-rows 150] [--test-rows 10000]
                                      [--input-tokens 10000] [--target-tokens 10000] [--steps 200 30]

Of each file those rows are taken whose line has the least SHA-256, so that fewer rows are a part of more. A label task
names the labels of all its rows, however few are taken. TO gets domain.yaml and the rows; what was taken is printed.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

DOMAINS = Path(__file__).parent.parent / "domains"
KEPT = ("name", "type", "description", "licence", "instruction")
ROWS_PER_STEP = 16


def least(path: Path, count: int) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return sorted(lines, key=lambda line: hashlib.sha256(line.encode()).hexdigest())[:count]


def task_of(task: dict[str, Any], to: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A task of the trial, its rows written beside it."""
    name, rows = task["name"], options.few_rows if task["name"] in options.few else options.rows
    made: dict[str, Any] = {key: task[key] for key in KEPT}
    counts = []
    for place, count in (("source", rows), ("test", options.test_rows)):
        lines = least(options.data_root / task[place]["path"], count)
        (to / f"{name}-{place}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        made[place] = {"path": f"{name}-{place}.jsonl"}
        counts.append(len(lines))
    if task["type"].endswith("classification"):
        every = (options.data_root / task["source"]["path"]).read_text(encoding="utf-8").splitlines()
        made["labels"] = task.get("labels") or sorted({json.loads(line)["target"] for line in every})
    made["max_input_tokens"] = min(task["max_input_tokens"], options.input_tokens)
    made["max_target_tokens"] = min(task["max_target_tokens"], options.target_tokens)
    print(f"{name}: {counts[0]} rows, {counts[1]} test rows")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("to", type=Path, help="the domain's folder; its name is the domain's")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the shipped domains' rows")
    parser.add_argument("--domains", nargs="+", default=["assistant", "clinical", "scholarly"])
    parser.add_argument("--rows", type=int, default=1200, help="training rows of a task")
    parser.add_argument("--few", nargs="*", default=[], metavar="TASK", help="tasks with --few-rows")
    parser.add_argument("--few-rows", type=int, default=150)
    parser.add_argument("--test-rows", type=int, default=10_000)
    parser.add_argument("--input-tokens", type=int, default=10_000, help="cut inputs here")
    parser.add_argument("--target-tokens", type=int, default=10_000, help="cut targets here")
    parser.add_argument("--steps", type=int, nargs=2, default=[200, 30], help="of stage one and two, of 16 rows each")
    options = parser.parse_args()
    specs = [yaml.safe_load((DOMAINS / name / "domain.yaml").read_text(encoding="utf-8")) for name in options.domains]
    tasks = [task for spec in specs for task in spec["tasks"]]
    if unknown := sorted(set(options.few) - {task["name"] for task in tasks}):
        parser.error(f"--few: no task {', '.join(unknown)} in {', '.join(options.domains)}")
    options.to.mkdir(parents=True, exist_ok=True)
    one, two = options.steps
    trial = {
        "name": options.to.name,
        "description": f"{len(tasks)} tasks of {', '.join(options.domains)}, for a trial.",
        "backbone": specs[0]["backbone"],
        "tasks": [task_of(task, options.to, options) for task in tasks],
        "stage_one": {"steps": one, "rows_per_step": ROWS_PER_STEP},
        "stage_two": {"steps": two, "rows_per_step": ROWS_PER_STEP, "evaluate_every": two // 2},
        "evaluation": {"max_validation_rows": 60},
    }
    (options.to / "domain.yaml").write_text(yaml.safe_dump(trial, sort_keys=False, width=120), encoding="utf-8")


if __name__ == "__main__":
    main()
