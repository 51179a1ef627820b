"""Registering: a bundle becomes a stored model and a version, once for each run key and bundle."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.errors import reported
from registry.facts import CardFacts
from registry.packaging import as_description, bundle_digest, write_model
from registry.store import domain_lock
from registry.versions import BUNDLE_DIGEST, Versions

MODEL_TYPE = "alter"  # of our logged models: a store may hold models that others registered
LINKED = "alter.version"  # tag of a run, set last


class Registration(Versions):
    """The part of ModelStore that makes versions."""

    def register(
        self,
        domain: str,
        run_id: str,
        bundle: Path,
        *,
        run_key: str,
        card: str,
        code_wheel: Path | None = None,
        tags: Mapping[str, object] | None = None,
        example: Mapping[str, str] | None = None,
        requirements: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
        description: str = "",
        facts: CardFacts | None = None,
    ) -> int:
        """Store `bundle` as a model from code and register it; give the version number.

        One run_key and bundle have one version: a second call with both finds the first one's and adds nothing. A run
        that is made again may end in another bundle, and that is a version of its own: what is decided of a model and
        said in its card must stand at no other. `metrics` are logged on the run, bound to the model. `description` is
        that of the domain. `facts` (all of CardFacts) are kept as JSON; the method `facts` gives them
        back, for reports and comparisons. Raises RegistryError, and OSError for a bundle without bundle.json.
        """
        with reported(f"register {domain}", self.tracking_uri):
            with self._locked(domain):
                self._make_domain(domain, description)
            own = {"run_key": run_key, BUNDLE_DIGEST: bundle_digest(bundle)}
            if (known := self._known(domain, own, run_id, metrics or {})) is not None:
                return known
            all_tags = {key: str(value) for key, value in {**(tags or {}), **own}.items()}
            experiment = self.client.get_run(run_id).info.experiment_id
            model = self.client.create_logged_model(
                experiment, name=domain, source_run_id=run_id, tags=all_tags, model_type=MODEL_TYPE
            )
            try:
                self.places.need(model.artifact_location, f"the experiment of {domain}")
                with tempfile.TemporaryDirectory(prefix="alter-register-") as scratch:
                    folder = Path(scratch) / "model"
                    write_model(folder, model, run_id, bundle, code_wheel, card, example, requirements, facts)
                    self.client.log_model_artifacts(model.model_id, str(folder))
            except BaseException:
                self.client.finalize_logged_model(model.model_id, "FAILED")
                raise
            self.client.finalize_logged_model(model.model_id, "READY")
            with self._locked(domain):  # not while files go to a server, which may take long
                if (known := self._known(domain, own, run_id, metrics or {})) is not None:
                    return known
                self.client.create_model_version(
                    domain,
                    source=model.artifact_location,
                    run_id=run_id,
                    model_id=model.model_id,
                    tags={**all_tags, "model_id": model.model_id},
                    description=as_description(card),
                )
                version = self._first_of(domain, {"model_id": model.model_id})
                self._link(domain, version, run_id, model.model_id, metrics or {})
                self.set_card(domain, version, card)
                return version

    def _known(self, domain: str, own: Mapping[str, str], run_id: str, metrics: Mapping[str, float]) -> int | None:
        """The version that was made with these tags, if its files are there still; where that was cut off, it is linked
        now, as it is with the run that made it again."""
        known = [entity for entity in self._made_with(domain, own) if self.stored(entity.tags.get("model_id"))]
        if not known:
            return None
        entity = max(known, key=lambda entity: int(entity.version))
        made_by = self.run(entity.run_id)  # a person may have deleted it
        if made_by is not None and LINKED not in made_by.data.tags:
            self._link(domain, int(entity.version), entity.run_id, entity.tags["model_id"], metrics)
        if run_id != entity.run_id:  # not bound to the model again, whose metrics would stand there twice
            self._log_version(run_id, domain, int(entity.version), metrics)
        return int(entity.version)

    def _made_with(self, domain: str, own: Mapping[str, str]) -> Sequence[Any]:
        wanted = "".join(f" and tags.{key} = '{value}'" for key, value in own.items())
        found: Sequence[Any] = self.client.search_model_versions(f"name = '{domain}'{wanted}")
        return found

    def _first_of(self, domain: str, own: Mapping[str, str]) -> int:
        """The version that was just made with these tags; a second one is deleted.

        A server that goes away before it has answered is asked again by MLflow's client, and may have done it already.
        """
        first, *more = sorted(int(entity.version) for entity in self._made_with(domain, own))
        for twin in more:
            self.client.delete_model_version(domain, str(twin))
        return first

    def _make_domain(self, domain: str, description: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(domain, description=description or None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if description:
                self.client.update_registered_model(domain, description=description)

    def _link(self, domain: str, version: int, run_id: str, model_id: str, metrics: Mapping[str, float]) -> None:
        """What ties run, model and version together in the UI."""
        from mlflow.entities import LoggedModelOutput

        self.client.set_logged_model_tags(
            model_id, {"mlflow.modelVersions": json.dumps([{"name": domain, "version": version}])}
        )
        outputs = self.client.get_run(run_id).outputs
        if model_id not in [output.model_id for output in (outputs.model_outputs if outputs else ())]:
            # A second time, as after a kill between here and the last line, is an error of the database.
            self.client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
        self._log_version(run_id, domain, version, metrics, model_id)

    def _log_version(
        self, run_id: str, domain: str, version: int, metrics: Mapping[str, float], model_id: str | None = None
    ) -> None:
        """What a run says of the version that it ended in."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        logged = [Metric(key, float(value), now, 0, model_id) for key, value in metrics.items()]
        for begin in range(0, len(logged), 1000):
            self.client.log_batch(run_id, metrics=logged[begin : begin + 1000])
        self.client.set_tag(run_id, LINKED, f"{domain} {version}")

    def set_card(self, domain: str, version: int, card: str) -> None:
        """Make `card` the description of a version, and of the run that made it, if that is there still."""
        from mlflow.exceptions import MlflowException

        with reported(f"describe {domain} version {version}", self.tracking_uri):
            self.client.update_model_version(domain, str(version), description=as_description(card))
            run = self.client.get_model_version(domain, str(version)).run_id
            if not run:
                return
            try:
                self.client.set_tag(run, "mlflow.note.content", as_description(card))
            except MlflowException as error:  # a person may delete runs in MLflow's UI
                if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                    raise

    @contextmanager
    def _locked(self, domain: str) -> Iterator[None]:
        with domain_lock(self.client, self.tracking_uri, domain):
            yield
