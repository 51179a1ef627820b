"""Versions: what is registered in one MLflow store, and where its files lie. The reading side of ModelStore."""

import difflib
import json
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import yaml

from registry.errors import RegistryError, RegistryInputError, reported
from registry.facts import CardFacts
from registry.packaging import FACTS, MANIFEST, bundle_digest
from registry.places import Places, local
from registry.signing import SIGNATURE, verify
from registry.store import LOCK_PREFIX, open_client, pages, sqlite_file

SHOWN = 10  # versions that a message names
BUNDLE_DIGEST = "bundle_digest"  # tag of a version: what its bundle was when it was registered
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
_PLAIN = re.compile(r"[\w. -]+", re.ASCII)  # names that MLflow's filters take; other teams' may have any characters


class Version(TypedDict):
    """One registered version."""

    name: str
    version: int
    aliases: list[str]
    macro: float | None
    created: int
    """Milliseconds."""
    tags: dict[str, str]
    run_id: str
    model_id: str
    """Of the stored model; empty where others registered the version."""
    description: str
    """The card."""
    uri: str


class Versions:
    """Registered versions of every domain in one MLflow store. Sets nothing global.

    The registry may hold models of other teams as well: they are listed, and no more.
    """

    def __init__(self, tracking_uri: str, artifacts: Path | None = None, downloads: Path | None = None) -> None:
        """artifacts: where this workspace keeps files of a store that has no place of its own; unset for a server, and
        for an embedded store whose files lie beside it. downloads: where files of a store on another machine are kept;
        unset, a temporary folder each time."""
        self.tracking_uri = tracking_uri
        self._downloads = downloads
        self.places = Places(sqlite_file(tracking_uri), artifacts)
        self.client = open_client(tracking_uri)

    def domains(self) -> list[str]:
        """Names of the registered models, in order."""
        with reported("list models", self.tracking_uri):
            found = pages(lambda token: self.client.search_registered_models(max_results=1000, page_token=token))
        return sorted(model.name for model in found if not model.name.startswith(LOCK_PREFIX))

    def versions(self, domain: str | None = None) -> list[Version]:
        """Versions of `domain`, or of all domains, newest first within a domain.

        Raises RegistryInputError for a domain that has none.
        """
        if domain is None:
            return [version for name in self.domains() for version in self.listed(name)]
        return self._rows(domain)

    def _rows(self, domain: str) -> list[Version]:
        if not (found := self.listed(domain)):
            raise self._unknown(domain)
        return found

    def listed(self, domain: str) -> list[Version]:
        """As `versions`, and none where a first registration died before its version was made, or all were removed."""
        with reported(f"list versions of {domain}", self.tracking_uri):
            wanted = f"name = '{domain}'" if _PLAIN.fullmatch(domain) else None
            found = [entity for entity in self.registered(wanted) if entity.name == domain]
            if not found:
                return []
            aliases: dict[int, list[str]] = {}
            for alias, number in self.client.get_registered_model(domain).aliases.items():
                aliases.setdefault(int(number), []).append(alias)
        rows = [_version(entity, aliases.get(int(entity.version), [])) for entity in found]
        return sorted(rows, key=lambda row: -row["version"])

    def registered(self, wanted: str | None = None) -> list[Any]:
        """MLflow's records of all versions in the store, others' among them, or of those that a filter finds."""
        return pages(lambda token: self.client.search_model_versions(wanted, max_results=1000, page_token=token))

    def alias(self, domain: str, alias: str) -> Version | None:
        """The version under `alias`; None when the domain or the alias is not there."""
        from mlflow.exceptions import MlflowException

        with reported(f"read {domain}@{alias}", self.tracking_uri):
            try:
                entity = self.client.get_model_version_by_alias(domain, alias)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                # A server with accounts refuses to look for an alias of a model that is not there.
                refused = error.error_code == "PERMISSION_DENIED"
                if refused and self._unless_gone(self.client.get_registered_model, domain) is None:
                    return None
                raise
            return _version(entity, list(entity.aliases))

    def get(self, domain: str, which: int | str) -> Version:
        """A version by number or alias. Raises RegistryInputError that names what there is."""
        if str(which).isdecimal():
            found = next((row for row in self._rows(domain) if row["version"] == int(which)), None)
        else:
            found = self.alias(domain, str(which))
        if found is None:
            rows = self._rows(domain)
            names = ", ".join(str(row["version"]) + _in_brackets(row["aliases"]) for row in rows[:SHOWN])
            names += f" and {len(rows) - SHOWN} older ones" if len(rows) > SHOWN else ""
            raise RegistryInputError(f"{domain} has no version or alias {which!r}; it has {names}")
        return found

    def bundle_path(self, domain: str, which: int | str) -> Path:
        """Local folder of a version's bundle: in place when the store is local, else downloaded.

        Raises RegistryInputError for an unknown version, for one that others registered and for one whose files are
        another workspace's; RegistryError when its files are gone or its manifest is no longer the registered one; as
        `signing.verify` where a key is set. The other parts are held against the manifest when the bundle is loaded.
        """
        version = self.get(domain, which)
        files = self._files(version)
        folder = files / _bundle_in(files)
        if not folder.is_dir():
            raise RegistryError(
                f"{domain} version {version['version']} is registered, but its bundle is not at {folder}: "
                "restore the store's artifact folder, or choose another version"
            )
        registered = version["tags"].get(BUNDLE_DIGEST)
        if registered and bundle_digest(folder) != registered:
            raise RegistryError(
                f"{domain} version {version['version']}: the bundle at {folder} was altered since it was registered "
                "(bundle.json has another digest): restore the store's artifact folder, or choose another version"
            )
        verify(folder, folder.with_name(SIGNATURE), f"{domain} version {version['version']}")
        return folder

    def facts(self, domain: str, which: int | str) -> CardFacts:
        """What was recorded of a version. Raises RegistryInputError when nothing was."""
        version = self.get(domain, which)
        file = self._files(version) / FACTS
        if not file.is_file():
            raise RegistryInputError(
                f"{domain} version {version['version']} was registered without its facts, so it can be neither "
                "compared nor reported; produce the domain again"
            )
        found: CardFacts = json.loads(file.read_text(encoding="utf-8"))
        return found

    def recorded_seed(self, domain: str, which: int | str) -> int:
        """The seed of the spec that a version was made with, as its bundle tells; 0 where it tells none. Raises as
        `bundle_path`."""
        return int(self.recorded(domain, which).get("spec", {}).get("seed", 0))

    def recorded(self, domain: str, which: int | str) -> dict[str, Any]:
        """What the bundle of a version tells of its making: the spec with labels, the last stage. Raises as
        `bundle_path`."""
        manifest = json.loads((self.bundle_path(domain, which) / MANIFEST).read_text(encoding="utf-8"))
        return dict(manifest.get("metadata", {}))

    def _files(self, version: Version) -> Path:
        """Folder of a version's stored model."""
        place = str(self.logged_model(version).artifact_location)
        if local(place) is None:
            return self._downloaded(version)
        return self.places.found(place, f"{version['name']} version {version['version']}", version["model_id"])

    def _downloaded(self, version: Version) -> Path:
        """A remote model's files, fetched once: they never change under one model id."""
        from mlflow.artifacts import download_artifacts

        root = self._downloads or Path(tempfile.mkdtemp(prefix="alter-model-"))
        target = root / str(version["model_id"])
        if not (target / "MLmodel").exists():
            root.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=root))
            with reported(f"download {version['uri']}", self.tracking_uri):
                # By its place and not by name: a models: URI would be looked up in MLflow's global registry.
                got = download_artifacts(
                    artifact_uri=str(self.logged_model(version).artifact_location),
                    dst_path=str(scratch),
                    tracking_uri=self.tracking_uri,
                )
            if not target.exists():  # another process may have been faster
                Path(got).rename(target)
        return target

    def logged_model(self, version: Version) -> Any:
        """MLflow's own record of a version's files. Raises RegistryError where a person deleted it, RegistryInputError
        for a version that was not registered here."""
        what = f"{version['name']} version {version['version']}"
        if not is_ours(version):
            raise RegistryInputError(
                f"{what} was not registered by alter (it has no tags `run_key` and `model_id`), so it can be listed "
                "and not used here: choose another version"
            )
        if (found := self.stored(version["model_id"])) is None:
            raise RegistryError(
                f"{what} is registered, but its model {version['model_id']} was deleted in MLflow: choose another "
                "version, or produce the domain again"
            )
        return found

    def stored(self, model_id: str | None) -> Any:
        """MLflow's record of a model; None where a person has deleted it, which MLflow's UI offers."""
        return self._unless_gone(self.client.get_logged_model, model_id) if model_id else None

    def run(self, run_id: str | None) -> Any:
        """MLflow's record of a run; None where a person has deleted it, or `mlflow gc` removed it."""
        run = self._unless_gone(self.client.get_run, run_id) if run_id else None
        return run if run and run.info.lifecycle_stage == "active" else None

    def _unless_gone(self, read: Callable[[str], Any], what: str) -> Any:
        from mlflow.exceptions import MlflowException

        with reported(f"read {what}", self.tracking_uri):
            try:
                return read(what)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None

    def logged_models(self, domain: str) -> list[Any]:
        """MLflow's records of all models that were stored for `domain`, registered or not."""
        if not _PLAIN.fullmatch(domain):
            return []  # another team's: no stored model may have such a name
        with reported(f"list stored models of {domain}", self.tracking_uri):
            # By its versions' models, as runs may be gone, and by its name, as an experiment may have another by now.
            models = [model for row in self.listed(domain) if (model := self.stored(row["model_id"]))]
            experiments = {str(model.experiment_id) for model in models}
            if own := self.client.get_experiment_by_name(domain):
                experiments.add(own.experiment_id)
            if not experiments:
                return []
            return pages(
                lambda token: self.client.search_logged_models(
                    sorted(experiments), f"name = '{domain}'", max_results=100, page_token=token
                )
            )

    def _unknown(self, domain: str) -> RegistryInputError:
        domains = [name for name in self.domains() if self.listed(name)]
        close = difflib.get_close_matches(domain, domains, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return RegistryInputError(
            f"no version of {domain!r} is registered (registered: {', '.join(domains) or 'none yet'}); "
            f"{hint}`alter run` makes one"
        )


def is_ours(version: Version) -> bool:
    """Whether a version was registered here, and not by another tool or person."""
    tags = version["tags"]  # another team's may have these names too
    return "run_key" in tags and bool(MODEL_ID.fullmatch(tags.get("model_id", "")))


def _bundle_in(files: Path) -> str:
    """Where a stored model keeps its bundle: MLflow keeps the name that the folder had when it was stored."""
    try:
        model = yaml.safe_load((files / "MLmodel").read_text(encoding="utf-8"))
        return str(model["flavors"]["python_function"]["artifacts"]["bundle"]["path"])
    except (OSError, KeyError, yaml.YAMLError):
        return "artifacts/bundle"


def _version(entity: Any, aliases: Sequence[str]) -> Version:
    tags = dict(entity.tags)
    try:
        macro = float(tags["macro"])
    except (KeyError, ValueError):
        macro = math.nan
    return {
        "name": entity.name,
        "version": int(entity.version),
        "aliases": sorted(aliases),
        "macro": macro if math.isfinite(macro) else None,
        "created": entity.creation_timestamp,
        "tags": tags,
        "run_id": entity.run_id,
        "model_id": tags.get("model_id", ""),
        "description": entity.description or "",
        "uri": f"models:/{entity.name}/{entity.version}",
    }


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
