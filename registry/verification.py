"""Before a version may be promoted: a fresh process loads it by its URI and must repeat recorded predictions.

What it catches: a bundle that was not stored whole, code or requirements that the stored model lacks, and a model that
answers otherwise once it is out of the process that trained it.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from registry.errors import RegistryInputError, VerificationError
from registry.scorecard import Sample


@dataclass(frozen=True)
class Bounds:
    """How far answers may be from the recorded ones."""

    score: float
    """A score may differ by so much: rows lie in other batches than when it was recorded, and bf16 rounds."""
    different: float
    """So large a share of answers may differ in text: two nearly equal tokens can change places by that rounding."""


JUST_RECORDED = Bounds(score=0.02, different=0.05)
"""On the machine that recorded the answers, a moment ago."""
ELSEWHERE = Bounds(score=0.1, different=0.3)
"""With as many cores as there are, by any release: rows lie in other batches, which in bf16 was seen to change up to 5
of 25 answers, and scores by up to 0.03. Another adapter changes most of them."""
SHOWN = 5
SECONDS = 600.0
Verify = Callable[[str, int, Sequence[Sample]], dict[str, float]]
"""Takes a domain, its version and recorded samples, and gives how near the answers are; once."""


@contextmanager
def fresh_process(tracking_uri: str, imported: Sequence[str] = (), timeout: float = SECONDS) -> Iterator[Verify]:
    """A new Python process, and what has it verify one version; it is stopped at the end.

    Until it is told which, it imports what loading takes, `imported` too: most of its time, beside the caller's work.
    """
    with tempfile.TemporaryDirectory(prefix="alter-verify-") as folder:
        answer = Path(folder) / "answer.json"
        with subprocess.Popen(
            [sys.executable, "-m", "registry.verification", str(answer), *imported],
            # MLflow leaves what it downloads in the temporary folder: a whole model, each time.
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "TMPDIR": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield partial(_verified, process, answer, timeout)
            finally:
                process.kill()


def _verified(
    process: "subprocess.Popen[str]", answer: Path, timeout: float, domain: str, version: int, samples: Sequence[Sample]
) -> dict[str, float]:
    """Have the process load `models:/domain/version` and repeat `samples` (task, input, prediction, score).

    Gives {"rows", "different", "largest_score_difference", "seconds"}. Raises VerificationError with the first
    differing rows, or with the process's own words when it fails; RegistryInputError when there are no samples.
    """
    if not samples:
        raise RegistryInputError(
            f"{domain} version {version}: there are no recorded sample predictions to repeat: produce the domain again"
        )
    uri = f"models:/{domain}/{version}"
    rows = [{"task": row["task"], "input": row["input"]} for row in samples]
    try:
        _, said = process.communicate(json.dumps({"uri": uri, "rows": rows}), timeout)
    except subprocess.TimeoutExpired:
        raise VerificationError(
            f"{uri} gave no answer within {timeout:.0f} s in a fresh process, so it is not promoted; see that the "
            "machine has memory and time to spare, and run the domain again: nothing is trained twice"
        ) from None
    if process.returncode or not answer.exists():
        tail = [line for line in said.splitlines() if line.strip()][-SHOWN:]
        raise VerificationError(
            f"{uri} cannot be used in a fresh process (exit code {process.returncode}), so it is not promoted; mend "
            "what the process says, and run the domain again: nothing is trained twice",
            tail,
        )
    got = json.loads(answer.read_text(encoding="utf-8"))
    return compare_answers(uri, samples, got["answers"]) | {"seconds": got["seconds"]}


def compare_answers(
    uri: str, recorded: Sequence[Sample], got: Sequence[Sample], bounds: Bounds = JUST_RECORDED
) -> dict[str, float]:
    """Hold answers against the recorded ones, row by row. Raises VerificationError as above."""
    problems, different, largest = [], 0, 0.0
    for place, (then, now) in enumerate(zip(recorded, got, strict=True)):
        where = f"row {place} ({then['task']})"
        if then["prediction"] != now["prediction"]:
            different += 1
            problems.append(f"{where}: recorded {then['prediction']!r}, answers {now['prediction']!r}")
            continue
        before, after = then.get("score"), now.get("score")
        if before is None:
            continue
        gap = abs(before - after) if after is not None else math.inf
        largest = max(largest, gap)
        if not gap <= bounds.score:  # NaN is no match either
            problems.append(
                f"{where}: recorded score {before:.4f}, gives {'none' if after is None else f'{after:.4f}'}"
            )
    wrong_scores = len(problems) - different
    if wrong_scores or different > bounds.different * len(recorded):
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise VerificationError(
            f"{uri}, loaded anew, does not repeat its recorded predictions: {different} of {len(recorded)} answers and "
            f"{wrong_scores} scores differ; produce the domain again, and if that repeats, report it",
            [*problems[:SHOWN], *more],
        )
    return {"rows": len(recorded), "different": different, "largest_score_difference": largest}


def _answer(target: Path, imported: Sequence[str]) -> None:
    """What the fresh process does: import, wait for its order, load by URI, as any service would, and predict."""
    import gc
    import time
    from importlib import import_module

    gc.set_threshold(10_000)  # as alter_core/collector.py says why
    import mlflow
    import pandas as pd

    for name in imported:
        import_module(name)
    asked = json.load(sys.stdin)
    begin = time.monotonic()
    # Without its warnings, as the pins that it would look for are of this environment, and were written just now.
    model = mlflow.pyfunc.load_model(asked["uri"], suppress_warnings=True)
    answers = model.predict(pd.DataFrame(asked["rows"])).to_dict("records")
    seconds = round(time.monotonic() - begin, 3)
    target.write_text(json.dumps({"answers": answers, "seconds": seconds}), encoding="utf-8")
    gc.freeze()


if __name__ == "__main__":
    _answer(Path(sys.argv[1]), sys.argv[2:])
