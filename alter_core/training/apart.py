"""Whether tasks of a bundle are apart, so that one can change alone. Read without torch."""

from typing import Literal

from alter_core.errors import SpecError
from alter_core.mta.manifest import BundleManifest

WAY = "train all tasks, with stage_two > gate: strength, after which tasks can be refreshed"


def gate_mode_apart(manifest: BundleManifest) -> Literal["hard", "strength"]:
    """The mode of a bundle's gates. Raises SpecError where tasks reach each other's adapters through them."""
    modes = {layer["mode"] for layer in manifest["layers"]}
    if modes == {"hard"} or modes == {"strength"}:
        return "hard" if modes == {"hard"} else "strength"
    found = ", ".join(sorted(modes)) or "none, as there are no MTA layers"
    raise SpecError(f"no task can be refreshed alone where tasks reach each other's adapters: gates are {found}; {WAY}")
