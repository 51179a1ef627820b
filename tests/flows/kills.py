"""Kill `alter run` at a random moment and see that the next run makes it good. Shared with benchmarks/kills.py."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from alter_core.inference.predict import Predictor
from registry.champions import CHAMPION
from registry.models import ModelStore
from registry.tracking import Tracker
from tests.conftest import tiny_spec, write_domain

SECONDS = 600


@dataclass(frozen=True)
class Kill:
    """What one kill came to."""

    after: float
    """Seconds from the start of the run to the kill."""
    reached: str
    """The last line that the killed run had shown."""
    tree: bool
    """Whether its jobs were killed with it; otherwise they worked on alone."""
    ended_before: bool
    """The run was over before its kill came."""
    status: str
    """What the next run came to."""


class Victim:
    """A tiny domain in a workspace of its own, produced and killed again and again."""

    def __init__(self, home: Path, backbone: Path) -> None:
        self.home = home
        self.spec = tiny_spec(backbone)
        self.spec["evaluation"] = {"baselines": []}
        self.spec["tasks"] = self.spec["tasks"][:1]
        self.out, self.err = home / "out.json", home / "err.log"
        self.file = write_domain(home / "tiny", self.spec)
        self.environment = {
            **os.environ,
            "ALTER_HOME": str(home / "alter"),
            "ALTER_CHECKPOINT_SECONDS": "0.2",
            "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()]),
            "OMP_NUM_THREADS": "1",
        }

    def change(self, seed: int) -> None:
        """Make the next run have work to do, in both stages."""
        self.spec["seed"] = seed
        self.file.write_text(yaml.safe_dump(self.spec, sort_keys=False), encoding="utf-8")

    def start(self) -> "subprocess.Popen[bytes]":
        """Its output goes to files: what outlives a killed run would hold a pipe open."""
        with self.out.open("wb") as out, self.err.open("wb") as err:
            return subprocess.Popen(
                [sys.executable, "-c", "from flows.cli.app import main; main()", "run", str(self.file), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.home,
                env=self.environment,
            )

    def whole(self) -> dict[str, Any]:
        """A run to its end, as JSON. Raises AssertionError when it fails."""
        code = self.start().wait(SECONDS)
        assert code == 0, self.err.read_text(encoding="utf-8", errors="replace")[-3000:]
        outcome: dict[str, Any] = json.loads(self.out.read_text(encoding="utf-8"))
        return outcome

    def killed(self, after: float, tree: bool) -> Kill:
        """Start a run, SIGKILL it after so many seconds, look at what it left, and run again."""
        run = self.start()
        time.sleep(after)
        ended_before = run.poll() is not None
        if not ended_before:
            process = psutil.Process(run.pid)
            victims = [process, *(process.children(recursive=True) if tree else [])]
            for victim in victims:
                try:
                    victim.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
        run.wait(SECONDS)
        shown = self.err.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reached = (shown or ["nothing shown yet"])[-1]
        before = self.champion()
        outcome = self.whole()
        self.check(outcome, before)
        return Kill(after, reached, tree, ended_before, str(outcome["status"]))

    def champion(self) -> int | None:
        """Its version, after a proof that it answers; None before the first."""
        if not (self.home / "alter" / "mlflow" / "mlflow.db").exists():
            return None
        store = ModelStore(self.uri)
        version = store.alias("tiny", CHAMPION)
        if version is None:
            return None
        predictor = Predictor.from_bundle(store.bundle_path("tiny", CHAMPION))
        (answer,) = predictor.predict(["colour"], ["the red ball is in the hall"])
        assert answer.text in ("red", "green", "blue")
        return int(version["version"])

    def check(self, outcome: dict[str, Any], before: int | None) -> None:
        """What must hold after the run that follows a kill."""
        assert outcome["status"] in ("champion", "candidate", "unchanged")
        now = self.champion()
        assert now == outcome["version"] or (outcome["status"] == "candidate" and now == before)
        assert self.open_runs() == []
        assert self.left() == []

    def open_runs(self) -> list[str]:
        """MLflow runs that still say RUNNING."""
        tracker = Tracker(self.uri, None, "tiny")
        found = tracker._client.search_runs([tracker.experiment_id], "attributes.status = 'RUNNING'")
        return [run.info.run_id for run in found]

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.home}/alter/mlflow/mlflow.db"

    def left(self) -> list[str]:
        """Command lines of processes of this workspace: jobs and Prefect servers, of which a run leaves none."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("ALTER_HOME") == self.environment["ALTER_HOME"]:
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:  # gone, a zombie, or another user's
                continue
        return found


def kill_often(home: Path, backbone: Path, kills: int, seed: int) -> list[Kill]:
    """So many kills at random moments of a run, half of them with the jobs. Raises AssertionError at the first flaw."""
    chance = random.Random(seed)
    victim = Victim(home, backbone)
    begin = time.monotonic()
    victim.whole()
    whole = time.monotonic() - begin
    found = []
    for number in range(kills):
        victim.change(number + 1)
        found.append(victim.killed(chance.uniform(0.0, whole), tree=number % 2 == 0))
    return found
