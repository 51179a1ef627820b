"""What a run costs beside its training: time of `alter run` on a tiny domain minus that of its training processes.

    python benchmarks/overhead.py

cold: an empty workspace. warm: backbone, data and databases are there, the training is new. unchanged: nothing is.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.tiny import tiny_folder
from tests.flows.kills import Victim

UNCHANGED_SECONDS = 15


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="alter-overhead-") as folder:
        victim = Victim(Path(folder) / "home", tiny_folder(Path(folder)))
        for name, seed in (("cold", 0), ("warm", 1), ("unchanged", 1)):
            victim.change(seed)
            since = time.time()
            begin = time.monotonic()
            outcome = victim.whole()
            seconds = time.monotonic() - begin
            jobs = _job_seconds(victim.home, since)
            rows.append((name, seconds, jobs["train"], jobs["score"], outcome["status"]))
    print(f"{'':<10} {'run':>8} {'training':>9} {'scoring':>8} {'overhead':>9}   seconds; overhead = run - training")
    for name, seconds, train, score, status in rows:
        print(f"{name:<10} {seconds:8.1f} {train:9.1f} {score:8.1f} {seconds - train:9.1f}   {status}")
    verdict = "met" if rows[-1][1] <= UNCHANGED_SECONDS else "missed"
    print(f"unchanged run at most {UNCHANGED_SECONDS} s: {verdict}")
    print(json.dumps({name: {"run": round(s, 1), "training": round(t, 1)} for name, s, t, _, _ in rows}))


def _job_seconds(home: Path, since: float) -> dict[str, float]:
    """Seconds of the training and of the evaluation processes that began after `since`: start to last result."""
    spent = {"train": 0.0, "score": 0.0}
    runs = home / "alter" / "runs" / "tiny"
    for job in runs.glob("*/job.json"):
        begin = job.stat().st_mtime
        if begin < since:
            continue
        if job.parent.name.startswith("score-"):  # one process scores several subjects, each into its own folder
            spent["score"] += max(card.stat().st_mtime for card in runs.glob("score-*/scorecard.json")) - begin
        else:
            spent["train"] += (job.parent / "result.json").stat().st_mtime - begin
    return spent


if __name__ == "__main__":
    main()
