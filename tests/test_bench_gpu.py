import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import gpu

ROOT = Path(__file__).parents[1]
NOT_NEEDED = ("prefect", "mlflow", "great_expectations", "peft", "sklearn")
LATER = ("data.ingest", "evaluation.order", "evaluation.scorecard", "inference.predict", "training.run")
"""What its parts import only when they run."""


def test_without_a_gpu_it_says_so_writes_nothing_ends_with_0_and_needs_no_prefect_or_mlflow(tmp_path: Path) -> None:
    blocked = f"import sys\nsys.modules.update(dict.fromkeys({NOT_NEEDED!r}))\n"
    (tmp_path / "sitecustomize.py").write_text(blocked, encoding="utf-8")
    (tmp_path / "out").mkdir()
    lines = [
        "import runpy, sys",
        *(f"import alter_core.{name}" for name in LATER),
        "assert all(sys.modules[name] is None for name in " + repr(NOT_NEEDED) + ")",
        f"sys.argv = ['gpu.py', '--out', {str(tmp_path / 'out')!r}]",
        "runpy.run_path('benchmarks/gpu.py', run_name='__main__')",
    ]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", "\n".join(lines)]
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "no GPU" in ran.stdout
    assert not list((tmp_path / "out").iterdir())


def test_a_part_that_time_cuts_short_keeps_what_it_has_and_a_later_one_is_told_as_left_out() -> None:
    def endless(_: gpu.Bench, found: gpu.Found) -> None:
        found["first"] = 1
        while True:
            with suppress(Exception):  # as a library may
                time.sleep(60)

    bench: Any = None
    cut = gpu.tried(endless, bench, time.monotonic() + 0.05)
    assert cut["first"] == 1
    assert "time was up" in cut["left out"]
    assert gpu.tried(endless, bench, time.monotonic()) == {"left out": "the time was up"}


def test_a_part_that_fails_says_why_beside_what_it_has() -> None:
    def fails(_: gpu.Bench, found: gpu.Found) -> None:
        found["first"] = 1
        raise RuntimeError("no memory")

    bench: Any = None
    told = gpu.tried(fails, bench, time.monotonic() + 60)
    assert (told["first"], told["failed"]) == (1, "RuntimeError: no memory")
