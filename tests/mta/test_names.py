"""What `alter_core.mta` offers stays what it is, whichever of its modules was imported first."""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

import alter_core.mta


def test_no_module_takes_the_place_of_a_public_name() -> None:
    for module in iter_modules(alter_core.mta.__path__):
        import_module(f"alter_core.mta.{module.name}")
    taken = [name for name in alter_core.mta.__all__ if isinstance(getattr(alter_core.mta, name), ModuleType)]
    assert taken == []
