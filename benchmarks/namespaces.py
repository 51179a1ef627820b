"""Machines that are namespaces of this one: a helper of other benchmarks, for root on Linux.

Each has a host name, an address, a cable to one switch, and sees its own processes alone. They share processors, memory
and disk: what they do to each other goes over the network or through files, and the network can be cut.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """One namespace."""

    name: str
    address: str
    group: str
    """Those that reach each other."""

    @classmethod
    def of(cls, names: Sequence[str], group: str) -> "list[Machine]":
        """Machines of these names, made or to be made."""
        return [cls(name, f"10.77.0.{number}", group) for number, name in enumerate(names, start=1)]

    def in_network(self, words: Sequence[str]) -> list[str]:
        """`words` in this machine's network, otherwise as here."""
        return ["ip", "netns", "exec", self.space, *words]

    def command(self, words: Sequence[str]) -> list[str]:
        """`words` on this machine, under its name."""
        # The shell stays, as the first process of a machine that buries what others left.
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        as_named = [*apart, "sh", "-c", 'hostname "$0"; "$@"; exit $?', self.name]
        return self.in_network([*as_named, *words])

    @property
    def space(self) -> str:
        return f"{self.group}-{self.name}"

    @property
    def switch(self) -> str:
        """The namespace of the switch."""
        return f"{self.group}-switch"

    def cut_off(self) -> None:
        """Pull the cable."""
        _ip("-n", self.switch, "link", "set", self.name, "down")

    def give_back(self) -> None:
        """Put it in again."""
        _ip("-n", self.switch, "link", "set", self.name, "up")

    def pids(self) -> list[int]:
        """Processes on this machine, by their ids here."""
        return [int(pid) for pid in _ip("netns", "pids", self.space).split()]

    def commands(self) -> list[str]:
        """Command lines of its processes."""
        found = []
        for pid in self.pids():
            with suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " "))
        return found

    def kill_all(self) -> None:
        """SIGKILL to all that runs here, as when the power goes."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def missing() -> str:
    """Why there can be no such machines here; empty where there can."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return "network namespaces need root on Linux, with iproute2 and util-linux"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    if done.returncode:
        return f"no network namespace can be made here: {done.stderr.strip()}"
    return ""


@contextmanager
def machines(*names: str) -> Iterator[list[Machine]]:
    """Machines of these names, which reach each other by them. At the end nothing of them is left."""
    found = Machine.of(names, f"alter-{os.getpid()}")
    switch = found[0].switch
    hosts = "127.0.0.1 localhost\n" + "".join(f"{one.address} {one.name}\n" for one in found)
    made: list[Machine] = []
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for one in found:
            _ip("netns", "add", one.space)
            made.append(one)
            folder = Path("/etc/netns") / one.space  # what `ip netns exec` shows as /etc
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(hosts, encoding="utf-8")
            _ip("-n", switch, "link", "add", one.name, "type", "veth", "peer", "name", "eth0", "netns", one.space)
            _ip("-n", switch, "link", "set", one.name, "master", "switch", "up")
            _ip("-n", one.space, "address", "add", f"{one.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", one.space, "link", "set", device, "up")
        yield found
    finally:
        for one in made:
            one.kill_all()
            shutil.rmtree(Path("/etc/netns") / one.space, ignore_errors=True)
            _ip("netns", "del", one.space)
        _ip("netns", "del", switch)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    print("a helper of other benchmarks: nothing is measured here")
