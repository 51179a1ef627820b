"""The evaluation job: `python -m alter_core.evaluation.job JOB.json` scores several subjects in one process.

One process, because imports and prompts are paid once; a process of its own, so that running out of memory ends the
job and not the flow that started it.
"""

import sys
from collections.abc import Sequence

from alter_core import job as jobs
from alter_core.evaluation.order import EvaluationJob


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the command line names; returns the exit code."""
    return jobs.main(EvaluationJob, _run, "evaluation", arguments)


def _run(job: EvaluationJob, log: jobs.Log, stop_asked: jobs.StopAsked) -> None:
    from alter_core.evaluation.run import run  # heavy, and late for speed: a wrong job file is told at once

    run(job, log, stop_asked)


if __name__ == "__main__":
    sys.exit(main())
