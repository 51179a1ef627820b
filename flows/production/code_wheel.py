"""Our own code as a wheel, made from what is installed, so that a registered model can be served without a checkout."""

from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

from wheel.wheelfile import WheelFile

from alter_core.whole import written_whole
from flows.production.plan import code_of

PACKAGES = ("alter_core", "registry")
DISTRIBUTION = "alter-factory"


def build_wheel(folder: Path) -> Path:
    """Write the wheel into `folder` and return its path; one that is there already is of the same code.

    The code's digest is the local part of the version (PEP 440), so that two models with different code differ in what
    they require. Raises PackageNotFoundError where the package is not installed.
    """
    metadata = distribution(DISTRIBUTION).metadata
    version = f"{metadata['Version']}+{code_of('run')}"
    stem = f"{DISTRIBUTION.replace('-', '_')}-{version}"
    target = folder / f"{stem}-py3-none-any.whl"
    if target.exists():
        return target
    header = ["Metadata-Version: 2.1", f"Name: {DISTRIBUTION}", f"Version: {version}"]
    header += [f"Requires-Python: {metadata['Requires-Python']}", "License: Apache-2.0"]
    header += [f"Requires-Dist: {need}" for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]
    with written_whole(target) as path, WheelFile(path, "w") as wheel:
        for package in PACKAGES:
            root = Path(str(files(package)))
            for file in sorted(root.rglob("*.py")):
                wheel.write(str(file), f"{package}/{file.relative_to(root).as_posix()}")
        wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(header) + "\n")
        tag = "Wheel-Version: 1.0\nGenerator: alter-factory\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{stem}.dist-info/WHEEL", tag)
    return target
