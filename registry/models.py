"""ModelStore: one registered model per domain, its versions, and the aliases that users load."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from registry.errors import AliasConflict, RegistryError, RegistryInputError, reported
from registry.store import LOCK_PREFIX, domain_lock, open_client

CHAMPION, CHALLENGER = "champion", "challenger"
MODEL_CODE = Path(__file__).with_name("scoring_model.py")
HISTORY = "champion_history"  # tag of the registered model: champions before this one, oldest first
HISTORY_LENGTH = 100
MAX_DESCRIPTION = 5000  # what a database keeps of a version's description
CARD = "card.md"
Version = dict[str, Any]


class ModelStore:
    """Registered versions of every domain in one MLflow store. Sets nothing global.

    A version is a dict: name, version (int), aliases, macro (float or None), created (milliseconds), tags, run_id,
    model_id, description, uri.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self._client = open_client(tracking_uri)

    # --- reading

    def domains(self) -> list[str]:
        """Names of the registered models, in order."""
        with reported("list models", self.tracking_uri):
            found = self._client.search_registered_models(max_results=1000)
        return sorted(model.name for model in found if not model.name.startswith(LOCK_PREFIX))

    def versions(self, domain: str | None = None) -> list[Version]:
        """Versions of `domain`, or of all domains, newest first within a domain.

        Raises RegistryInputError for a domain that has none.
        """
        if domain is None:
            return [version for name in self.domains() for version in self.versions(name)]
        with reported(f"list versions of {domain}", self.tracking_uri):
            found, token = [], None
            while True:
                page = self._client.search_model_versions(f"name = '{domain}'", max_results=1000, page_token=token)
                found += page
                token = page.token
                if not token:
                    break
            if not found:
                raise self._unknown(domain)
            aliases: dict[int, list[str]] = {}
            for alias, number in self._client.get_registered_model(domain).aliases.items():
                aliases.setdefault(int(number), []).append(alias)
        rows = [_version(entity, aliases.get(int(entity.version), [])) for entity in found]
        return sorted(rows, key=lambda row: -row["version"])

    def alias(self, domain: str, alias: str) -> Version | None:
        """The version under `alias`; None when the domain or the alias is not there."""
        from mlflow.exceptions import MlflowException

        with reported(f"read {domain}@{alias}", self.tracking_uri):
            try:
                entity = self._client.get_model_version_by_alias(domain, alias)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
            return _version(entity, list(entity.aliases))

    def get(self, domain: str, which: int | str) -> Version:
        """A version by number or alias. Raises RegistryInputError that names what there is."""
        if str(which).isdigit():
            found = next((row for row in self.versions(domain) if row["version"] == int(which)), None)
        else:
            found = self.alias(domain, str(which))
        if found is None:
            rows = self.versions(domain)
            names = ", ".join(str(row["version"]) + _in_brackets(row["aliases"]) for row in rows[:10])
            raise RegistryInputError(f"{domain} has no version or alias {which!r}; it has {names}")
        return found

    def bundle_path(self, domain: str, which: int | str, cache: Path | None = None) -> Path:
        """Local folder of a version's bundle: in place when the store is local, else downloaded under `cache`.

        Raises RegistryInputError for an unknown version, RegistryError when its files are gone.
        """
        version = self.get(domain, which)
        model = self._logged_model(version)
        place = urlsplit(str(model.artifact_location))
        if place.scheme in ("", "file"):
            folder = Path(url2pathname(place.path)) / "artifacts" / "bundle"
        else:
            folder = self._downloaded(version, cache) / "artifacts" / "bundle"
        if not folder.is_dir():
            raise RegistryError(
                f"{domain} version {version['version']} is registered, but its bundle is not at {folder}: "
                "restore the store's artifact folder, or choose another version"
            )
        return folder

    def _downloaded(self, version: Version, cache: Path | None) -> Path:
        """A remote model's files, fetched once: they never change under one model id."""
        from mlflow.artifacts import download_artifacts

        root = cache or Path(tempfile.mkdtemp(prefix="alter-model-"))
        target = root / str(version["model_id"])
        if not (target / "MLmodel").exists():
            root.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=root))
            with reported(f"download {version['uri']}", self.tracking_uri):
                got = download_artifacts(
                    f"models:/{version['name']}/{version['version']}",
                    dst_path=str(scratch),
                    tracking_uri=self.tracking_uri,
                    registry_uri=self.tracking_uri,
                )
            if not target.exists():  # another process may have been faster
                Path(got).rename(target)
        return target

    # --- registering

    def register(
        self,
        domain: str,
        run_id: str,
        bundle: Path,
        *,
        run_key: str,
        card: str,
        code_wheel: Path | None = None,
        tags: Mapping[str, Any] | None = None,
        example: Mapping[str, str] | None = None,
        requirements: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        description: str = "",
    ) -> int:
        """Store `bundle` as a model from code and register it; give the version number.

        One run_key has one version: a second call with the same key finds the first one's and adds nothing. `metrics`
        are logged on the run, bound to the model. `description` is that of the domain. Raises RegistryError.
        """
        with self._locked(domain), reported(f"register {domain}", self.tracking_uri):
            self._make_domain(domain, description)
            known = self._client.search_model_versions(f"name = '{domain}' and tags.run_key = '{run_key}'")
            if known:
                return max(int(entity.version) for entity in known)
            all_tags = {key: str(value) for key, value in {**(tags or {}), "run_key": run_key}.items()}
            experiment = self._client.get_run(run_id).info.experiment_id
            model = self._client.create_logged_model(
                experiment, name=domain, source_run_id=run_id, tags=all_tags, model_type="alter"
            )
            try:
                self._store_files(model, run_id, bundle, code_wheel, card, example, requirements)
            except BaseException:
                self._client.finalize_logged_model(model.model_id, "FAILED")
                raise
            self._client.finalize_logged_model(model.model_id, "READY")
            version = self._client.create_model_version(
                domain,
                source=model.artifact_location,
                run_id=run_id,
                model_id=model.model_id,
                tags={**all_tags, "model_id": model.model_id},
                description=_description(card),
            )
            self._link(domain, int(version.version), run_id, model.model_id, metrics or {})
            return int(version.version)

    def _make_domain(self, domain: str, description: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(domain, description=description or None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if description:
                self._client.update_registered_model(domain, description=description)

    def _store_files(
        self,
        model: Any,
        run_id: str,
        bundle: Path,
        code_wheel: Path | None,
        card: str,
        example: Mapping[str, str] | None,
        requirements: Sequence[str],
    ) -> None:
        """Build the model folder on local disk, then hand it to the store's artifact repository."""
        import pandas as pd
        from mlflow.models import Model
        from mlflow.pyfunc import save_model

        with tempfile.TemporaryDirectory(prefix="alter-register-") as scratch:
            folder = Path(scratch) / "model"
            artifacts = {"bundle": str(bundle)}
            pins = list(requirements)
            if code_wheel:
                code = Path(scratch) / "code"
                code.mkdir()
                shutil.copy2(code_wheel, code)  # a link would point out of the folder, which MLflow refuses
                artifacts["code"] = str(code)
                pins.append(f"artifacts/code/{code_wheel.name}")  # relative to the model, as pip is run there
            save_model(
                str(folder),
                python_model=str(MODEL_CODE),
                artifacts=artifacts,
                pip_requirements=pins,
                signature=_signature(),
                input_example=pd.DataFrame([dict(example)]) if example else None,
                mlflow_model=Model(
                    artifact_path=model.artifact_location,
                    run_id=run_id,
                    model_uuid=model.model_id,
                    model_id=model.model_id,
                ),
            )
            (folder / CARD).write_text(card, encoding="utf-8")
            self._client.log_model_artifacts(model.model_id, str(folder))

    def _link(self, domain: str, version: int, run_id: str, model_id: str, metrics: Mapping[str, float]) -> None:
        """What ties run, model and version together in the UI."""
        from mlflow.entities import LoggedModelOutput, Metric

        self._client.set_logged_model_tags(
            model_id, {"mlflow.modelVersions": json.dumps([{"name": domain, "version": version}])}
        )
        self._client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
        now = int(time.time() * 1000)
        bound = [Metric(key, float(value), now, 0, model_id) for key, value in metrics.items()]
        for begin in range(0, len(bound), 1000):
            self._client.log_batch(run_id, metrics=bound[begin : begin + 1000])
        self._client.set_tag(run_id, "alter.version", f"{domain} {version}")

    # --- aliases

    def set_champion(self, domain: str, version: int, expected_previous: int | None) -> None:
        """Make `version` the champion if the champion still is `expected_previous` (None: there is none).

        Raises AliasConflict when it is another one by now: decide again against that one.
        """
        with self._locked(domain):
            now = self.alias(domain, CHAMPION)
            current = now["version"] if now else None
            if current == version:
                return
            if current != expected_previous:
                raise AliasConflict(
                    f"{domain}: version {version} was compared with champion {_shown(expected_previous)}, but the "
                    f"champion is {_shown(current)} by now: compare them again (`alter promote {domain} {version}`)"
                )
            self.get(domain, version)
            with reported(f"promote {domain} version {version}", self.tracking_uri):
                if current is not None:
                    self._set_history(domain, [*self._history(domain), current])
                self._client.set_registered_model_alias(domain, CHAMPION, str(version))
                challenger = self.alias(domain, CHALLENGER)
                if challenger and challenger["version"] == version:
                    self._client.delete_registered_model_alias(domain, CHALLENGER)
                self._tag(domain, version, promoted=_now())

    def set_challenger(self, domain: str, version: int) -> None:
        """Name `version` as the one that waits for a person's decision."""
        with self._locked(domain), reported(f"name a challenger of {domain}", self.tracking_uri):
            self.get(domain, version)
            self._client.set_registered_model_alias(domain, CHALLENGER, str(version))

    def rollback(self, domain: str) -> tuple[int, int]:
        """Give the champion's place back to the one before it; (version that left, champion now).

        Called again, it goes one further back. Raises RegistryInputError when there is none before.
        """
        with self._locked(domain):
            now = self.alias(domain, CHAMPION)
            there = {row["version"] for row in self.versions(domain)}
            history = [number for number in self._history(domain) if number in there]
            if now is None or not history:
                raise RegistryInputError(
                    f"{domain} has no earlier champion to go back to; "
                    f"`alter promote {domain} VERSION` chooses one of versions {', '.join(map(str, sorted(there)))}"
                )
            *rest, back = history
            with reported(f"roll {domain} back", self.tracking_uri):
                self._client.set_registered_model_alias(domain, CHAMPION, str(back))
                self._set_history(domain, rest)
                self._tag(domain, now["version"], rolled_back=_now())
            return now["version"], back

    def tag(self, domain: str, version: int, tags: Mapping[str, Any]) -> None:
        """Add or replace tags of a version."""
        with reported(f"tag {domain} version {version}", self.tracking_uri):
            self._tag(domain, version, **tags)

    def set_card(self, domain: str, version: int, card: str) -> None:
        """Replace a version's description, such as when a decision is added to it."""
        with reported(f"describe {domain} version {version}", self.tracking_uri):
            self._client.update_model_version(domain, str(version), description=_description(card))

    def _tag(self, domain: str, version: int, **tags: Any) -> None:
        for key, value in tags.items():
            self._client.set_model_version_tag(domain, str(version), key, str(value))

    def _history(self, domain: str) -> list[int]:
        text = self._client.get_registered_model(domain).tags.get(HISTORY, "")
        return [int(part) for part in text.split(",") if part]

    def _set_history(self, domain: str, versions: Sequence[int]) -> None:
        text = ",".join(map(str, versions[-HISTORY_LENGTH:]))
        self._client.set_registered_model_tag(domain, HISTORY, text)

    # --- shared

    @contextmanager
    def _locked(self, domain: str) -> Iterator[None]:
        with domain_lock(self._client, self.tracking_uri, domain):
            yield

    def _logged_model(self, version: Version) -> Any:
        with reported(f"read {version['uri']}", self.tracking_uri):
            return self._client.get_logged_model(version["model_id"])

    def _unknown(self, domain: str) -> RegistryInputError:
        known = ", ".join(self.domains()) or "none yet"
        return RegistryInputError(
            f"no version of {domain!r} is registered (registered: {known}); `alter run` makes one"
        )


def _version(entity: Any, aliases: Sequence[str]) -> Version:
    tags = dict(entity.tags)
    try:
        macro = float(tags["macro"])
    except (KeyError, ValueError):
        macro = None
    return {
        "name": entity.name,
        "version": int(entity.version),
        "aliases": sorted(aliases),
        "macro": macro,
        "created": entity.creation_timestamp,
        "tags": tags,
        "run_id": entity.run_id,
        "model_id": tags.get("model_id"),
        "description": entity.description or "",
        "uri": f"models:/{entity.name}/{entity.version}",
    }


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("string", "task"), ColSpec("string", "input")]),
        outputs=Schema([ColSpec("string", "prediction"), ColSpec("double", "score"), ColSpec("boolean", "truncated")]),
    )


def _description(card: str) -> str:
    """The card as a version's description: cut at a line where a database would cut it anywhere."""
    if len(card) <= MAX_DESCRIPTION:
        return card
    note = f"\n\n*(The whole card is the file `{CARD}` of the model.)*"
    return card[: MAX_DESCRIPTION - len(note)].rsplit("\n", 1)[0] + note


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _shown(version: int | None) -> str:
    return "none" if version is None else str(version)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
