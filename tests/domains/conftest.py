"""The made-up public repositories, once for all tests, and the domains' rows.py on their commits."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.domains.repositories import LAYOUTS, MODULES, MadeUp, publish

Remotes = tuple[Path, Mapping[str, MadeUp]]


@pytest.fixture(scope="session")
def remotes(tmp_path_factory: pytest.TempPathFactory) -> Remotes:
    folder, scratch = tmp_path_factory.mktemp("remotes"), tmp_path_factory.mktemp("scratch")
    return folder, {name: publish(name, files(), folder, scratch) for name, files in LAYOUTS.items()}


@pytest.fixture
def remote(remotes: Remotes, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the made-up repositories are; rows.py of each domain expects their commits and licences."""
    folder, made_up = remotes
    for module in MODULES:
        ours = tuple(replace(one, **vars(made_up[one.name])) for one in module.REPOSITORIES)
        monkeypatch.setattr(module, "REPOSITORIES", ours)
    return folder.as_uri()
