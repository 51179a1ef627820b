"""An endpoint under load: many requests in one batch, limits, a champion that moves, an end that loses nothing."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from alter_core.inference.decoding import Decoder
from alter_core.inference.predict import Predictor
from alter_core.mta.replicas import MOST
from flows.serving import champions
from flows.serving.batching import Arrivals, Batcher, Part, Turn
from flows.serving.metrics import Metrics
from tests.command_line import caller
from tests.flows.serving.conftest import ROWS, SECONDS, Running, facts_of, running, until
from tests.registry.conftest import Store
from tests.registry.server import environment

WAITING = "alter_waiting_rows"
BATCHES = "alter_batch_rows_count"


def in_order(reply: requests.Response) -> list[str]:
    return [row["prediction"] for row in reply.json()["predictions"]]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


def test_rows_of_all_tasks_and_requests_are_answered_in_one_batch(
    home: Path, pool: ThreadPoolExecutor, answers: dict[str, list[str]]
) -> None:
    with running(home) as one:
        with one.endpoint.batcher.turn:  # a model computes
            others = [pool.submit(one.ask, [row]) for row in ROWS]
            until(lambda: one.metric(WAITING) == len(ROWS))
        assert [in_order(other.result())[0] for other in others] == answers["tiny/1"]
        assert one.metric("alter_batch_rows_sum") == len(ROWS)
        assert one.metric(BATCHES) <= MOST  # one for each share of the threads


def test_a_request_of_many_rows_holds_up_no_small_one(home: Path, pool: ThreadPoolExecutor) -> None:
    with running(home, batch_rows=8) as one:
        with one.endpoint.batcher.turn:
            large = pool.submit(one.ask, ROWS * 20)
            until(lambda: one.metric(WAITING) == 20 * len(ROWS))
            small = pool.submit(one.ask, ROWS[:1])
            until(lambda: one.metric(WAITING) == 20 * len(ROWS) + 1)
        assert small.result().status_code == 200
        assert not large.done()
        assert len(in_order(large.result())) == 20 * len(ROWS)


def test_beyond_what_may_wait_requests_get_429_and_the_others_their_answers(
    home: Path, pool: ThreadPoolExecutor
) -> None:
    with running(home, queue_rows=len(ROWS)) as one:
        with one.endpoint.batcher.turn:
            waits = pool.submit(one.ask, ROWS)
            until(lambda: one.metric(WAITING) == len(ROWS))
            refused = one.ask(ROWS[:1])
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
            assert refused.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
        assert len(in_order(waits.result())) == len(ROWS)
        assert one.ask(ROWS[:1]).status_code == 200


def test_bodies_that_are_held_are_bounded_too(home: Path, pool: ThreadPoolExecutor) -> None:
    body = [(ROWS[0][0], "red " * 200)]
    with running(home, body_bytes=1000) as one, one.endpoint.batcher.turn:
        held = [pool.submit(one.ask, body) for _ in range(4)]
        until(lambda: one.metric(WAITING) == 4)
        assert one.ask(body).status_code == 429
        assert not any(each.done() for each in held)


def test_a_request_out_of_time_gets_504_and_its_rows_are_not_computed(home: Path, pool: ThreadPoolExecutor) -> None:
    with running(home, seconds=1.0) as one:
        with one.endpoint.batcher.turn:
            late = one.ask(ROWS)
            assert (late.status_code, late.json()["error_code"]) == (504, "DEADLINE_EXCEEDED")
        assert one.ask(ROWS[:1]).status_code == 200
        assert one.metric("alter_batch_rows_sum") == 1


def fails_to_read(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    real = predictor.plan

    def plan(tasks: list[str], inputs: list[str]) -> Any:
        if "boom" in inputs:
            raise RuntimeError("out of memory")
        return real(tasks, inputs)

    monkeypatch.setattr(predictor, "plan", plan)


def fails_to_compute(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    real, [boom] = Decoder.reading, predictor.plan(["colour"], ["boom"]).requests

    def reading(decoder: Decoder, asked: Any, trunk: Any) -> Any:
        if boom.prompt in [one.prompt for one in asked]:
            raise RuntimeError("out of memory")
        return real(decoder, asked, trunk)

    monkeypatch.setattr(Decoder, "reading", reading)


@pytest.mark.parametrize("fails", [fails_to_read, fails_to_compute])
def test_rows_that_the_model_fails_on_fail_nobody_elses(
    home: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, fails: Any
) -> None:
    with running(home) as one:
        fails(one.endpoint.champions.serving("tiny").predictor, monkeypatch)
        with one.endpoint.batcher.turn:
            asked = [pool.submit(one.ask, [row]) for row in [*ROWS[:3], ("colour", "boom"), *ROWS[3:6]]]
            until(lambda: one.metric(WAITING) == len(asked))
        assert [each.result().status_code for each in asked] == [200, 200, 200, 500, 200, 200, 200]
        assert "out of memory" not in asked[3].result().text
        assert one.ask(ROWS).status_code == 200


def test_whoever_asks_for_the_models_turn_gets_it_under_load(home: Path) -> None:
    ended = threading.Event()

    def client(one: Running) -> None:
        while not ended.is_set():
            one.ask(ROWS)

    with running(home) as one:
        clients = [threading.Thread(target=client, args=(one,)) for _ in range(4)]
        for each in clients:
            each.start()
        try:
            for count in range(5):
                until(lambda count=count: one.metric(BATCHES) > count)  # type: ignore[misc]
                with one.endpoint.batcher.turn:  # or this would wait until the clients have ended
                    pass
        finally:
            ended.set()
            for each in clients:
                each.join(SECONDS)


class Queue:
    """A batcher's, to which a row comes just as nothing is left."""

    def __init__(self) -> None:
        self.changed, self.turn, self._comes = threading.Condition(), Turn(), False

    def next(self, _served: Any, _shares: int, writes: list[int], _begins: bool) -> list[Any]:
        comes, self._comes = self._comes, sum(writes) == 0
        return [Part(None, range(1))] if comes else []  # type: ignore[arg-type]


def test_no_share_of_the_threads_goes_on_where_another_has_ended(pool: ThreadPoolExecutor) -> None:
    """It would have half of the cores to itself until the load ends."""
    rows = Arrivals(Queue(), None)  # type: ignore[arg-type]
    rows.take(1, 2, 3)
    waits = pool.submit(rows.take, 0, 2, 0)
    until(waits.running)
    assert rows.take(1, 2, 0) is None
    assert waits.result(SECONDS) is None


def test_every_share_has_its_part_of_a_batch_where_two_versions_are_asked_for_in_turn() -> None:
    """Clients of two domains: the first share would have left those of the other domain at the head."""
    begun, ended = threading.Event(), threading.Event()

    def compute(_rows: Any) -> None:
        begun.set()
        ended.wait()

    def served(domain: str) -> Any:
        return SimpleNamespace(
            domain=domain, predictor=SimpleNamespace(stream=compute, plan=lambda *_: SimpleNamespace(requests=[None]))
        )

    batcher = Batcher(Metrics(), queue_rows=100, batch_rows=100, gather_seconds=0.0)
    asked = [batcher.submit(served("busy"), ["t"], ["x"])]
    assert begun.wait(SECONDS)
    asked[0].cancel()
    one, two = served("one"), served("two")
    asked += [batcher.submit(version, ["t"], ["x"]) for version in (one, two) * 8]
    try:
        rows, taken = Arrivals(batcher, one), list[Any]()
        for share in range(2):
            take = threading.Thread(target=lambda share=share: taken.append(rows.take(share, 2, 0)), daemon=True)
            take.start()
            take.join(SECONDS)
        assert [len(found or ()) for found in taken] == [4, 4]
        asked += [batcher.submit(one, ["t"], ["x"])]
        assert rows.take(0, 2, 4) == []  # the other has waited longer
    finally:
        for each in asked:
            each.cancel()
        ended.set()
        batcher.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Champions are looked for at once."""
    monkeypatch.setattr(champions, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(champions, "AGAIN_SECONDS", 0.0)


def move(store: Store, version: int) -> None:
    now = store.models.alias("tiny", "champion")
    store.models.set_champion("tiny", version, now and now["version"])


@pytest.mark.usefixtures("quick")
def test_a_champion_that_moves_under_load_loses_no_request_and_mixes_no_answer(
    home: Path, store: Store, answers: dict[str, list[str]]
) -> None:
    ended, wrong, seen = threading.Event(), [], []

    def client(one: Running) -> None:
        while not ended.is_set():
            reply = one.ask(ROWS)
            name = reply.headers.get("X-Alter-Model", "")
            if reply.status_code != 200 or in_order(reply) != answers.get(name) or reply.json()["model"] != name:
                wrong.append(reply.text)
            seen.append(name)

    with running(home) as one:
        first = weakref.ref(one.endpoint.champions.serving("tiny").predictor)
        clients = [threading.Thread(target=client, args=(one,)) for _ in range(4)]
        for each in clients:
            each.start()
        try:
            for version in (2, 1) * 2:
                if version == 1:
                    assert store.models.rollback("tiny") == (2, 1)
                else:
                    move(store, 2)
                begun = len(seen)
                until(lambda name=f"tiny/{version}", begun=begun: name in seen[begun:])  # type: ignore[misc]
        finally:
            ended.set()
            for each in clients:
                each.join(SECONDS)
        until(lambda: first() is None)  # memory holds one version, not all that there were
        assert wrong == []
        assert set(seen) == set(answers)
        assert one.metric('alter_version_changes_total{domain="tiny"}') == 1 + 4
        assert one.metric('alter_requests_total{path="/invocations",status="200"}') == len(seen)


def altered(store: Store, bundle: Path, tmp_path: Path) -> int:
    """A version of which a part was altered after it was registered."""
    version = store.register(bundle, f"altered {tmp_path}")
    weights = store.models.bundle_path("tiny", version) / "mta.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    return version


def other_answers(store: Store, bundle: Path, tmp_path: Path) -> int:
    """A version that does not answer as was recorded when it was registered."""
    sample = {"task": "colour", "input": ROWS[0][1], "prediction": "purple", "score": 0.9}
    return store.register(bundle, f"wrong {tmp_path}", facts=facts_of([sample]))


def many_other_answers(store: Store, bundle: Path, tmp_path: Path) -> int:
    """A version that answers four of its ten recorded rows otherwise."""
    return store.register(bundle, f"four {tmp_path}", facts=facts_of(wrong_of_ten(bundle, 4)))


def wrong_of_ten(bundle: Path, wrong: int) -> list[Any]:
    rows = ROWS * 10
    found = Predictor.from_bundle(bundle).predict([task for task, _ in rows[:10]], [text for _, text in rows[:10]])
    samples: list[Any] = [
        {"task": task, "input": text, "prediction": answer.text, "score": answer.score}
        for (task, text), answer in zip(rows, found, strict=False)
    ]
    return [{**row, "prediction": "purple"} for row in samples[:wrong]] + samples[wrong:]


def removed(store: Store, bundle: Path, tmp_path: Path) -> int:
    """A version whose files are gone."""
    version = store.register(bundle, f"removed {tmp_path}")
    shutil.rmtree(store.models.bundle_path("tiny", version))
    return version


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (altered, "altered"),
        (other_answers, "does not repeat its recorded predictions"),
        (many_other_answers, "4 of 10 answers"),
        (removed, "is not at"),
    ],
)
def test_a_version_that_cannot_be_loaded_leaves_the_old_one_answering_and_is_told(
    home: Path,
    store: Store,
    bundle: Path,
    tmp_path: Path,
    answers: dict[str, list[str]],
    caplog: pytest.LogCaptureFixture,
    made: Any,
    said: str,
) -> None:
    version = made(store, bundle, tmp_path)
    with running(home) as one:
        move(store, version)
        try:
            until(lambda: one.metric('alter_trouble{domain="tiny"}') == 1)
            reply = one.ask(ROWS)
            assert (in_order(reply), reply.headers["X-Alter-Model"]) == (answers["tiny/1"], "tiny/1")
            ready = requests.get(f"{one.url}/ready", timeout=SECONDS)
            told = ready.json()["domains"]["tiny"]
            assert (ready.status_code, told["version"]) == (200, 1)
            assert "tiny/1 goes on answering" in told["trouble"]
            assert said in told["trouble"]
            assert said in caplog.text
        finally:
            store.models.rollback("tiny")
        until(lambda: one.metric('alter_trouble{domain="tiny"}') == 0)


@pytest.mark.usefixtures("quick")
def test_a_version_that_repeats_most_of_its_rows_is_served_and_the_others_are_told(
    home: Path, store: Store, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = store.register(bundle, f"rounding {tmp_path}", facts=facts_of(wrong_of_ten(bundle, 1)))
    with running(home) as one:
        move(store, version)
        try:
            until(lambda: one.ask(ROWS).headers["X-Alter-Model"] == f"tiny/{version}")
            assert "answers 1 of 10 recorded rows otherwise" in caplog.text
        finally:
            store.models.rollback("tiny")


def started(home: Path, tmp_path: Path, *options: str) -> tuple["subprocess.Popen[str]", str]:
    """`alter endpoint tiny` as a process, and its address once it answers."""
    log = tmp_path / "log.txt"
    with log.open("w") as sink:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from flows.cli.app import main; main()",
                "endpoint",
                "tiny",
                "--port",
                "0",
                *options,
            ],
            env=environment(ALTER_HOME=str(home)),
            stdout=sink,
            stderr=sink,
            text=True,
        )

    def address() -> str:
        assert process.poll() is None, log.read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        with suppress(requests.ConnectionError):
            return found[0] if found and requests.get(f"{found[0]}/ready", timeout=SECONDS).ok else ""
        return ""

    until(address)
    return process, address()


def test_sigterm_lets_what_was_taken_in_be_answered(home: Path, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    process, url = started(home, tmp_path, "--batch-rows", "8", "--log", str(tmp_path / "requests"))
    try:
        one = Running(None, url)  # type: ignore[arg-type]
        long = pool.submit(one.ask, ROWS * 20)
        until(lambda: "alter_batch_rows_count 0" not in requests.get(f"{url}/metrics", timeout=SECONDS).text)
        process.send_signal(signal.SIGTERM)
        assert len(in_order(long.result())) == 20 * len(ROWS)
        assert process.wait(SECONDS) == 143
        with pytest.raises(requests.ConnectionError):
            one.ask(ROWS)
    finally:
        process.kill()
        process.wait()
    (file,) = (tmp_path / "requests").glob("*.jsonl")
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 20 * len(ROWS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tiny", "--host", "0.0.0.0"), "set ALTER_ENDPOINT_TOKEN"),
        (("tiny", "nothing", "absent"), "no version of 'nothing' is registered"),
        (("tiny", "--port", "{taken}"), "cannot listen on 127.0.0.1:"),
    ],
)
def test_what_cannot_be_served_is_told_before_anything_listens(
    server: Running,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setenv("ALTER_HOME", str(home))
    monkeypatch.delenv("ALTER_ENDPOINT_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    taken = server.url.rpartition(":")[2]
    port = () if "--port" in words else ("--port", "0")
    given = [word.format(taken=taken) for word in (*words, *port)]
    code, _, err = caller(monkeypatch, capsys)("endpoint", *given)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
