"""What programs hear of versions. That it reaches a server, `deployments/test_unattended.py` shows."""

import logging
from pathlib import Path
from typing import Any

import pytest
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import news, publish
from tests.flows.conftest import Produce
from tests.flows.server import free_port
from tests.registry.conftest import Store
from tests.registry.facts import card_facts

Sent = list[tuple[str, dict[str, str], dict[str, Any]]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Events that are given to Prefect: name, resource, payload."""
    given: Sent = []
    monkeypatch.setattr(news, "emit_event", lambda event, resource, payload: given.append((event, resource, payload)))
    return given


@pytest.mark.parametrize(("decision", "kind"), [("promote", "champion"), ("keep", "candidate"), ("review", "waiting")])
def test_what_was_decided_of_a_version_is_an_event_of_its_domain(
    decision: str,
    kind: str,
    store: Store,
    parts: Path,
    production: Produce,
    outside_a_flow: None,
    sent: Sent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setattr(flow_run, "get_id", lambda: "of a run")
    monkeypatch.setattr(publish, "create_markdown_artifact", lambda *_, **__: None)
    store.register(parts, "key", facts=card_facts("tiny"))
    store.models.tag("tiny", 1, {"decision": decision, "decision_reason": "macro score +0.010"})
    publish.settle.fn(production(), 1)
    ((event, resource, payload),) = sent
    assert event == f"alter.{kind}"
    assert resource == {"prefect.resource.id": "alter.domain.tiny", "prefect.resource.name": "tiny"}
    assert payload == {"domain": "tiny", "text": "macro score +0.010", "version": 1}


def test_news_end_nothing_where_the_server_and_the_block_are_away_and_it_is_told(
    sent: Sent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALTER_NOTIFY_BLOCK", "custom-webhook/people")
    for name in ("news", "notify"):
        monkeypatch.setattr(f"flows.{name}.get_logger", logging.getLogger)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        news.tell("champion", "tiny", "text", 1)
    assert sent == []
    assert [record.name for record in caplog.records if record.name.startswith("flows")] == ["flows.news"]


def test_no_server_is_started_for_news(sent: Sent) -> None:
    with temporary_settings({PREFECT_API_URL: None}):
        news.tell("champion", "tiny", "text", 1)
    assert sent == []
