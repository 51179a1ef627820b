"""A team's stack over three machines, and what the network cuts off: `python benchmarks/cut_off.py [TRY...]`, as root.

The machines are namespaces (benchmarks/namespaces.py). On `servers`, PostgreSQL, MLflow with accounts and Prefect run
as `make up-local` starts them, the processes of docker-compose.yml; on `one` and `two` runs a worker each; all share a
workspace. A tiny domain's run is struck while it trains: its machine has no network for a while that Prefect waits for;
the servers have none; its machine has none for longer than four heartbeats, and the run is asked for again meanwhile,
which the other machine takes. In the end each run's work must be registered once, and the champion must answer. Prints
a table; ends with 1 at a flaw.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import stack.place
from benchmarks.faults import Domains, Runs
from benchmarks.namespaces import Machine, machines, missing
from benchmarks.tiny import tiny_folder
from registry.card import table
from stack import programs, steps
from stack.place import Place, Ports
from tests.flows.server import wait_for

ROOT = Path(__file__).parent.parent
NAMES = ("servers", "one", "two")
SHORT_SECONDS = 40
INSIDE = "--on-servers"
TRIES = {
    "none": "nothing",
    "short": f"the run's machine cut off for {SHORT_SECONDS} s",
    "servers": f"the servers cut off for {SHORT_SECONDS} s",
    "long": "the run's machine cut off until the other has tried the run",
}


@contextmanager
def team(home: Path, servers: Machine, workers: list[Machine]) -> Iterator[Place]:
    """The servers here, where this process runs, and a worker on each machine."""
    for module in (stack.place, programs, steps):
        module.HOST = servers.address  # what others reach
    place = Place(home / "alter", Ports(), workers=0)
    place.home.mkdir()

    def note(text: str) -> None:
        print(text, flush=True)
        if text == "starting PostgreSQL":  # which was made for loopback alone
            with (place.database / "pg_hba.conf").open("a") as file:
                file.write(f"host all all {servers.address}/32 scram-sha-256\n")

    steps.up(place, note)
    os.environ.update(place.client())  # before Prefect is imported, which reads it once
    started = []
    try:
        found = programs.worker_programs(replace(place, workers=len(workers)))
        for machine, program in zip(workers, found, strict=True):
            with (place.logs / f"{program.name}.log").open("ab") as log:
                environment = {**programs.base_environment(place), **program.environment}
                command = machine.command(program.command)
                started.append(
                    subprocess.Popen(command, env=environment, cwd=place.folder, stdout=log, stderr=subprocess.STDOUT)
                )
        yield place
    finally:
        for machine in workers:
            machine.kill_all()
        for process in started:
            process.wait()
        steps.down(place)


def play(key: str, seed: int, place: Place, domains: Domains, spread: list[Machine]) -> dict[str, Any]:
    """One row of the table."""
    (name,) = domains.files
    servers, *workers = spread
    before = {row["version"] for row in domains.versions()[name]}
    domains.change(seed)
    begin = time.time()
    runs = Runs([name])
    ended: list[str] = []

    def end() -> str:
        state = runs.ended()[name]
        ended.append(state.name)
        print(f"{time.time() - begin:5.0f} s: the run ended {state.name}: {state.message}", flush=True)
        return str(state.name)

    wait_for(lambda: domains.training(begin), "the run trains")
    busy = max(workers, key=lambda machine: len(machine.pids()))
    print(f"{time.time() - begin:5.0f} s: it trains on {busy.name}", flush=True)
    if key in ("short", "servers"):
        struck = busy if key == "short" else servers
        struck.cut_off()
        time.sleep(SHORT_SECONDS)
        struck.give_back()
        end()
    elif key == "long":
        busy.cut_off()
        end()  # as Crashed, by the automation that looks for heartbeats
        runs.again([name])
        end()
        busy.give_back()
    else:
        end()
    while ended[-1] != "Completed" and len(ended) < 6:
        time.sleep(10)  # a place in the queue that a dead run held is given back
        runs.again([name])
        end()
    wait_for(lambda: not any("job.json" in words for one in workers for words in one.commands()), "no job works on")
    new = [row for row in domains.versions()[name] if row["version"] not in before]
    flaws = [f"a run ended {state}" for state in ended if key != "long" and state != "Completed"]
    if ended[-1] != "Completed":
        flaws.append("the run was never completed")
    if [count for count in Counter(row["tags"]["run_key"] for row in new).values()] != [1]:
        flaws.append(f"{len(new)} versions were registered")
    flaws += domains.dead_champions()
    rows = [json.loads(line) for file in place.home.glob("runs/*/stage_*/metrics.jsonl") for line in file.open()]
    resumed = [row["step"] for row in rows if row["phase"] == "resume" and row["time"] > begin]
    took = round(time.time() - begin)
    return {"cut": TRIES[key], "ended": ended, "went on after step": resumed, "seconds": took, "flaws": flaws}


def on_servers(group: str, keys: list[str]) -> None:
    """All of it; this process runs in the servers' network."""
    os.environ["ALTER_CHECKPOINT_SECONDS"] = "1"
    found = Machine.of(NAMES, group)
    rows = []
    with tempfile.TemporaryDirectory(prefix="alter-cut-off-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's own user has to come through
        with team(Path(folder), found[0], found[1:]) as place:
            domains = Domains(place, tiny_folder(Path(folder)), 1)
            from flows.deployments.deploy import deploy

            deploy([str(file) for file in domains.files.values()], "alter")
            for seed, key in enumerate(keys, start=1):
                print(f"== {TRIES[key]}", flush=True)
                rows.append(play(key, seed, place, domains, found))
                print(json.dumps(rows[-1]), flush=True)
    cells = [
        [
            row["cut"],
            ", then ".join(row["ended"]),
            ", ".join(map(str, row["went on after step"])) or "-",
            str(row["seconds"]),
            "; ".join(row["flaws"]) or "none",
        ]
        for row in rows
    ]
    print(table(["cut off", "flow runs ended", "went on after step", "seconds", "flaws"], cells))
    if any(row["flaws"] for row in rows):
        sys.exit(1)


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == [INSIDE]:
        on_servers(words[1], words[2:])
        return
    if why := missing():
        print(f"{why}: nothing is tried")
        return
    with machines(*NAMES) as (servers, *_):
        command = [sys.executable, __file__, INSIDE, servers.group, *(words or TRIES)]
        sys.exit(subprocess.run(servers.in_network(command), cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
