"""Commands that answer with a registered model: one text or a file of rows, and champions over HTTP."""

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


@app.command()
def endpoint(
    domains: Annotated[list[str], typer.Argument(metavar="DOMAIN", help="Whose champions answer.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback, ALTER_ENDPOINT_TOKEN must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    batch_rows: Annotated[int, typer.Option(min=1, help="Most rows of a batch.")] = 64,
    queue_rows: Annotated[
        int, typer.Option(min=1, help="Most rows that wait; a request beyond them gets status 429.")
    ] = 10_000,
    max_rows: Annotated[int, typer.Option(min=1, help="Most rows of a request.")] = 10_000,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Most MiB of a request.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time limit of a request.")] = 60.0,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep what is asked and answered there, as JSONL; unset: nothing is kept."),
    ] = None,
    log_megabytes: Annotated[int, typer.Option(min=1, help="Most MiB of that log; the oldest rows go first.")] = 100,
    log_days: Annotated[float, typer.Option(min=0.01, help="Days after which rows of that log go.")] = 30.0,
) -> None:
    """Answer over HTTP with domains' champions, rows of all requests in one batch, until SIGTERM or Ctrl-C; a promotion
    or rollback is followed within seconds.
    """
    from flows.serving.app import Limits
    from flows.serving.request_log import RequestLog
    from flows.serving.server import serve

    limits = Limits(max_megabytes * 2**20, max_rows, queue_rows, batch_rows, seconds)
    serve(domains, host, port, limits, RequestLog(log, log_megabytes * 2**20, log_days) if log else None)


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
    if prediction.abstain:
        typer.echo(f"note: the score, {prediction.score:.3f}, is below the bound at which the task abstains", err=True)
    if as_json:
        said = {"prediction": prediction.text, "score": prediction.score, "abstain": prediction.abstain}
        typer.echo(json.dumps(said))
    else:
        typer.echo(prediction.text)


def _file(domain: str, version: str, task: str | None, source: Path, target: Path, quiet: bool, as_json: bool) -> None:
    from alter_core.inference.answer_file import AnswerFile
    from alter_core.problems import counted
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
    typer.echo(f"wrote {target}: {counted(ended.rows, 'row')} in {ended.seconds:.0f} s{cut}")
