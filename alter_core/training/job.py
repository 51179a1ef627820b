"""Train one stage in a process of its own, `python -m alter_core.training.job JOB.json`, or in several, by `torchrun`.

    JOB.json (TrainingJob) -> output/bundle, output/result.json; rows appended to `metrics` as it goes

Of machines that train together one is given JOB.json, and tells the others. The same job started again goes on from
its last checkpoint; alter_core/job.py has the exit codes.
"""

import os
import sys
from collections.abc import Sequence

from alter_core import job as jobs
from alter_core.training.order import TrainingJob


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the command line names; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return jobs.main(TrainingJob, _run, "training", _told(given) if _machines() > 1 else given)


def _machines() -> int:
    """That train together, as torch's launcher tells."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def _told(given: Sequence[str]) -> Sequence[str]:
    """What one of the machines was given. Ends the process where two runs met."""
    from accelerate.utils import gather_object

    from alter_core.training.run import make_accelerator

    make_accelerator()
    found = sorted(set(gather_object(list(given))))
    if len(found) > 1:
        sys.exit(f"two runs met at one rendezvous, of {' and '.join(found)}: train over several machines one at a time")
    return found


def _run(job: TrainingJob, log: jobs.Log, stop_asked: jobs.StopAsked) -> None:
    # Heavy, and late for speed: a wrong job file is told at once.
    from transformers.utils import logging

    from alter_core.training.refresh import take_back
    from alter_core.training.run import run

    logging.disable_progress_bar()  # progress goes to the metrics file
    take_back(job) if job.taken_back else run(job, log, stop_asked)


if __name__ == "__main__":
    sys.exit(main())
