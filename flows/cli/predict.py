"""The command that answers with a registered model: one text, or a file of rows."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alter_core.errors import AlterError
from flows.cli.options import Domain, Json, Quiet

app = typer.Typer()


@app.command()
def predict(
    domain: Domain,
    text: Annotated[str | None, typer.Argument(metavar="TEXT|-", help="One input; - reads standard input.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Which of the domain's tasks; with --file, where rows do not say it.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="ROWS", help="JSONL, CSV or TSV with the columns task and input.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="ANSWERS", help="JSONL, CSV or TSV: the rows with prediction and score.")
    ] = None,
    version: Annotated[str, typer.Option(help="A version number or an alias.")] = "champion",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Answer with the registered model: one text of a task, or a file of rows (--file ROWS --out ANSWERS)."""
    if file is not None or out is not None:
        if text is not None or file is None or out is None:
            raise AlterError("for a file of rows give --file ROWS and --out ANSWERS, and no TEXT")
        return _file(domain, version, task, file, out, quiet, as_json)
    if text is None or task is None:
        raise AlterError("give --task TASK and TEXT (or - for standard input), or --file ROWS and --out ANSWERS")
    return _text(domain, version, task, _standard_input() if text == "-" else text, as_json)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise AlterError(f"standard input: byte {error.start + 1} is not UTF-8; convert it (iconv -t utf-8)") from None


def _text(domain: str, version: str, task: str, text: str, as_json: bool) -> None:
    from flows.production.stores import load_predictor

    prediction = load_predictor(domain, version).predict([task], [text])[0]
    if prediction.truncated:
        typer.echo("note: the input was longer than the task's max_input_tokens and was cut at its end", err=True)
    if as_json:
        typer.echo(json.dumps({"prediction": prediction.text, "score": prediction.score}))
    else:
        typer.echo(prediction.text)


def _file(domain: str, version: str, task: str | None, source: Path, target: Path, quiet: bool, as_json: bool) -> None:
    from alter_core.inference.answer_file import AnswerFile
    from flows.production.display import console_display
    from flows.production.stores import load_predictor

    rows = AnswerFile(source, target, task)
    rows.check_paths()  # before the model is loaded, which takes seconds
    predictor = load_predictor(domain, version)
    with console_display(quiet).shown() as display:
        ended = rows.answer(predictor, lambda done, total, **fields: display.update("predict", done, total, fields))
    for warning in ended.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        typer.echo(json.dumps({**asdict(ended), "file": str(target)}))
        return
    cut = f"; {ended.truncated:,} inputs were cut at their task's max_input_tokens" if ended.truncated else ""
    typer.echo(f"wrote {target}: {ended.rows:,} rows in {ended.seconds:.0f} s{cut}")
