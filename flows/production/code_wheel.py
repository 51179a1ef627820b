"""What a registered model needs to answer without a checkout: the modules of prediction as a wheel, and the libraries
that they import. Both are found from the imports."""

import re
from functools import cache
from importlib.metadata import distribution, packages_distributions
from importlib.metadata import version as installed
from pathlib import Path
from sys import stdlib_module_names

from wheel.wheelfile import WheelFile

from alter_core.code import own_code
from alter_core.whole import written_whole

SERVED = ("alter_core.inference.predict", "alter_core.evaluation.predict")
"""What is imported to answer: by models of today, and by those of earlier releases that share a process with them."""
SERVING = ("mlflow", "pandas", "fastapi", "sentencepiece")
"""What no module of prediction imports: the stored model code does, MLflow's server, and tokenizers that transformers
cannot read by itself."""
DISTRIBUTION = "alter-factory"


@cache
def libraries() -> tuple[str, ...]:
    """Names of the distributions that prediction imports, in order. Raises PackageNotFoundError where one is away."""
    homes, bounds = packages_distributions(), _bounds()
    found = []
    for name in own_code().libraries(*SERVED):
        if name not in stdlib_module_names:
            several = homes.get(name, [name])
            home = next((one for one in several if _name_of(one) in bounds), several[0])
            found.append(distribution(home).metadata["Name"])
    return tuple(found)


def serving_requirements() -> list[str]:
    """Pins of what a served model needs: the exact versions that it was trained with."""
    return [f"{name}=={installed(name).partition('+')[0]}" for name in sorted({*libraries(), *SERVING}, key=str.lower)]


def build_wheel(folder: Path) -> Path:
    """Write the wheel into `folder` and return its path; one that is there already is of the same code.

    The code's digest is the local part of the version (PEP 440), so that two models with different code differ in what
    they require. Raises PackageNotFoundError where the package is not installed.
    """
    code = own_code()
    metadata = distribution(DISTRIBUTION).metadata
    version = f"{metadata['Version']}+{code.digest(*SERVED)}"
    stem = f"{DISTRIBUTION.replace('-', '_')}-{version}"
    target = folder / f"{stem}-py3-none-any.whl"
    if target.exists():
        return target
    bounds = _bounds()
    header = ["Metadata-Version: 2.1", f"Name: {DISTRIBUTION}", f"Version: {version}"]
    header += [f"Requires-Python: {metadata['Requires-Python']}", "License: Apache-2.0"]
    header += [f"Requires-Dist: {bounds.get(_name_of(name), name)}" for name in libraries()]
    with written_whole(target) as path, WheelFile(path, "w") as wheel:
        for name, file in code.files(*SERVED).items():
            wheel.write(str(file), name)
        wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(header) + "\n")
        tag = "Wheel-Version: 1.0\nGenerator: alter-factory\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{stem}.dist-info/WHEEL", tag)
    return target


def _bounds() -> dict[str, str]:
    """Name -> what this package asks for of that name."""
    needs = distribution(DISTRIBUTION).metadata.get_all("Requires-Dist", [])
    return {_name_of(need): need for need in needs if "extra ==" not in need}


def _name_of(requirement: str) -> str:
    """The name that a requirement begins with, as indexes compare it (PEP 503)."""
    found = re.match(r"[A-Za-z0-9._-]*[A-Za-z0-9]", requirement)
    return re.sub(r"[-_.]+", "-", found.group()).lower() if found else ""
