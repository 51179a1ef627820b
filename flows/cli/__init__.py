"""The command line `alter`: one file for each group of commands.

Our folders lie among all packages under their own names: another `registry` that comes first would be taken for ours,
and end in an import error somewhere inside. It is told here.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parents[2]


def foreign() -> list[str]:
    """Rooms of ours for which Python finds another folder than the one beside this room, each with that folder."""
    found = []
    for name in ("registry", "domains"):
        spec = find_spec(name)
        places = [Path(place).resolve() for place in (spec and spec.submodule_search_locations) or ()]
        if _HOME / name not in places:
            found.append(f"{name}: {places[0] if places else 'is not there'}")
    return found


if _wrong := foreign():
    sys.stderr.write(
        f"other packages have the names of alter-factory's own, which lie in {_HOME}: {', '.join(_wrong)}. Take them "
        "out of PYTHONPATH, or install alter-factory in an environment of its own\n"
    )
    sys.exit(2)
