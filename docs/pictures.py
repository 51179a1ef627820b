"""Take the pictures of docs/images that show approval, news, freshness and costs: on real servers, of a tiny domain.

    python docs/pictures.py        # needs Chromium; some minutes

Terminal pictures are SVG by rich, of what the commands wrote; pages are Chromium's, of Prefect's and MLflow's own UI.
"""

import io
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.text import Text

from benchmarks.tiny import tiny_folder
from tests.conftest import tiny_rows, tiny_spec, write_domain
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
            place = f"sqlite:///{home}/alter/mlflow/mlflow.db"
            (folder / "ui").mkdir()
            with browser(program, folder / "profile") as page:
                page.size(1400, 900)
                page.open(f"{works.url.removesuffix('/api')}/events?resource=alter.domain.tickets")
                page.wait_for("alter.waiting", "alter.champion")
                page.screenshot(IMAGES / "news.png")
                with serving(folder / "ui", "/health", "server", "--backend-store-uri", place) as address:
                    look(page, f"{address}/#/models/tickets/versions/2", "review", "Waits for approval")


def shell(works: Factory, *arguments: str) -> str:
    """What a command of `alter` writes to a terminal. Ends this program where the command fails."""
    done = works.alter(*arguments, FORCE_COLOR="1", COLUMNS=str(COLUMNS), ALTER_RATE_PER_HOUR="0.40 EUR")
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


def look(page: Page, address: str, name: str, *texts: str) -> None:
    page.open(address)
    page.wait_for(*texts)
    page.screenshot(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
