"""Every command and every program that the documentation shows is run, page by page; `make test-docs`."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, run_page
from tests.docs.sandbox import ROOT, Sandbox

pytestmark = pytest.mark.docs


@pytest.fixture
def sandbox(tiny_backbone: Path) -> Iterator[Sandbox]:
    """Not in pytest's folder, which PostgreSQL's own user may not enter."""
    with tempfile.TemporaryDirectory(prefix="alter-docs-") as name:
        Path(name).chmod(0o711)
        made = Sandbox(Path(name), tiny_backbone)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_shows_works(page: str, sandbox: Sandbox, record_property: pytest.FixtureRequest) -> None:
    if page == "docs/tutorial.md" and not os.environ.get("ALTER_DATA_ROOT"):
        pytest.skip("the tutorial reads real rows: set ALTER_DATA_ROOT, see domains/assistant/README.md")
    ran, left = run_page(ROOT / page, sandbox)
    record_property("page", (page, ran, left))
