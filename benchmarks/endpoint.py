"""`alter endpoint` beside `mlflow models serve`: clients that each send one row after another.

    ALTER_HOME=FOLDER python benchmarks/endpoint.py DOMAIN... [--clients 16 64] [--seconds 60] [--moves 20]
                      [--steady 10000] [--out DIR]

It works on a copy of the workspace's registry, so that nothing moves there. Without DOMAIN, a random tiny model is
registered and asked. MLflow's server has the first domain's champion; the endpoint has all of them, and its clients
ask them in turn. Rows are those that were recorded of the champions at registration.

Measured: rows per second, and of the server's processor time, which leaves out what other programs take; the median and
99th percentile of a request's time, at each number of clients; the endpoint's rows a batch; its memory over `--steady`
requests; and, with the first number of clients at work, `--moves` moves of the first domain's alias between the
champion and a second version of the same bundle: requests lost, answers by a version that was neither, and seconds
until a move is seen in answers.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

from alter_core.workspace import Workspace
from flows.production.stores import model_name, model_store
from registry.models import CHAMPION, ModelStore
from registry.scorecard import own_scorecard
from tests.flows.server import free_port
from tests.registry.server import environment

TARGET = 5.0
TINY = "tiny"
START_SECONDS = 600.0
FOLLOW_SECONDS = 120.0
Row = tuple[str, dict[str, str]]
"""Domain, and task and input."""


@dataclass
class Load:
    """What clients met."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    """Versions that answered."""
    spent: float = 0.0
    processor: float = float("nan")
    """Seconds of the server's processes."""

    def told(self) -> dict[str, object]:
        times = sorted(self.seconds) or [float("nan")]
        return {
            "requests": len(self.seconds),
            "rows_per_second": round(len(self.seconds) / self.spent, 2),
            "rows_per_processor_second": round(len(self.seconds) / self.processor, 2),
            "p50_seconds": round(statistics.median(times), 3),
            "p99_seconds": round(times[min(len(times) - 1, int(0.99 * len(times)))], 3),
            "statuses": dict(self.statuses),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="*", metavar="DOMAIN")
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--steady", type=int, default=10_000, help="requests over which memory is watched")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alter-endpoint-") as folder:
        home = Path(folder)
        domains = [model_name(one) for one in given.domains] or [TINY]
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
        if given.domains:
            shutil.copytree(Workspace.default().home / "mlflow", home / "mlflow")
        else:
            make_tiny(home)
        os.environ["ALTER_HOME"] = str(home)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        store = model_store(Workspace(home))
        rows = [(name, row) for name in domains for row in recorded(store, name)]
        random.Random(0).shuffle(rows)
        found = measure(home, store, domains, rows, given)
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        (given.out / "endpoint.json").write_text(f"{text}\n", encoding="utf-8")


def measure(
    home: Path, store: ModelStore, domains: Sequence[str], rows: Sequence[Row], given: argparse.Namespace
) -> dict[str, object]:
    """All figures."""
    own = [row for row in rows if row[0] == domains[0]]
    uri = f"models:/{domains[0]}@{CHAMPION}"
    mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    found: dict[str, object] = {"domains": list(domains), "cores": os.cpu_count()}
    port = free_port()
    with serving([*mlflow, "--host", "127.0.0.1", "--port", str(port)], port, "/ping", home, store) as (url, process):
        load(url, own, given.clients[0], 5.0, "/invocations")
        theirs = {n: load(url, own, n, given.seconds, "/invocations", process=process) for n in given.clients}
    port = free_port()
    ours = [sys.executable, "-c", "from flows.cli.app import main; main()", "endpoint", *domains, "--port", str(port)]
    with serving(ours, port, "/ready", home, store) as (url, process):
        load(url, own, given.clients[0], 5.0)
        here = {n: load(url, rows, n, given.seconds, process=process) for n in given.clients}
        found["rows_a_batch"] = rows_a_batch(url)
        found["memory_mb"] = steady(url, process, rows, given.clients[0], given.steady)
        if given.moves:
            found["moves"] = moved(url, store, domains[0], own, given.clients[0], given.moves)
        found["memory_mb_after_moves"] = megabytes(process)
    for n in given.clients:
        sides = {"mlflow": theirs[n].told(), "endpoint": here[n].told()}
        ratio = len(here[n].seconds) / here[n].spent / max(len(theirs[n].seconds) / theirs[n].spent, 1e-9)
        found[f"{n} clients"] = {**sides, "times_as_many_rows": round(ratio, 1), "target": TARGET}
    return found


@contextmanager
def serving(
    command: Sequence[str], port: int, path: str, home: Path, store: ModelStore
) -> Iterator[tuple[str, psutil.Process]]:
    """A server, once `path` answers; stopped at the end."""
    more = {"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": "600", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "")}
    shell = {**environment(ALTER_HOME=str(home), MLFLOW_TRACKING_URI=store.tracking_uri), **more}
    if not more["OMP_NUM_THREADS"]:
        del shell["OMP_NUM_THREADS"]  # as a person would start it
    with (home / f"{port}.log").open("wb") as sink:
        server = subprocess.Popen(command, env=shell, stdout=sink, stderr=sink, start_new_session=True)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while True:
            with suppress(requests.RequestException):
                if requests.get(f"{url}{path}", timeout=5).ok:
                    break
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit((home / f"{port}.log").read_text(errors="replace")[-3000:])
            time.sleep(0.2)
        yield url, psutil.Process(server.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(120)


def load(
    url: str,
    rows: Sequence[Row],
    clients: int,
    seconds: float,
    path: str = "/{domain}/invocations",
    most: int | None = None,
    ended: threading.Event | None = None,
    process: psutil.Process | None = None,
) -> Load:
    """`clients` that send row after row for `seconds`, or until `most` requests were sent, or the event is set.

    process: the server's.
    """
    found, lock, stop = Load(), threading.Lock(), ended or threading.Event()
    begin, before = time.monotonic(), processor_seconds(process)

    def client(number: int) -> None:
        session = requests.Session()
        place = number
        while not stop.is_set() and time.monotonic() - begin < seconds and (most is None or len(found.seconds) < most):
            domain, row = rows[place % len(rows)]
            place += clients
            since = time.monotonic()
            try:
                reply = session.post(
                    url + path.format(domain=domain), json={"dataframe_records": [row]}, timeout=START_SECONDS
                )
                status, name = str(reply.status_code), reply.headers.get("X-Alter-Model", "")
            except requests.RequestException as error:
                status, name = type(error).__name__, ""
            with lock:
                found.seconds.append(time.monotonic() - since)
                found.statuses[status] += 1
                found.names[name] += 1

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.spent = time.monotonic() - begin
    found.processor = processor_seconds(process) - before
    print(f"{url}, {clients} clients: {found.told()}", file=sys.stderr, flush=True)
    return found


def processor_seconds(process: psutil.Process | None) -> float:
    """Of a process and those that it started; not a number without one."""
    if process is None:
        return float("nan")
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


def rows_a_batch(url: str) -> float:
    """Mean of all batches so far."""
    page = requests.get(f"{url}/metrics", timeout=60).text
    total, count = (float(re.findall(rf"^alter_batch_rows_{name} (.*)$", page, re.M)[0]) for name in ("sum", "count"))
    return round(total / count, 1)


def steady(url: str, process: psutil.Process, rows: Sequence[Row], clients: int, most: int) -> list[float]:
    """The server's memory before and after each tenth of `most` requests."""
    held = [megabytes(process)]
    for _ in range(10 if most else 0):
        load(url, rows, clients, START_SECONDS, most=most // 10)
        held.append(megabytes(process))
    return held


def megabytes(process: psutil.Process) -> float:
    return round(process.memory_info().rss / 1e6, 1)


def moved(url: str, store: ModelStore, domain: str, rows: Sequence[Row], clients: int, moves: int) -> dict[str, object]:
    """The alias moved between two versions while clients ask."""
    champion = store.get(domain, CHAMPION)["version"]
    twin = register_twin(store, domain)
    ended, loads = threading.Event(), []
    work = threading.Thread(target=lambda: loads.append(load(url, rows, clients, 1e9, ended=ended)), daemon=True)
    work.start()
    seconds = []
    for number in range(moves):
        to = twin if number % 2 == 0 else champion
        since = time.monotonic()
        store.client.set_registered_model_alias(domain, CHAMPION, str(to))
        while f'alter_version{{domain="{domain}"}} {float(to)}' not in requests.get(f"{url}/metrics", timeout=60).text:
            if time.monotonic() - since > FOLLOW_SECONDS:
                raise SystemExit(f"version {to} does not answer: {requests.get(f'{url}/ready', timeout=60).text}")
            time.sleep(0.05)
        seconds.append(time.monotonic() - since)
    ended.set()
    work.join()
    (found,) = loads
    known = {f"{domain}/{champion}", f"{domain}/{twin}"}
    return {
        "moves": moves,
        "seconds_to_follow": {"median": round(statistics.median(seconds), 2), "most": round(max(seconds), 2)},
        **{name: value for name, value in found.told().items() if name != "rows_per_processor_second"},
        "answered_by": dict(found.names),
        "lost": sum(count for status, count in found.statuses.items() if status != "200"),
        "by_neither": sum(count for name, count in found.names.items() if name not in known),
    }


def register_twin(store: ModelStore, domain: str) -> int:
    """A second version of the champion's bundle."""
    now = store.get(domain, CHAMPION)
    bundle, facts = store.bundle_path(domain, now["version"]), store.facts(domain, now["version"])
    return store.register(domain, now["run_id"], bundle, run_key="benchmark", card=now["description"], facts=facts)


def recorded(store: ModelStore, domain: str) -> list[dict[str, str]]:
    """Rows that were recorded of the champion."""
    cards = store.facts(domain, CHAMPION)["scorecards"]
    samples = own_scorecard(cards).get("samples", ())
    return [{"task": row["task"], "input": re.sub(r"\s+", " ", row["input"]).strip()} for row in samples]


def make_tiny(home: Path) -> None:
    """A workspace whose registry holds a champion of the tests' tiny domain."""
    from alter_core.inference.predict import Predictor
    from benchmarks.tiny import tiny_folder
    from registry.tracking import Tracker
    from tests.conftest import tiny_rows
    from tests.flows.serving.conftest import facts_of
    from tests.registry.conftest import make_bundle

    bundle = make_bundle(tiny_folder(home), home / "bundle")
    rows = [(task, row["input"]) for task, lines in tiny_rows().items() for row in lines[:20]]
    answers = Predictor.from_bundle(bundle).predict([task for task, _ in rows], [text for _, text in rows])
    samples = [
        {"task": task, "input": text, "prediction": answer.text, "score": answer.score}
        for (task, text), answer in zip(rows, answers, strict=True)
    ]
    (home / "mlflow").mkdir()
    store = ModelStore(f"sqlite:///{home}/mlflow/mlflow.db", home / "mlflow" / "artifacts")
    run = Tracker(store.tracking_uri, str(home / "mlflow" / "artifacts"), TINY).start_run(TINY, {}, {})
    version = store.register(TINY, run, bundle, run_key="tiny", card="# tiny", facts=facts_of(samples))
    store.set_champion(TINY, version, None)


if __name__ == "__main__":
    main()
