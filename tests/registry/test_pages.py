"""What people see, in a real browser: MLflow's own UI on our store, and the HTML report.

ALTER_SCREENSHOTS=FOLDER keeps pictures of the pages. Without Chromium the tests are skipped and say so;
ALTER_NEED_BROWSER=1 makes that a failure.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.card import render_card
from registry.errors import AliasConflict
from registry.figures import figures_of
from registry.models import ModelStore
from registry.report import render_report
from registry.tracking import Tracker
from tests.registry.browser import Page, browser, find_chromium
from tests.registry.conftest import Store
from tests.registry.facts import card_facts
from tests.registry.server import serving

SCREENSHOTS = os.environ.get("ALTER_SCREENSHOTS")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = find_chromium()
    if program is None:
        missing = "no Chromium on PATH, so the pages were NOT looked at (Debian: apt-get install chromium)"
        pytest.fail(missing) if os.environ.get("ALTER_NEED_BROWSER") else pytest.skip(missing)
    with browser(program, tmp_path_factory.mktemp("profile")) as tab:
        tab.size(1400, 1000)
        yield tab


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Store:
    """Two domains and three versions, registered as a production does it."""
    folder = tmp_path_factory.mktemp("pages")
    store = Store(folder / "mlflow", empty_store)
    parts = folder / "bundle"
    parts.mkdir()
    (parts / "bundle.json").write_text("{}")
    for domain, level, key in (("support", 0.7, "one"), ("support", 0.75, "two"), ("notes", 0.6, "three")):
        facts = card_facts(domain, level)
        tracker = store.tracker(domain)
        run = tracker.start_run(f"{domain} {key}", {"mta": {"adapter": "lora"}, "seed": 3}, {"domain": domain})
        steps = [
            {"step": row["step"], "metrics": {"stage_one.loss": row["loss"]}} for row in facts["training"]["stage_one"]
        ]
        tracker.log_metrics(run, steps)
        tracker.log_dataset(run, domain, "0123456789abcdef", {"intent": {"train": 1234}}, "/data/support")
        for name, figure in figures_of(facts).items() if key == "two" else ():
            tracker.log_figure(run, figure, f"figures/{name}")
        samples = facts["scorecards"]["stage_two"]["samples"]
        tracker.log_table(run, {key: [row[key] for row in samples] for key in samples[0]}, "samples.json")
        version = store.models.register(
            domain,
            run,
            parts,
            run_key=key,
            card=render_card(facts),
            tags={"macro": f"{level + 0.05:.6f}", "data_digest": "0123456789abcdef", "quality": "warn"},
            metrics={"test.intent.accuracy": level, "macro": level + 0.05},
            description=f"What {domain} needs.",
            facts=facts,
        )
        tracker.end_run(run, "FINISHED")
        before = store.models.alias(domain, "champion")
        store.models.set_champion(domain, version, before and before["version"])
    return store


@pytest.fixture(scope="module")
def mlflow_ui(filled: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow server` on the filled store; its address."""
    command = ["server", "--backend-store-uri", filled.uri, "--workers", "1"]
    command += ["--artifacts-destination", str(filled.folder / "proxied")]
    with serving(tmp_path_factory.mktemp("ui"), "/health", *command) as address:
        yield address


@pytest.fixture(scope="module")
def report(filled: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts = filled.models.facts("support", "champion")
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render_report(facts, filled.models.versions("support"), 2), encoding="utf-8")
    return file


def shoot(page: Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(Path(SCREENSHOTS) / f"{name}.png")


def test_the_mlflow_ui_lists_both_domains_with_their_versions_and_aliases(page: Page, mlflow_ui: str) -> None:
    page.open(f"{mlflow_ui}/#/models")
    page.wait_for("support", "notes", "@ champion")
    shoot(page, "models")
    page.open(f"{mlflow_ui}/#/models/support")
    page.wait_for("What support needs.", "Version 1", "Version 2", "@ champion")
    shoot(page, "model")


def test_a_version_in_the_mlflow_ui_shows_its_card_as_a_page(page: Page, mlflow_ui: str) -> None:
    page.open(f"{mlflow_ui}/#/models/support/versions/2")
    text = page.wait_for("Scores on held-out rows", "Tasks and data", "zero-shot", "CC-BY-4.0", "data_digest")
    shoot(page, "version")
    assert "0.750" in text  # the score of a task, in the card's table
    assert page.run("document.querySelectorAll('table').length") >= 3  # rendered, not shown as source
    assert page.run("document.title") != "pwned"


def test_a_run_in_the_mlflow_ui_shows_parameters_data_and_its_model(page: Page, mlflow_ui: str, filled: Store) -> None:
    version = filled.models.get("support", "champion")
    experiment = filled.tracker("support").experiment_id
    page.open(f"{mlflow_ui}/#/experiments/{experiment}/runs/{version['run_id']}")
    page.wait_for("mta.adapter", "lora", "stage_one.loss", "test.intent.accuracy", "support", "Logged models (1)")
    shoot(page, "run")
    page.open(f"{mlflow_ui}/#/experiments/{experiment}/runs/{version['run_id']}/artifacts")
    page.wait_for("figures", "samples.json")
    shoot(page, "artifacts")


def test_a_server_registers_and_moves_aliases_as_the_embedded_store_does(
    mlflow_ui: str, tmp_path: Path, parts: Path
) -> None:
    """Two finishers at once on a server: each is compared with the champion that it meets, and neither is lost."""
    from concurrent.futures import ThreadPoolExecutor

    tracker, stores = (
        Tracker(mlflow_ui, None, "remote"),
        [ModelStore(mlflow_ui, downloads=tmp_path / "cache") for _ in range(3)],
    )

    def finish(number: int) -> int:
        run = tracker.start_run(f"remote {number}", {}, {})
        version = stores[number].register("remote", run, parts, run_key=f"k{number}", card="# remote")
        while True:
            before = stores[number].alias("remote", "champion")
            try:
                stores[number].set_champion("remote", version, before["version"] if before else None)
            except AliasConflict:
                continue  # somebody else was first: compare with that one
            return version

    with ThreadPoolExecutor(3) as pool:
        versions = list(pool.map(finish, range(3)))
    assert sorted(versions) == [1, 2, 3]
    store = stores[0]
    seen = [store.alias("remote", "champion")["version"]]
    while len(seen) < 3:
        seen.append(store.rollback("remote")[1])
    assert sorted(seen) == [1, 2, 3]  # every one of them was champion, in some order
    assert store.domains() == ["notes", "remote", "support"]  # the lock is no model
    fetched = store.bundle_path("remote", "champion")
    assert (fetched / "bundle.json").read_bytes() == (parts / "bundle.json").read_bytes()
    assert store.bundle_path("remote", "champion") == fetched


def test_the_report_shows_an_analyst_what_to_look_for_and_asks_the_network_for_nothing(
    page: Page, report: Path
) -> None:
    page.open(report.as_uri())
    text = page.wait_for("Made by ALTER Factory")
    for expected in ("version 2, champion", "0.800", "0.780 to 0.820", "macro score +0.021", "Sample answers", "warn"):
        assert expected in text, expected
    assert page.run("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
    assert page.run("document.images.length") >= 6
    assert page.run("document.querySelectorAll('#versions ~ .wide tbody tr').length") >= 2
    assert page.run(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )  # nothing sticks out
    assert page.console == []
    assert [address for address in page.requested if not address.startswith(("file:", "data:"))] == []
    page.size(1180, 6000)
    shoot(page, "report")
    page.size(400, 900)
    assert page.run(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )  # nor on a telephone
    shoot(page, "report-narrow")
    page.size(1400, 1000)


def test_text_from_rows_and_specs_stays_text_in_the_report(page: Page, report: Path) -> None:
    page.open(report.as_uri())
    text = page.wait_for("Made by ALTER Factory")
    assert "<script>document.title='pwned'</script>" in text
    assert page.run("document.title").startswith("support")
    assert page.run("document.scripts.length") == 0
    assert page.run("[...document.links].filter(link => !link.hash).length") == 0
