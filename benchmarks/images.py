"""The images' steps without Docker: `python benchmarks/images.py [--bind FOLDER]... [PIP_ARGS]`, as root on Debian.

Each Dockerfile of stack/ is read, and its steps are done in a folder that debootstrap fills with the same Debian and
its Python (3.11, of another patch level). Then, as the image's user, each command that docker-compose.yml starts in it
is asked for its help. Takes minutes and 3 GB; ends with 1 at a step that fails.
PIP_ARGS: as the images' build argument. FOLDER: of this machine, seen at the same place, such as one with wheels.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = "python3-pip,python3-venv,python-is-python3,ca-certificates"
ASKED = {
    "servers": [
        "mlflow server --help",
        "mlflow db upgrade --help",
        "python -m mlflow.server.auth db upgrade --help",
        "mlflow gc --help",
        "prefect server start --help",
        "prefect server services start --help",
        "prefect server database upgrade --help",
    ],
    "worker": ["alter --version", "alter endpoint --help", "python -m stack --help", "prefect worker start --help"],
}


class Image:
    """A folder that becomes what an image would hold."""

    def __init__(self, base: Path, folder: Path, arguments: str, bound: list[str]) -> None:
        subprocess.run(["cp", "--archive", "--reflink=auto", base, folder], check=True)
        self.folder, self.arguments, self.bound = folder, arguments, bound
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "PIP_ARGS": arguments}
        self.place, self.user = "/", "0"

    def run(self, command: str) -> int:
        """In a mount namespace of its own, so that nothing stays mounted."""
        inside = f"cd {self.place} && {command}"
        mounts = [f"mount --bind {each} {self.folder}{each}" for each in ("/dev", "/proc", *self.bound)]
        for each in self.bound:
            (self.folder / each.lstrip("/")).mkdir(parents=True, exist_ok=True)
        chroot = f"exec chroot --userspec={self.user}:{self.user} {self.folder} sh -c {shlex.quote(inside)}"
        words = ["unshare", "--mount", "sh", "-ec", "\n".join([*mounts, chroot])]
        return subprocess.run(words, env=self.environment).returncode

    def step(self, kind: str, rest: str) -> int:
        """One step of a Dockerfile; 0 where it went well."""
        if kind == "RUN":
            return self.run(rest)
        if kind == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:  # which keep their times, as they do in an engine
                at = self.folder / self.place.lstrip("/") / target
                whole = (ROOT / source).is_dir()
                at.parent.mkdir(parents=True, exist_ok=True)
                skipped = shutil.ignore_patterns("__pycache__", "data")
                shutil.copytree(ROOT / source, at, dirs_exist_ok=True, ignore=skipped) if whole else shutil.copy(
                    ROOT / source, at
                )
        elif kind == "ENV":
            self.environment |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif kind == "WORKDIR":
            self.place = rest
            (self.folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif kind == "USER":
            self.user = rest
        elif kind not in ("FROM", "ARG"):
            raise SystemExit(f"a step of a kind that is not known here: {kind}")
        return 0


def steps_of(name: str) -> list[tuple[str, str]]:
    text = (ROOT / "stack" / f"{name}.Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.M)).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line]


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--bind", action="append", default=[], metavar="FOLDER")
    reader.add_argument("pip_args", nargs="?", default="")
    given = reader.parse_args()
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        print("needs root and Debian's package debootstrap: nothing is tried")
        return
    failed = []
    with tempfile.TemporaryDirectory(prefix="alter-images-") as folder:
        base = Path(folder) / "base"
        make = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(base), MIRROR]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        for file in base.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            file.unlink()  # the image's Python is nobody's but pip's
        shutil.copy("/etc/resolv.conf", base / "etc" / "resolv.conf")
        for name, asked in ASKED.items():
            image = Image(base, Path(folder) / name, given.pip_args, given.bind)
            begin = time.monotonic()
            steps = [*steps_of(name), *(("RUN", f"{command} >/dev/null") for command in asked)]
            for kind, rest in steps:
                print(f"{name}: {kind} {rest}", flush=True)
                if image.step(kind, rest):
                    failed.append(f"{name}: {kind} {rest}")
                    break
            print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
            shutil.rmtree(image.folder)
    print("failed: " + "; ".join(failed) if failed else "every step of both images went well")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
