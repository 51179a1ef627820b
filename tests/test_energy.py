"""What a machine's own counters say that it used, on folders shaped like Linux's powercap."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from alter_core import energy
from alter_core.energy import Counter, Meter
from alter_core.job import MACHINES

RANGE = 262_143_328_850  # microjoules, of a processor


class Machine:
    """A powercap folder, and one of devices."""

    def __init__(self, root: Path) -> None:
        self.powercap, self.devices = root / "powercap", root / "dev"
        self.devices.mkdir(parents=True)

    def zone(self, zone: str, name: str, microjoules: int) -> Path:
        folder = self.powercap / zone
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")
        return folder / "energy_uj"

    def meter(self) -> Meter:
        return Meter(self.powercap, self.devices)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_packages_and_memory_are_counted_once_and_begin_again_at_their_range(machine: Machine) -> None:
    package = machine.zone("intel-rapl:0", "package-0", RANGE - 2_000_000)
    second = machine.zone("intel-rapl:1", "package-1", 7_000_000)
    memory = machine.zone("intel-rapl:0:1", "dram", 0)
    others = [
        machine.zone("intel-rapl:0:0", "core", 1_000_000),  # a part of the package
        machine.zone("intel-rapl:2", "psys", 3_000_000),  # all of it
        machine.zone("intel-rapl-mmio:0", "package-0", 4_000_000),  # again
    ]
    meter = machine.meter()
    assert (meter.joules(), meter.why) == (0.0, "")
    for other in others:
        other.write_text("900000000\n")
    package.write_text("3000000\n")  # 2 J to its end, and 3 J more
    second.write_text("7500000\n")
    memory.write_text("250000\n")
    assert meter.joules() == pytest.approx(5.75)
    package.write_text("4000000\n")
    assert meter.joules() == pytest.approx(6.75)


def test_dies_that_show_the_counter_of_their_package_are_one(machine: Machine) -> None:
    files = [machine.zone(f"intel-rapl:{die}", f"package-0-die-{die}", 5_000_000_000 + die) for die in range(4)]
    files.append(machine.zone("intel-rapl:4", "package-1", 9_000_000_000))
    meter = machine.meter()
    for file in files:
        file.write_text(str(int(file.read_text()) + 1_000_000))
    assert meter.joules() == pytest.approx(2.0)


def _no_zone(machine: Machine) -> None:
    pass


def _only_a_frame(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "psys", 0)


def _unreadable(machine: Machine) -> None:
    file = machine.zone("intel-rapl:0", "package-0", 0)
    file.unlink()
    file.mkdir()  # which root cannot read either


def _no_number(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 0).write_text("")


def _gpu_of_amd(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 0)
    (machine.devices / "kfd").touch()


def _gpu_without_its_library(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 0)
    (machine.devices / "nvidiactl").touch()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_no_zone, "has no counter of a processor"),
        (_only_a_frame, "has no counter of a processor"),
        (_unreadable, "energy_uj"),
        (_no_number, "invalid literal"),
        (_gpu_of_amd, "its GPUs are AMD's"),
        (_gpu_without_its_library, "the extra `energy`"),
    ],
)
def test_a_machine_of_which_a_part_cannot_be_read_is_not_measured_and_says_why(
    machine: Machine, change: Callable[[Machine], None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    change(machine)
    meter = machine.meter()
    assert why in meter.why
    with meter.watched():
        assert meter.joules() is None


def test_one_of_several_machines_that_train_together_is_not_measured(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.zone("intel-rapl:0", "package-0", 0)
    monkeypatch.setenv(MACHINES, "2")
    assert machine.meter().joules() is None
    monkeypatch.setenv(MACHINES, "1")
    assert machine.meter().joules() == 0


def test_a_counter_that_goes_away_or_back_ends_the_measurement_and_nothing_else(machine: Machine) -> None:
    file = machine.zone("intel-rapl:0", "package-0", 5_000_000)
    meter = machine.meter()
    file.unlink()
    assert (meter.joules(), bool(meter.why)) == (None, True)
    values = iter([5, 3])
    with pytest.raises(OSError, match="set back"):
        Counter(lambda: next(values), 1.0).spent()


def test_gpus_are_counted_beside_processors(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the library: no GPU is here."""
    package = machine.zone("intel-rapl:0", "package-0", 0)
    (machine.devices / "nvidiactl").touch()
    millijoules = {"first": 1_000, "second": 5_000}
    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(millijoules),
        nvmlDeviceGetHandleByIndex=lambda number: list(millijoules)[number],
        nvmlDeviceGetTotalEnergyConsumption=millijoules.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    meter = machine.meter()
    millijoules |= {"first": 2_500, "second": 7_000}
    package.write_text("250000")
    assert meter.joules() == pytest.approx(1.5 + 2.0 + 0.25)


def test_a_watched_counter_may_begin_again_any_number_of_times(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.zone("intel-rapl:0", "package-0", 0)
    step, reads = RANGE * 9 // 10, list[int]()

    def read() -> int:
        reads.append(len(reads) * step % RANGE)
        return reads[-1]

    monkeypatch.setattr(energy, "READ_SECONDS", 0.001)
    monkeypatch.setattr(energy, "_reader", lambda _: read)
    with machine.meter().watched() as meter:
        while len(reads) < 20:
            time.sleep(0.001)
    assert meter.joules() == pytest.approx((len(reads) - 1) * step * 1e-6)
