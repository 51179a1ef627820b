"""One domain trained over two machines, and one of them cut off: `python benchmarks/machines.py`, as root on Linux.

The machines are network namespaces (benchmarks/namespaces.py) with a processor each, where there are two, and one
workspace. A tiny domain is produced by `alter run`: on one machine in two processes; on two; on two that the network
parts for a while; on two of which one loses its power while it trains, and comes again. Each time the weights must be
the same to the bit, and what was lost must go on from its checkpoint. Prints a table; ends with 1 at a flaw.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.namespaces import Machine, machines, missing
from benchmarks.tiny import tiny_folder
from registry.card import table
from tests.conftest import tiny_spec, write_domain
from tests.flows.server import wait_for

ROOT = Path(__file__).parent.parent
STEPS = (300, 100)  # of stage one and two: long enough to be struck in
AT_STEP = 100
APART_SECONDS = 120  # twice what torch's launcher waits for unless it is told otherwise
TOGETHER = {
    "PET_NNODES": "2",
    "PET_RDZV_BACKEND": "c10d",
    "PET_RDZV_ENDPOINT": "one:29400",
    "PET_RDZV_CONF": "read_timeout=900",
    "PET_MAX_RESTARTS": "3",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}
"""As docs/scaling.md has them."""
JOIN = "while true; do {python} -m torch.distributed.run --nproc-per-node=1 -m alter_core.training.job; sleep 1; done"


@dataclass(frozen=True)
class Try:
    """One production of the domain in a workspace of its own."""

    home: Path
    spec: Path
    first: Machine
    second: Machine

    def start(self, machine: Machine, command: Sequence[str], **more: str) -> "subprocess.Popen[bytes]":
        cores = sorted(os.sched_getaffinity(0))
        core = cores[(machine is self.second) % len(cores)]
        words = command if "PET_NNODES" not in more else ["taskset", "--cpu-list", str(core), *command]
        self.home.mkdir(exist_ok=True)
        with (self.home / f"{machine.name}.log").open("ab") as log:
            return subprocess.Popen(
                machine.command(words),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "ALTER_HOME": str(self.home),
                    "ALTER_CHECKPOINT_SECONDS": "0.5",
                    "CUDA_VISIBLE_DEVICES": "",
                    "PYTHONPATH": str(ROOT),
                    **more,
                },
            )

    def run(self, processes: int, **more: str) -> "subprocess.Popen[bytes]":
        code = "from flows.cli.app import main; main()"
        command = [sys.executable, "-c", code, "run", str(self.spec), "--quiet", "--processes", str(processes)]
        return self.start(self.first, command, **more)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """The second machine is there for whatever the first one trains."""
        process = self.start(self.second, ["sh", "-c", JOIN.format(python=sys.executable)], **TOGETHER)
        try:
            yield
        finally:
            self.second.kill_all()
            process.wait()

    def rows(self, stage: str) -> list[dict[str, Any]]:
        text = "".join(file.read_text() for file in self.home.glob(f"runs/*/{stage}-*/metrics.jsonl"))
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def trained_to(self, step: int) -> bool:
        return any(row.get("step", 0) >= step for row in self.rows("stage_one") if row["phase"] == "train")

    def results(self) -> list[dict[str, Any]]:
        files = sorted(self.home.glob("runs/*/stage_*-*/result.json"))
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def one_machine(a: Try) -> int:
    return a.run(processes=2).wait()


def two_machines(a: Try) -> int:
    with a.joined():
        return a.run(processes=1, **TOGETHER).wait()


def second_lost(a: Try) -> int:
    """It is gone without a word, as when the power fails, and comes up again."""
    with a.joined():
        flow = a.run(processes=1, **TOGETHER)
        wait_for(lambda: a.trained_to(AT_STEP), "the machines train")
        a.second.cut_off()
    a.second.give_back()
    with a.joined():
        return flow.wait()


def parted(a: Try) -> int:
    with a.joined():
        flow = a.run(processes=1, **TOGETHER)
        wait_for(lambda: a.trained_to(AT_STEP), "the machines train")
        a.second.cut_off()
        time.sleep(APART_SECONDS)
        a.second.give_back()
        return flow.wait()


TRIES: dict[str, tuple[str, Callable[[Try], int]]] = {
    "one": ("one machine, two processes", one_machine),
    "two": ("two machines", two_machines),
    "parted": (f"two, parted for {APART_SECONDS} s", parted),
    "lost": ("two, of which one loses its power and comes again", second_lost),
}


def play(key: str, a: Try) -> dict[str, Any]:
    """One row of the table."""
    said, how = TRIES[key]
    print(f"== {said}", flush=True)
    begin = time.monotonic()
    code = how(a)
    results = a.results()
    resumed = [row["step"] for stage in ("stage_one", "stage_two") for row in a.rows(stage) if row["phase"] == "resume"]
    flaws = [f"`alter run` ended with {code}"] if code else []
    if [result["processes"] for result in results] != [2, 2]:
        flaws.append("not both stages were trained by two processes")
    if key == "lost" and not any(resumed):
        flaws.append("nothing went on from a checkpoint")
    if flaws:
        print(*((file.name, file.read_text()[-3000:]) for file in a.home.glob("*.log")), sep="\n")
    digests = [result["trained_digest"] for result in results]
    took = round(time.monotonic() - begin)
    return {"try": said, "went on after step": resumed, "digests": digests, "seconds": took, "flaws": flaws}


def main() -> None:
    if why := missing():
        print(f"{why}: nothing is tried")
        return
    keys = ["one", *(sys.argv[1:] or [key for key in TRIES if key != "one"])]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="alter-machines-") as folder, machines("one", "two") as (first, second):
        spec = tiny_spec(tiny_folder(Path(folder)))
        spec |= {"tasks": spec["tasks"][:2], "evaluation": {"baselines": []}}
        spec["stage_one"]["steps"], spec["stage_two"]["steps"] = STEPS
        file = write_domain(Path(folder) / "tiny", spec)
        for key in keys:
            row = play(key, Try(Path(folder) / key, file, first, second))
            if rows and row["digests"] != rows[0]["digests"]:
                row["flaws"].append("other weights than on one machine")
            rows.append(row)
            print(json.dumps(row), flush=True)
    header = ["try", "went on after step", "weights", "seconds", "flaws"]
    cells = [
        [
            row["try"],
            ", ".join(map(str, row["went on after step"])) or "-",
            " ".join(digest[:8] for digest in row["digests"]),
            str(row["seconds"]),
            "; ".join(row["flaws"]) or "none",
        ]
        for row in rows
    ]
    print(table(header, cells))
    sys.exit(any(row["flaws"] for row in rows))


if __name__ == "__main__":
    main()
