"""The reference is what its generator makes of the code, and its examples are specs that can be read."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from alter_core.spec.load import load_domain

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (FOLDER / "spec.md").read_text(encoding="utf-8"), re.S)
SMALLEST = EXAMPLES[0]


def test_the_pages_are_what_the_code_says_now() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "reference.py"))["pages"]()
    kept = {name: (FOLDER / name).read_text(encoding="utf-8") for name in pages}
    stale = [f"docs/reference/{name}" for name, text in pages.items() if kept[name] != text]
    assert not stale, f"{', '.join(stale)}: the code has changed since; run `make docs` and commit the pages"


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_makes_the_smallest_spec_another_good_one(tmp_path: Path, example: str) -> None:
    file = tmp_path / "domain.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(SMALLEST) | yaml.safe_load(example)), encoding="utf-8")
    load_domain(file)
