"""`alter serve`: schedules on one machine, with a Prefect server of its own."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import tiny_spec, write_domain
from tests.flows.server import SECONDS, alone, free_port, wait_for

pytestmark = pytest.mark.server


def test_a_schedule_is_served_until_sigterm_and_nothing_stays(tmp_path: Path, tiny_backbone: Path) -> None:
    spec = {**tiny_spec(tiny_backbone), "schedule": {"cron": "* * * * *"}, "evaluation": {"baselines": []}}
    file, port = str(write_domain(tmp_path / "tiny", spec)), free_port()
    works = alone(tmp_path, f"http://127.0.0.1:{port}/api")
    environment = {name: value for name, value in works.environment.items() if name != "PREFECT_API_URL"}
    with (tmp_path / "serve.log").open("wb") as log:
        served = subprocess.Popen(
            [sys.executable, "-c", "from flows.cli.app import main; main()", "serve", file, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env=environment,
        )
    try:

        def registered() -> bool:
            assert served.poll() is None, (tmp_path / "serve.log").read_text(encoding="utf-8")[-3000:]
            listed = works.alter("models", "tiny", "--json")
            return listed.returncode == 0 and bool(json.loads(listed.stdout))

        wait_for(registered, "the scheduled run has registered a version")
        (row,) = json.loads(works.alter("status", file, "--json").stdout)
        assert row["next"] is not None
        members = psutil.Process(served.pid).children(recursive=True)
        assert members
        served.send_signal(signal.SIGTERM)
        served.wait(SECONDS)
        assert psutil.wait_procs(members, 30)[1] == []
    finally:
        served.kill()
