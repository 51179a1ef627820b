"""Train one stage in a process of its own, `python -m alter_core.training.job JOB.json`, or in several, by `torchrun`.

    JOB.json (TrainingJob) -> output/bundle, output/result.json; rows appended to `metrics` as it goes

The same job started again goes on from its last checkpoint; alter_core/job.py has the exit codes.
"""

import sys
from collections.abc import Sequence

from alter_core import job as jobs
from alter_core.training.order import TrainingJob


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the command line names; returns the exit code."""
    return jobs.main(TrainingJob, _run, "training", arguments)


def _run(job: TrainingJob, log: jobs.Log, stop_asked: jobs.StopAsked) -> None:
    # Heavy, and late for speed: a wrong job file is told at once.
    from transformers.utils import logging

    from alter_core.training.refresh import take_back
    from alter_core.training.run import run

    logging.disable_progress_bar()  # progress goes to the metrics file
    take_back(job) if job.taken_back else run(job, log, stop_asked)


if __name__ == "__main__":
    sys.exit(main())
