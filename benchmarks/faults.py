"""What happens to runs when parts of a stack die: `python benchmarks/faults.py [DOMAINS] [FAULT...]`.

Starts PostgreSQL, Redis, MLflow with accounts, Prefect and two workers on loopback (the stack of `make up-local`, in a
temporary folder), deploys tiny domains, and in each round lets all of them run at once while one part is struck. Then
it looks whether every domain ended registered, at once or by the next run, whether a version was lost or registered
twice, and whether every champion still answers. Prints a table, writes it to benchmarks/results/faults.json, and ends
with 1 when something was lost.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.tiny import tiny_folder
from registry.card import table
from stack import manager, steps
from stack.place import Place
from tests.conftest import tiny_spec, write_domain
from tests.flows.server import wait_for
from tests.stack.ports import free_ports

AWAY_SECONDS = 30  # MLflow
BETWEEN_SECONDS = 45  # from one fault to the next, where there are several
STEPS = (200, 60)  # of stage one and two: long enough to be struck in
SECONDS = 1800.0
RESULTS = Path(__file__).parent / "results" / "faults.json"


def nothing(place: Place) -> None:
    """The round that the others are compared with."""


def restart_postgres(place: Place) -> None:
    with manager.control(place) as asked:
        asked.stopProcess("postgres")
        asked.startProcess("postgres")


def kill_postgres(place: Place) -> None:
    """SIGKILL to the server and all its backends: it recovers from its log."""
    _kill(place, "postgres", tree=True)


def mlflow_away(place: Place) -> None:
    with manager.control(place) as asked:
        _kill(place, "mlflow", tree=True)
        asked.stopProcess("mlflow")  # or the manager would start it again at once
        time.sleep(AWAY_SECONDS)
        asked.startProcess("mlflow")


def kill_worker(place: Place) -> None:
    """The worker alone: the runs that it started work on."""
    _kill(place, _busiest(place), tree=False)


def kill_machine(place: Place) -> None:
    """A worker with its runs and their jobs, as when its machine dies."""
    _kill(place, _busiest(place), tree=True)


def kill_prefect(place: Place) -> None:
    _kill(place, "prefect-server", tree=True)


def one_after_another(place: Place) -> None:
    """The four that a platform sees most, while the same runs go on."""
    for strike in (restart_postgres, mlflow_away, kill_worker, kill_prefect):
        strike(place)
        time.sleep(BETWEEN_SECONDS)


def kill_services(place: Place) -> None:
    _kill(place, "prefect-services" if "prefect-services" in manager.states(place) else "prefect-server", tree=True)


FAULTS: dict[str, tuple[str, Callable[[Place], None]]] = {
    "none": ("nothing", nothing),
    "postgres": ("PostgreSQL is restarted", restart_postgres),
    "postgres-kill": ("PostgreSQL is killed", kill_postgres),
    "mlflow": (f"MLflow is killed and away for {AWAY_SECONDS} s", mlflow_away),
    "worker": ("a worker is killed", kill_worker),
    "machine": ("a worker is killed with its runs", kill_machine),
    "prefect": ("the Prefect server is killed", kill_prefect),
    "sequence": (
        f"PostgreSQL restarted, MLflow away for {AWAY_SECONDS} s, a worker and the Prefect server killed, one by one",
        one_after_another,
    ),
    "services": ("Prefect's services are killed", kill_services),
}


def _busiest(place: Place) -> str:
    """The worker with the most processes below it: one without runs would be no loss."""
    workers = {name: pid for name, pid in manager.process_ids(place).items() if name.startswith("worker")}
    return max(workers, key=lambda name: len(psutil.Process(workers[name]).children(recursive=True)))


def _kill(place: Place, name: str, tree: bool) -> None:
    process = psutil.Process(manager.process_ids(place)[name])
    for victim in [process, *(process.children(recursive=True) if tree else [])]:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


class Domains:
    """Tiny domains that are deployed on the stack."""

    def __init__(self, place: Place, backbone: Path, count: int) -> None:
        self.place = place
        self.files: dict[str, Path] = {}
        for number in range(count):
            spec = tiny_spec(backbone)
            spec |= {"name": f"domain_{number}", "tasks": spec["tasks"][:1], "evaluation": {"baselines": []}}
            spec["stage_one"]["steps"], spec["stage_two"]["steps"] = STEPS
            self.files[spec["name"]] = write_domain(place.home.parent / spec["name"], spec)

    def change(self, seed: int) -> None:
        """Give every domain's next run work to do, in both stages."""
        for file in self.files.values():
            spec = yaml.safe_load(file.read_text(encoding="utf-8"))
            file.write_text(yaml.safe_dump({**spec, "seed": seed}, sort_keys=False), encoding="utf-8")

    def training(self, since: float) -> list[str]:
        """Domains whose current run has begun to train."""
        found = []
        for name in self.files:
            rows = (self.place.home / "runs" / name).glob("stage_*/metrics.jsonl")
            if any(file.stat().st_mtime > since for file in rows):
                found.append(name)
        return found

    def versions(self) -> dict[str, list[dict[str, Any]]]:
        """Registered versions by domain."""
        from registry.models import ModelStore

        rows = ModelStore(self.place.mlflow_url).versions()
        return {name: [dict(row) for row in rows if row["name"] == name] for name in self.files}

    def dead_champions(self) -> list[str]:
        """Domains whose champion is not there, or does not answer."""
        from alter_core.inference.predict import Predictor
        from registry.champions import CHAMPION
        from registry.models import ModelStore

        store, dead = ModelStore(self.place.mlflow_url, downloads=self.place.home.parent / "downloads"), []
        for name in self.files:
            try:
                bundle = store.bundle_path(name, CHAMPION)
                (answer,) = Predictor.from_bundle(bundle).predict(["colour"], ["the red ball is in the hall"])
            except Exception as error:  # whatever it is, it goes into the table
                dead.append(f"{name}: {error}")
                continue
            if answer.text not in ("red", "green", "blue"):
                dead.append(f"{name}: answers {answer.text!r}")
        return dead


class Runs:
    """Flow runs of the domains' deployments."""

    def __init__(self, names: list[str]) -> None:
        self.latest = {name: self._start(name) for name in names}

    @staticmethod
    def _start(name: str) -> Any:
        from prefect.deployments import run_deployment

        from flows.deployments.names import full_name

        run: Any = run_deployment(full_name(name), timeout=0, as_subflow=False)
        return run.id

    def states(self) -> dict[str, Any]:
        """State of each domain's latest flow run; an empty one while the server is away."""
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return {name: client.read_flow_run(run).state for name, run in self.latest.items()}

    def ended(self) -> dict[str, Any]:
        """Waits until all are final."""

        def final() -> dict[str, Any] | None:
            try:
                states = self.states()
            except Exception:  # the server is away: that is what is tried here
                return None
            return states if all(state and state.is_final() for state in states.values()) else None

        return wait_for(final, "every flow run ends", SECONDS)

    def again(self, names: list[str]) -> None:
        for name in names:
            self.latest[name] = self._start(name)


def play(place: Place, domains: Domains, key: str, seed: int) -> dict[str, Any]:
    """One round; its row of the table."""
    said, strike = FAULTS[key]
    before = domains.versions()
    domains.change(seed)
    begin = time.time()
    runs = Runs(list(domains.files))
    wait_for(lambda: len(domains.training(begin)) >= min(2, len(domains.files)), "two runs train", SECONDS)
    strike(place)
    first = runs.ended()
    tries = 1
    while (missing := [name for name, state in runs.ended().items() if not state.is_completed()]) and tries < 6:
        tries += 1
        time.sleep(10)  # a place in the queue that a dead run held is given back
        runs.again(missing)
    after = domains.versions()
    keys = {name: Counter(row["tags"]["run_key"] for row in rows) for name, rows in after.items()}
    new = {name: len(after[name]) - len(before[name]) for name in after}
    ends = Counter(state.name for state in first.values())
    return {
        "fault": said,
        "domains": len(domains.files),
        "first_ended": dict(ends),
        "messages": sorted({str(s.message)[:300] for s in first.values() if not s.is_completed()}),
        "completed_at_once": ends["Completed"],
        "completed_by_a_later_run": len(domains.files) - ends["Completed"] - len(missing),
        "never_completed": missing,
        "lost": [name for name, rows in before.items() if {r["version"] for r in rows} - _numbers(after[name])],
        "not_registered": [name for name, count in new.items() if count < 1],
        "registered_twice": [name for name, count in keys.items() if max(count.values(), default=0) > 1],
        "dead_champions": domains.dead_champions(),
        "seconds": round(time.time() - begin),
    }


def _numbers(rows: list[dict[str, Any]]) -> set[int]:
    return {int(row["version"]) for row in rows}


@contextmanager
def stack(home: Path) -> Iterator[Place]:
    """A running stack with two workers, and this process as one of its clients."""
    place = Place(home / "alter", free_ports(), workers=2)
    place.home.mkdir()
    steps.up(place, lambda text: print(text, flush=True))
    os.environ.update(place.client())  # before Prefect is imported, which reads it once
    try:
        yield place
    finally:
        steps.down(place)


def _table(rows: list[dict[str, Any]]) -> str:
    header = ["fault", "runs", "completed at once", "by a later run", "lost", "twice", "dead champions", "seconds"]
    cells = []
    for row in rows:
        shown = [row["fault"], row["domains"], row["completed_at_once"], row["completed_by_a_later_run"]]
        lost = len(row["lost"]) + len(row["not_registered"]) + len(row["never_completed"])
        shown += [lost, len(row["registered_twice"]), len(row["dead_champions"]), row["seconds"]]
        cells.append([str(cell) for cell in shown])
    return table(header, cells)


def _keep(new: list[dict[str, Any]], count: int) -> None:
    """Add to the rows of earlier rounds with as many domains, or replace those of the same fault."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    known = {row["fault"]: row for row in [*kept, *new] if row["domains"] == count}
    rows = [known[said] for said, _ in FAULTS.values() if said in known]
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    title = f"# {count} runs at once over two workers, and one part struck while they train"
    made = (
        f"Made by `python benchmarks/{Path(__file__).name} {count}`, one round a fault; a run is a domain's production."
    )
    RESULTS.with_suffix(".md").write_text("\n".join([title, "", made, "", _table(rows), ""]), encoding="utf-8")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    keys = sys.argv[2:] or list(FAULTS)
    os.environ["ALTER_CHECKPOINT_SECONDS"] = "1"
    rows = []
    with tempfile.TemporaryDirectory(prefix="alter-faults-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's own user has to come through
        with stack(Path(folder)) as place:
            domains = Domains(place, tiny_folder(Path(folder)), count)
            from flows.deployments.deploy import deploy

            deploy([str(file) for file in domains.files.values()], "alter")
            for seed, key in enumerate(keys, start=1):
                print(f"== {FAULTS[key][0]}", flush=True)
                rows.append(play(place, domains, key, seed))
                print(json.dumps(rows[-1], indent=2), flush=True)
                _keep(rows, count)  # after every round: one that is interrupted leaves the others
    bad = ("never_completed", "lost", "not_registered", "registered_twice", "dead_champions")
    print(_table(rows))
    sys.exit(any(row[name] for row in rows for name in bad))


if __name__ == "__main__":
    main()
