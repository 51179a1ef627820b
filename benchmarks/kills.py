"""Kill `alter run` of a tiny domain at 20 random moments; after each the next run must make it good.

    python benchmarks/kills.py [KILLS] [SEED]

After each kill: the champion loads and answers, the next run completes, no MLflow run stays RUNNING, no job works on.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.tiny import tiny_folder
from tests.flows.kills import kill_often


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory(prefix="alter-kills-") as folder:
        found = kill_often(Path(folder) / "home", tiny_folder(Path(folder)), kills, seed)
    for kill in found:
        how = "over before the kill" if kill.ended_before else "with its jobs" if kill.tree else "alone"
        print(f"{kill.after:6.1f} s  {how:<20}  next run: {kill.status:<10}  it had reached: {kill.reached[:70]}")
    struck = sum(not kill.ended_before for kill in found)
    ends = dict(Counter(kill.status for kill in found))
    print(f"{len(found)} of {kills} made good ({struck} struck a live run); next runs: {ends}")


if __name__ == "__main__":
    main()
