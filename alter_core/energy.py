"""Energy: what this machine's own counters say that it used, RAPL's of processors and memory and NVML's of GPUs.

A machine is measured whole, whoever else works on it, or not at all: where a counter cannot be read, no guess by what a
processor is rated for stands in its place.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alter_core.job import MACHINES

POWERCAP = Path("/sys/class/powercap")
DEVICES = Path("/dev")
READ_SECONDS = 30.0
"""Between two readings: a counter of 262 kJ begins again after 22 minutes at 200 W."""
_SAME = 1.0  # joules: the packages of some processors of several dies are one counter (mlco2/codecarbon, issue 1274)


@dataclass
class Counter:
    """One that only grows, until it begins again."""

    read: Callable[[], int]
    unit: float
    """In joules."""
    span: int | None = None
    """Units after which it begins again; None: never."""
    last: int = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.read()

    def spent(self) -> float:
        """Joules since the last call. Raises OSError for a counter that goes back and has no span."""
        gone, self.last = (now := self.read()) - self.last, now
        if gone < 0 and self.span is None:
            raise OSError("a counter of energy was set back")
        return (gone + (self.span or 0) * (gone < 0)) * self.unit


class Meter:
    """What the machine has used since the meter was made."""

    why: str = ""
    """Why it is not measured, in words; empty where it is."""

    def __init__(self, powercap: Path = POWERCAP, devices: Path = DEVICES) -> None:
        self._joules, self._turn, self._counters = 0.0, threading.Lock(), list[Counter]()
        with self._excused():
            if os.environ.get(MACHINES, "1") != "1":
                raise OSError("it trains together with other machines, whose counters are not read here")
            self._counters = [*_processors(powercap), *_gpus(devices)]

    def joules(self) -> float | None:
        """Till now; None where it is not measured. To be called more often than a counter begins again."""
        with self._turn, self._excused():
            self._joules += sum(counter.spent() for counter in self._counters)
        return None if self.why else self._joules

    @contextmanager
    def watched(self) -> Iterator["Meter"]:
        """Read every READ_SECONDS for as long as the block takes."""
        over = threading.Event()

        def look() -> None:
            while not self.why and not over.wait(READ_SECONDS):
                self.joules()

        thread = threading.Thread(target=look, name="energy", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()

    @contextmanager
    def _excused(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a driver may raise: no training ends for it
            self.why = f"{error}"


def _processors(powercap: Path) -> Iterator[Counter]:
    """Packages and the memory beside them. The zone psys holds both, and intel-rapl-mmio counts a package again."""
    seen: list[float] = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name = (zone / "name").read_text().strip()
        if name.startswith("package") or name == "dram":
            counter = Counter(_reader(zone / "energy_uj"), 1e-6, int((zone / "max_energy_range_uj").read_text()))
            joules = counter.last * counter.unit
            if not any(abs(joules - other) < _SAME for other in seen if joules):
                seen.append(joules)
                yield counter
    if not seen:
        raise OSError(f"{powercap} has no counter of a processor, as on most virtual machines")


def _reader(file: Path) -> Callable[[], int]:
    return lambda: int(file.read_text())


def _gpus(devices: Path) -> Iterator[Counter]:
    if (devices / "kfd").exists():
        raise OSError("its GPUs are AMD's, whose counters are not read")
    if not (devices / "nvidiactl").exists():
        return
    try:
        import pynvml
    except ImportError:
        raise OSError("its GPUs are read with the extra `energy` (pip install nvidia-ml-py)") from None
    pynvml.nvmlInit()
    for number in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(number)
        yield Counter(lambda gpu=gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu), 1e-3)  # type: ignore[misc]
