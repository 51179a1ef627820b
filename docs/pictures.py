"""Take the pictures of docs/images that open the how-to pages: on real servers, of tiny domains.

    python docs/pictures.py        # needs Chromium; some minutes

Terminal pictures are SVG by rich, of what the commands wrote; pages are Chromium's, of Prefect's and MLflow's own UI.
"""

import io
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image
from rich.console import Console
from rich.text import Text

from benchmarks.tiny import tiny_folder
from tests.conftest import COLOURS, PLACES, THINGS, tiny_rows, tiny_spec, write_domain
from tests.flows.server import Factory, factory
from tests.registry.browser import Page, browser, find_chromium
from tests.registry.server import serving

IMAGES = Path(__file__).parent / "images"
COLUMNS = 120
ASKS = {
    "promotion": {"mode": "review", "wait": "14d"},
    "freshness": "14d",
    "trigger": {"every": "1h", "changed": 0.05},
}


def main() -> None:
    program = find_chromium()
    if program is None:
        sys.exit("no Chromium on PATH (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory(prefix="alter-pictures-") as scratch:
        folder = Path(scratch)
        spec = {**tiny_spec(tiny_folder(folder)), **ASKS, "name": "tickets"}
        rows = tiny_rows()
        home = folder / "works"
        home.mkdir()
        with factory(home) as works:
            file = str(write_domain(home / "tickets", spec, rows))
            shell(works, "run", file)
            shell(works, "promote", "tickets", "--reason", "read 50 of its answers")
            rows["colour"] = rows["colour"][: len(rows["colour"]) * 4 // 5]
            write_domain(home / "tickets", spec, rows)
            draw("watch", ["watch", file], shell(works, "watch", file))
            draw("status", ["status", file], shell(works, "status", file))
            draw("costs", ["status", file, "--costs"], shell(works, "status", file, "--costs"))
            sure = str(write_domain(home / "sure", unsure_spec(spec), unsure_rows()))
            signed = {"ALTER_SIGNING_KEY": signing_key(folder)}
            shell(works, "run", sure, **signed)
            shell(works, "report", sure, "--output", str(folder / "report.html"))
            place = f"sqlite:///{home}/alter/mlflow/mlflow.db"
            (folder / "ui").mkdir()
            with browser(program, folder / "profile") as page:
                page.size(1400, 900)
                page.open(f"{works.url.removesuffix('/api')}/events?resource=alter.domain.tickets")
                page.wait_for("alter.waiting", "alter.champion")
                page.screenshot(IMAGES / "news.png")
                scores = 'figure:has(img[alt^="Of answers with a score"])'
                page.size(700, 900)
                look(page, (folder / "report.html").as_uri(), "trust", "Scores as probabilities", part=scores)
                page.size(1400, 900)
                with serving(folder / "ui", "/health", "server", "--backend-store-uri", place) as address:
                    look(page, f"{address}/#/models/tickets/versions/2", "review", "Waits for approval")
                    look_at_bill(page, address, works)
    shrink("news", "trust", "review", "proof")


def shrink(*names: str) -> None:
    """Make pictures of pages a third as large, by a palette of 128 colours."""
    for name in names:
        file = IMAGES / f"{name}.png"
        Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)


def unsure_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """A domain of one task that trains for long enough to know what it knows."""
    stage = {"trains": ["backbone", "shared_adapters"], "active": "shared", "steps": 600, "rows_per_step": 32}
    task = {**spec["tasks"][0], "abstain_precision": 0.9, "licence": "CC0-1.0"}
    kept = {"name": "sure", "tasks": [task], "stage_one": {**stage, "learning_rate": 3e-3}, "stage_two": None}
    backbone = {**spec["backbone"], "licence": "Apache-2.0"}
    return {**spec, **kept, "promotion": {}, "backbone": backbone, "split": {"test": 0.3, "validation": 0.3}}


def unsure_rows() -> dict[str, list[dict[str, str]]]:
    """Texts of one colour, which is right, and of two, of which the first is right more often than not."""
    dice, rows = random.Random(0), []
    for thing in THINGS:
        for place in PLACES:
            for first in COLOURS:
                rows.append({"input": f"the {first} {thing} is in the {place}", "target": first})
                for second in (one for one in COLOURS if one != first):
                    target = first if dice.random() < 0.7 else second
                    rows.append({"input": f"the {first} {thing} is in the {second} {place}", "target": target})
    return {"colour": rows}


def signing_key(folder: Path) -> str:
    """A new private key; its file."""
    file = folder / "signing.pem"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(file)]
    subprocess.run(make, check=True)
    return str(file)


def shell(works: Factory, *arguments: str, **more: str) -> str:
    """What a command of `alter` writes to a terminal. Ends this program where the command fails."""
    setting = {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "ALTER_RATE_PER_HOUR": "0.40 EUR", **more}
    done = works.alter(*arguments, **setting)
    if done.returncode:
        sys.exit(f"alter {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def draw(name: str, command: list[str], written: str) -> None:
    """Keep a terminal with what a command wrote as NAME.svg, with the fonts that the reader has."""
    shown = " ".join("tickets" if word.endswith("domain.yaml") else word for word in command)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(f"$ alter {shown}\n{written}"))
    svg = console.export_svg(title="")
    (IMAGES / f"{name}.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


def look(page: Page, address: str, name: str, *texts: str, part: str = "") -> None:
    """Keep a page, or the part of it that a selector finds, as NAME.png once it holds the texts."""
    page.open(address)
    page.wait_for(*texts)
    page.screenshot(IMAGES / f"{name}.png", part)


def look_at_bill(page: Page, address: str, works: Factory) -> None:
    """Keep MLflow's page of the files of a version of `sure`, with its bill of materials open."""
    model = works.store.get("sure", 1)["tags"]["model_id"]
    experiment = works.store.client.get_logged_model(model).experiment_id
    page.open(f"{address}/#/experiments/{experiment}/models/{model}/artifacts")
    page.wait_for("bill.cdx.json", "MLflow Assistant")
    page.press("Close")
    for file, shows in {"artifacts": "bundle.sig", "bill.cdx.json": "CycloneDX"}.items():
        page.press(file)
        page.wait_for(shows)
    page.screenshot(IMAGES / "proof.png")


if __name__ == "__main__":
    main()
