"""Kill `alter run` at a named or a random moment and see that the next run makes it good. Shared with
benchmarks/kills.py."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
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
from tests.flows.struck import MOMENTS

SECONDS = 600
EACH = 2  # strikes of every named moment: with the jobs, and alone
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Kill:
    """What one kill came to."""

    moment: str
    """What the killed run had just done, by its name in MOMENTS or the last line that it had shown."""
    after: float
    """Seconds from the start of the run to the kill."""
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

    def start(self, *struck: str) -> "subprocess.Popen[bytes]":
        """A run, or one that strikes itself (the words before `alter`'s own). Its output goes to files: what outlives a
        killed run would hold a pipe open."""
        begin = ["-m", "tests.flows.struck", *struck] if struck else ["-c", "from flows.cli.app import main; main()"]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            return subprocess.Popen(
                [sys.executable, *begin, "run", str(self.file), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.home,
                env=self.environment,
            )

    def whole(self) -> Outcome:
        """A run to its end, as JSON. Raises AssertionError when it fails."""
        code = self.start().wait(SECONDS)
        assert code == 0, self.err.read_text(encoding="utf-8", errors="replace")[-3000:]
        outcome: Outcome = json.loads(self.out.read_text(encoding="utf-8"))
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
        return Kill(self.shown()[-1], after, tree, ended_before, self.made_good(self.shown()[-1]))

    def struck(self, moment: str, tree: bool) -> Kill:
        """Start a run that is killed at a named moment, look at what it left, and run again."""
        begin = time.monotonic()
        code = self.start(moment, "tree" if tree else "alone").wait(SECONDS)
        after = time.monotonic() - begin
        if code != -signal.SIGKILL:
            raise AssertionError("\n".join([f"{moment}: not struck, the run ended with {code}", *self.shown()[-20:]]))
        return Kill(moment, after, tree, False, self.made_good(moment))

    def shown(self) -> list[str]:
        """Lines that the last run has shown."""
        text = self.err.read_text(encoding="utf-8", errors="replace").strip()
        return text.splitlines() or ["nothing shown yet"]

    def made_good(self, moment: str) -> str:
        """Run again after a kill; the status. Raises AssertionError with all that was found, at a flaw."""
        shown, before = self.shown(), self.champion()
        outcome = self.whole()
        if flaws := self.flaws(outcome, before):
            facts = [f"outcome {outcome}", f"champion before {before}, now {self.champion()}", *self.registered()]
            raise AssertionError("\n".join([f"{moment}: {', '.join(flaws)}", *facts, "the killed run:", *shown[-20:]]))
        return str(outcome["status"])

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

    def flaws(self, outcome: Outcome, before: int | None) -> list[str]:
        """What does not hold after the run that follows a kill. before: the champion that the killed run left."""
        now, version = self.champion(), outcome["version"]
        rows = ModelStore(self.uri).versions("tiny")
        tags = next((row["tags"] for row in rows if row["version"] == version), {})
        keys = [(row["tags"]["run_key"], row["tags"]["bundle_digest"]) for row in rows]
        # A run that was killed when its candidate was settled leaves nothing to do: whichever way it was decided.
        right = {
            "champion": now == version,
            "candidate": now == before and tags.get("decision") == "keep",
            "unchanged": now == (before if tags.get("decision") == "keep" else version),
        }
        found = {
            f"{outcome['status']} version {version}, and champion {now}": right.get(outcome["status"], False),
            f"version {version} is not settled": "settled" in tags and "decision_reason" in tags,
            "one production was registered twice": len(set(keys)) == len(keys),
            f"champions {ModelStore(self.uri).champions('tiny')}": ModelStore(self.uri).champions("tiny")[-1].version
            == now,
            f"open MLflow runs {self.open_runs()}": self.open_runs() == [],
            f"processes left {self.left()}": self.left() == [],
        }
        return [what for what, holds in found.items() if not holds]

    def registered(self) -> list[str]:
        """Every version and what its tags say, for people."""
        return [
            f"version {row['version']} {row['aliases']} {row['tags']}" for row in ModelStore(self.uri).versions("tiny")
        ]

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


def kill_often(home: Path, backbone: Path, kills: int, seed: int) -> Iterator[Kill]:
    """So many kills, each told when it was made good: every named moment of registering as often as EACH says, half of
    them with the jobs, in an order that the seed gives, and then random moments. Raises AssertionError at the first
    flaw."""
    chance = random.Random(seed)
    victim = Victim(home, backbone)
    begin = time.monotonic()
    victim.whole()
    whole = time.monotonic() - begin
    named = [(moment, number % 2 == 0) for moment in MOMENTS for number in range(EACH)]
    chance.shuffle(named)
    for number in range(kills):
        victim.change(number + 1)
        if number < len(named):
            yield victim.struck(*named[number])
        else:
            yield victim.killed(chance.uniform(0.0, whole), tree=number % 2 == 0)
