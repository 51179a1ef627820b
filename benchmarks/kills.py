"""Kill `alter run` of a tiny domain, and see that the next run makes it good.

    python benchmarks/kills.py [KILLS] [SEED]

The first 20 kills strike each moment between registering and the last line twice, once with the jobs and once alone,
in an order that the seed gives; those beyond come at random times of a run. After each kill: the champion loads and
answers, the next run completes, its version is decided and settled, nothing is registered twice, no MLflow run stays
RUNNING, no job works on. At a flaw, what was found is told.
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
    found = []
    flaw = ""
    with tempfile.TemporaryDirectory(prefix="alter-kills-") as folder:
        try:
            for kill in kill_often(Path(folder) / "home", tiny_folder(Path(folder)), kills, seed):
                found.append(kill)
                how = "over before the kill" if kill.ended_before else "with its jobs" if kill.tree else "alone"
                print(f"{kill.after:6.1f} s  {how:<20}  next run: {kill.status:<10}  {kill.moment[:70]}", flush=True)
        except AssertionError as error:
            flaw = str(error)
    struck = sum(not kill.ended_before for kill in found)
    ends = dict(Counter(kill.status for kill in found))
    print(f"{len(found)} of {kills} made good ({struck} struck a live run); next runs: {ends}")
    if flaw:
        sys.exit(flaw)


if __name__ == "__main__":
    main()
