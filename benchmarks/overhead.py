"""What a run costs beside its training, part by part, and how long the commands take that only look.

    python benchmarks/overhead.py        # benchmarks/results/overhead.md and .json

cold: an empty workspace. warm: backbone, data and databases are there, the training is new. unchanged: nothing is new.
Wall seconds say what a person waits, and are those of a quiet machine alone; CPU seconds, of a command and all that it
started, say the same beside other work.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil

from benchmarks.tiny import tiny_folder
from tests.flows.kills import Victim

RESULTS = Path(__file__).parent / "results"
WANTED = {
    "run, cold": 20,
    "run, warm": 10,
    "run, unchanged": 5,
    "--help": 0.4,
    "models": 2,
    "status": 2,
    "report": 5,
    "predict": 5,
}
"""Wall seconds on two quiet cores; of a run, beside its training processes."""
PARTS = {
    "backbone": "start: imports, Prefect's server",
    "ingest": "backbone",
    "data": "rows",
    "quality": "quality report",
    "stage_one": "MLflow run, first training's start",
    "score": "training, scoring's start",
    "version": "scoring, registration, verification",
    "tiny": "promotion",
}
"""First word of the first such line that a run shows -> what was done until then; the rest comes after the last."""
TRAINING = "alter_core.training"
Row = dict[str, Any]


def main() -> None:
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="alter-overhead-") as folder:
        victim = Victim(Path(folder) / "home", tiny_folder(Path(folder)))
        for name, seed in (("cold", 0), ("warm", 1), ("unchanged", 1)):
            victim.change(seed)
            rows[f"run, {name}"] = _timed(victim, "run", str(victim.file), "--json")
            _write(rows)
        page = str(Path(folder) / "page.html")
        looks = {"--help": (), "models": (), "status": (str(victim.file),)}
        looks |= {"report": (str(victim.file), "--output", page)}
        looks |= {"predict": (str(victim.file), "--task", "colour", "the red ball is in the hall")}
        for word, more in looks.items():
            rows[word] = _timed(victim, word, *more)
            _write(rows)
    print(_page(rows))


def _write(rows: dict[str, Row]) -> None:
    """After each command, so that what was measured stays when the rest is stopped."""
    facts = {"machine": platform.machine(), "cores": os.cpu_count(), "commands": rows}
    (RESULTS / "overhead.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "overhead.md").write_text(_page(rows), encoding="utf-8")


def _timed(victim: Victim, *arguments: str) -> Row:
    """Seconds of one command: wall, CPU with all its children, both of its training processes, and its parts."""
    command = [sys.executable, "-c", "from flows.cli.app import main; main()", *arguments]
    load, begin = os.getloadavg()[0], time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=victim.home, env=victim.environment
    )
    training: dict[int, tuple[float, float]] = {}
    watch = threading.Thread(target=_watched, args=(process.pid, training), daemon=True)
    watch.start()
    parts: dict[str, float] = {}
    last = begin
    assert process.stderr
    shown = []
    for line in process.stderr:
        shown.append(line)
        part = PARTS.get(line.split(":")[0].split()[0] if line.strip(": \n") else "")
        if part and part not in parts:
            now = time.monotonic()
            parts[part], last = now - last, now
    _, status, used = os.wait4(process.pid, 0)
    end = time.monotonic()
    if status:
        raise SystemExit("".join(shown))
    parts["end" if parts else "whole"] = end - last
    trained = [sum(each) for each in zip(*training.values(), strict=True)] or [0.0, 0.0]
    found = {"wall": end - begin, "cpu": used.ru_utime + used.ru_stime, "load_before": load}
    found |= {"training_wall": trained[0], "training_cpu": trained[1]}
    return {**{name: round(value, 2) for name, value in found.items()}, "parts": _rounded(parts)}


def _watched(pid: int, training: dict[int, tuple[float, float]]) -> None:
    """Keep the seconds, wall and CPU, of every training process below `pid` while it lives."""
    while True:
        try:
            for child in psutil.Process(pid).children(recursive=True):
                try:
                    if any(word.startswith(TRAINING) for word in child.cmdline()):
                        spent = child.cpu_times()
                        training[child.pid] = time.time() - child.create_time(), spent.user + spent.system
                except psutil.Error:
                    continue
        except psutil.Error:
            return
        time.sleep(0.05)


def _rounded(parts: dict[str, float]) -> dict[str, float]:
    return {name: round(seconds, 1) for name, seconds in parts.items()}


def _page(rows: dict[str, Row]) -> str:
    lines = ["# What it costs around training", "", str(__doc__).partition("\n\n")[2].partition("\n\n")[2].strip(), ""]
    lines += [
        "| command | wall | wanted | CPU | load before | where the wall seconds went |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        beside = [row[key] - row[f"training_{key}"] for key in ("wall", "cpu")]
        parts = row["parts"]
        where = ", ".join(f"{part} {seconds}" for part, seconds in parts.items()) if len(parts) > 1 else ""
        lines.append(
            f"| `alter {name}` | {beside[0]:.1f} | {WANTED[name]} | {beside[1]:.1f} | {row['load_before']} | {where} |"
        )
    lines += ["", "Of a run, wall, wanted and CPU are those beside its training processes."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
