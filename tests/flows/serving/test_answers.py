"""What an endpoint answers: MLflow's forms and OpenAI's, and requests that nobody could answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow.pyfunc.scoring_server import init
from starlette.testclient import TestClient

from tests.flows.serving.conftest import ROWS, SECONDS, Running, running
from tests.registry.conftest import Store

RECORDS = [{"task": task, "input": text} for task, text in ROWS]
TASKS, INPUTS = ([row[name] for row in RECORDS] for name in ("task", "input"))
CSV = "task,input\n" + "".join(f'{task},"{text}"\n' for task, text in ROWS)
FORMS: list[tuple[str, str]] = [
    ("application/json", json.dumps({"dataframe_records": RECORDS})),
    (
        "application/json; charset=utf-8",
        json.dumps({"dataframe_split": {"columns": ["input", "task"], "data": [[t, n] for n, t in ROWS]}}),
    ),
    ("application/json", json.dumps({"instances": RECORDS})),
    ("application/json", json.dumps({"inputs": {"task": TASKS, "input": INPUTS}})),
    ("application/json", json.dumps({"inputs": RECORDS})),
    ("text/csv", CSV),
]


def post(server: Running, path: str, body: Any, kind: str = "application/json", **headers: str) -> requests.Response:
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return requests.post(f"{server.url}{path}", data=data, headers={"Content-Type": kind, **headers}, timeout=SECONDS)


@pytest.fixture(scope="module")
def mlflows(store: Store) -> Iterator[TestClient]:
    """MLflow's own server of the same version."""
    mlflow.set_tracking_uri(store.uri)
    try:
        yield TestClient(init(mlflow.pyfunc.load_model("models:/tiny/1")))
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(("kind", "body"), FORMS)
def test_whatever_mlflows_server_takes_gets_the_same_answer_here(
    server: Running, mlflows: TestClient, answers: dict[str, list[str]], kind: str, body: str
) -> None:
    theirs = mlflows.post("/invocations", content=body, headers={"Content-Type": kind}).json()["predictions"]
    reply = post(server, "/invocations", body, kind)
    ours = reply.json()["predictions"]
    assert [row["prediction"] for row in ours] == answers["tiny/1"]
    assert [row.pop("score") for row in ours] == pytest.approx([row.pop("score") for row in theirs], abs=1e-5)
    assert ours == theirs
    assert (reply.headers["X-Alter-Model"], reply.json()["model"]) == ("tiny/1", "tiny/1")


def test_what_has_no_effect_is_named_in_the_answer(server: Running) -> None:
    asked = {"dataframe_records": [{**RECORDS[0], "id": 7}], "params": {"temperature": 2}}
    assert post(server, "/invocations", asked).json()["ignored"] == ["params", "id"]


@pytest.mark.parametrize("content", [ROWS[0][1], [{"type": "text", "text": ROWS[0][1]}]])
def test_a_chat_completion_of_domain_and_task_is_the_tasks_answer(
    server: Running, answers: dict[str, list[str]], content: object
) -> None:
    asked = {"model": "tiny/colour", "messages": [{"role": "user", "content": content}], "temperature": 0, "n": 1}
    reply = post(server, "/v1/chat/completions", asked).json()
    (choice,) = reply["choices"]
    assert choice["message"] == {"role": "assistant", "content": answers["tiny/1"][0]}
    assert (reply["model"], reply["system_fingerprint"], reply["ignored"]) == ("tiny/colour", "tiny/1", ["temperature"])
    models = requests.get(f"{server.url}/v1/models", timeout=SECONDS).json()["data"]
    assert [model["id"] for model in models] == ["tiny/colour", "tiny/match", "tiny/thing"]


ROW = {"task": "colour", "input": "the red ball"}
CHAT = {"model": "tiny/colour", "messages": [{"role": "user", "content": "the red ball"}]}
RECORDS_FORM = "dataframe_records"
BAD: list[tuple[str, Any, int, str]] = [
    ("/invocations", "{not json", 400, "no JSON"),
    ("/invocations", b"\xff\xfe", 400, "no JSON"),
    ("/invocations", "", 400, "no JSON"),
    ("/invocations", [ROW], 400, "must be a JSON object, got a list"),
    ("/invocations", {}, 400, "exactly one of"),
    ("/invocations", {"rows": [ROW]}, 400, "got 'rows'"),
    ("/invocations", {RECORDS_FORM: [ROW], "instances": [ROW]}, 400, "exactly one of"),
    ("/invocations", {RECORDS_FORM: ROW}, 400, "must be a list of rows, got an object"),
    ("/invocations", {RECORDS_FORM: []}, 400, "there are no rows"),
    ("/invocations", {RECORDS_FORM: [ROW, "the red ball"]}, 400, "row 1: must be an object"),
    ("/invocations", {RECORDS_FORM: [ROW, {"task": "colour"}]}, 400, "row 1: input is missing"),
    ("/invocations", {RECORDS_FORM: [{"input": "x"}, ROW]}, 400, "row 0: task is missing"),
    ("/invocations", {RECORDS_FORM: [ROW, {**ROW, "input": None}]}, 400, "row 1: input must be a text, got null"),
    ("/invocations", {RECORDS_FORM: [ROW, {**ROW, "input": 3}]}, 400, "row 1: input must be a text, got the number"),
    ("/invocations", {RECORDS_FORM: [ROW, {**ROW, "input": ["x"]}]}, 400, "row 1: input must be a text, got a list"),
    ("/invocations", {RECORDS_FORM: [ROW, {**ROW, "input": " \n"}]}, 400, "row 1: input is empty"),
    ("/invocations", {RECORDS_FORM: [ROW, {**ROW, "input": "x" * 1_000_001}]}, 400, "row 1: input has 1,000,001"),
    ("/invocations", {RECORDS_FORM: [ROW, {**ROW, "task": "color"}]}, 400, "row 1: tiny has no task 'color'"),
    ("/invocations", {RECORDS_FORM: [{**ROW, "task": 1}, ROW]}, 400, "row 0: task must be a text"),
    ("/invocations", {RECORDS_FORM: [ROW] * 10_001}, 413, "10,001 rows in one request"),
    ("/invocations", b" " * (16 * 2**20 + 1), 413, "the body is over"),
    ("/invocations", {"dataframe_split": {"columns": ["task", "input"], "data": []}}, 400, "there are no rows"),
    ("/invocations", {"dataframe_split": {"columns": ["task", "input"], "data": [["colour"]]}}, 400, "row 0: must be"),
    ("/invocations", {"dataframe_split": [["colour", "x"]]}, 400, "the lists columns and data"),
    ("/invocations", {"inputs": {"task": ["colour"], "input": ["x", "y"]}}, 400, "1 tasks and 2 inputs"),
    ("/invocations", {"inputs": {"task": ["colour"]}}, 400, "lacks 'input'"),
    ("/nothing/invocations", {RECORDS_FORM: [ROW]}, 404, "there is no domain 'nothing' here, but tiny"),
    ("/v1/chat/completions", {**CHAT, "model": "gpt-4"}, 400, "model must be DOMAIN/TASK"),
    ("/v1/chat/completions", {**CHAT, "model": "nothing/colour"}, 404, "there is no domain 'nothing'"),
    ("/v1/chat/completions", {**CHAT, "model": "tiny/color"}, 400, "tiny has no task 'color'"),
    ("/v1/chat/completions", {**CHAT, "messages": CHAT["messages"] * 2}, 400, "must hold one message"),
    ("/v1/chat/completions", {**CHAT, "messages": [{"role": "system", "content": "x"}]}, 400, "role must be 'user'"),
    ("/v1/chat/completions", {**CHAT, "stream": True, "tools": [{}]}, 400, "tools is not supported"),
]


@pytest.mark.parametrize(("path", "body", "status", "said"), BAD)
def test_a_bad_request_is_refused_with_the_row_named_and_the_server_lives(
    server: Running, path: str, body: Any, status: int, said: str
) -> None:
    reply = post(server, path, body)
    assert reply.status_code == status
    told = reply.json()
    message = told["error"]["message"] if path.startswith("/v1/") else told["message"]
    assert said in message
    assert len(message) < 3000
    assert server.ask(ROWS[:1]).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "", "application/json; charset=latin-1", "application/octet-stream"])
def test_another_content_type_is_refused(server: Running, kind: str) -> None:
    assert post(server, "/invocations", {RECORDS_FORM: [ROW]}, kind).status_code == 415


@pytest.mark.parametrize(
    ("body", "said"),
    [("task,input\ncolour,x,y\n", "row 0: has more cells"), ("task,input\ncolour\n", "row 0: input"), ("", "no rows")],
)
def test_a_bad_csv_is_refused_with_the_row_named(server: Running, body: str, said: str) -> None:
    reply = post(server, "/invocations", body, "text/csv")
    assert (reply.status_code, said in reply.json()["message"]) == (400, True), reply.text


def test_all_wrong_rows_are_told_at_once_and_a_long_list_is_cut(server: Running) -> None:
    reply = post(server, "/invocations", {RECORDS_FORM: [{"task": "color", "input": ""}] * 100})
    assert "row 0: input is empty; row 0: tiny has no task 'color'; row 1" in reply.json()["message"]
    assert "and 180 more" in reply.json()["message"]


def test_several_domains_are_asked_by_their_paths(
    home: Path, store: Store, other_bundle: Path, answers: dict[str, list[str]]
) -> None:
    store.models.set_champion("other", store.register(other_bundle, "key", domain="other"), None)
    with running(home, "tiny", "other") as both:
        assert "ask one of /tiny/invocations, /other/invocations" in both.ask(ROWS).json()["message"]
        for name, version in (("tiny", "tiny/1"), ("other", "tiny/2")):
            reply = both.ask(ROWS, f"/{name}/invocations")
            assert [row["prediction"] for row in reply.json()["predictions"]] == answers[version]
            assert reply.headers["X-Alter-Model"] == f"{name}/1"
            assert requests.get(f"{both.url}/{name}/ping", timeout=SECONDS).status_code == 200


def test_the_probes_and_the_metrics_tell_what_answers(server: Running, answers: dict[str, list[str]]) -> None:
    server.ask(ROWS)
    requests.get(f"{server.url}/any/ping", timeout=SECONDS)
    pages = {path: requests.get(f"{server.url}{path}", timeout=SECONDS) for path in ("/ping", "/health", "/ready")}
    assert {reply.status_code for reply in pages.values()} == {200}
    assert pages["/ready"].json() == {"ready": True, "domains": {"tiny": {"version": 1, "trouble": None}}}
    metrics = requests.get(f"{server.url}/metrics", timeout=SECONDS).text
    assert 'alter_version{domain="tiny"} 1.0' in metrics
    assert f'alter_answers_total{{domain="tiny",label="{answers["tiny/1"][0]}",task="colour"}}' in metrics
    assert 'alter_answers_total{domain="tiny",label="",task="thing"}' in metrics  # free text is no label
    assert 'alter_abstained_total{domain="tiny",task="colour"}' in metrics  # its bound is above what it is sure of
    assert 'alter_requests_total{path="/DOMAIN/ping",status="404"}' in metrics


def test_a_token_is_asked_of_all_but_probes(home: Path) -> None:
    with running(home, token="a-secret") as guarded:
        for headers in ({}, {"Authorization": "Bearer a-secre"}, {"Authorization": "Basic a-secret"}):
            reply = guarded.ask(ROWS[:1], headers=headers)
            assert (reply.status_code, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert requests.get(f"{guarded.url}/metrics", headers=headers, timeout=SECONDS).status_code == 401
            assert requests.get(f"{guarded.url}/ready", headers=headers, timeout=SECONDS).json() == {"ready": True}
        known = {"Authorization": "Bearer a-secret"}
        assert guarded.ask(ROWS[:1], headers=known).status_code == 200
        assert "domains" in requests.get(f"{guarded.url}/ready", headers=known, timeout=SECONDS).json()
