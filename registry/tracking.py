"""Tracker: one MLflow run per production of a domain, written through a client and never through global state."""

import json
import logging
import math
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypedDict

import psutil

from registry.accounts import user
from registry.errors import reported
from registry.places import Places, local
from registry.spending import rate_tag
from registry.store import open_client, sqlite_file

MAX_VALUE = 500  # of a parameter: the UI shows a line, and some databases keep no more
MAX_NAME = 250  # of a parameter
MAX_BATCH = 100  # parameters or tags in one call
MAX_METRICS = 1000  # metrics in one call
DATASET_DIGEST = 36  # longest digest that MLflow keeps
log = logging.getLogger(__name__)
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
Status = Literal["FINISHED", "FAILED", "KILLED"]
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI shows what belongs to training, not to agents
HOST, PID, STARTED = "alter.host", "alter.pid", "alter.process_started"
WORKSPACE = "alter.workspace"  # tag of a run: where it is made; one who holds the domain's lock there owns all of them
FREE = {"arguments", "columns", "label_map", "where"}
"""Parts of a spec whose keys are a person's own: each is one parameter, its mapping as JSON."""


class StepMetrics(TypedDict):
    """Metrics of one step."""

    step: int
    metrics: Mapping[str, object]


class Tracker:
    """MLflow runs of one experiment.

    tracking_uri: sqlite:///FILE or an http server. artifact_location: where a new experiment keeps its files; None
    takes the store's default. Raises RegistryInputError for an experiment that keeps its files elsewhere on this
    machine, in another workspace say. Every method raises RegistryError, or StoreUnavailable when a retry may help.
    """

    def __init__(self, tracking_uri: str, artifact_location: str | None, experiment: str) -> None:
        self.tracking_uri = tracking_uri
        self._client = open_client(tracking_uri)
        with reported(f"open the experiment {experiment!r}", tracking_uri):
            self.experiment_id = self._experiment(experiment, artifact_location)
            place = str(self._client.get_experiment(self.experiment_id).artifact_location)
        own = local(artifact_location) if artifact_location else None
        Places(sqlite_file(tracking_uri), own).need(place, f"the experiment {experiment!r}")

    def _experiment(self, name: str, artifact_location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        known = self._client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(self._client.create_experiment(name, artifact_location, tags=KIND))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # made by another process since we asked
                    raise
                known = self._client.get_experiment_by_name(name)
        if known.lifecycle_stage == "deleted":
            self._client.restore_experiment(known.experiment_id)
        return str(known.experiment_id)

    def start_run(self, name: str, params: Mapping[str, object], tags: Mapping[str, object]) -> str:
        """Open a run; give its id.

        params: nested mappings are flattened with dots; a value longer than MAX_VALUE is cut and says so. The run
        carries this process's host, id and start time, by which `sweep` later tells whether it still lives; with a tag
        WORKSPACE, that tells it.
        """
        from mlflow.entities import Param

        process = psutil.Process()
        owner = {HOST: socket.gethostname(), PID: process.pid, STARTED: round(process.create_time())}
        owner |= rate_tag() | {
            "mlflow.user": user(),
            "mlflow.source.name": Path(sys.argv[0]).name,
            "mlflow.source.type": "LOCAL",
        }
        flat = [Param(key, value) for key, value in dict(_flattened(params)).items()]
        run_tags = {key: str(value) for key, value in {**tags, **owner}.items()}
        with reported("start a run", self.tracking_uri):
            # With its tags: whatever fails or is killed from here on, `sweep` finds the run.
            run_id = str(self._client.create_run(self.experiment_id, tags=run_tags, run_name=name).info.run_id)
            for begin in range(0, len(flat), MAX_BATCH):
                self._client.log_batch(run_id, params=flat[begin : begin + MAX_BATCH])
        return run_id

    def set_tags(self, run_id: str, tags: Mapping[str, object]) -> None:
        """Add or replace tags of a run."""
        from mlflow.entities import RunTag

        with self._writing("tag a run", run_id):
            self._client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def log_metrics(self, run_id: str, rows: Sequence[StepMetrics]) -> None:
        """Append rows; None and non-numbers are left out, NaN is kept."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(key, float(value), now, row["step"])
            for row in rows
            for key, value in row["metrics"].items()
            if isinstance(value, int | float)
        ]
        with self._writing("log metrics", run_id):
            for begin in range(0, len(metrics), MAX_METRICS):
                self._client.log_batch(run_id, metrics=metrics[begin : begin + MAX_METRICS])

    def log_dataset(self, run_id: str, name: str, digest: str, profile: Mapping[str, object], source: str) -> None:
        """Record a data set as an input of the run: `profile` is any JSON (rows, labels, lengths)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Dataset(
            name=name,
            digest=digest[:DATASET_DIGEST],
            source_type="local" if "://" not in source else source.split("://")[0],
            source=json.dumps({"uri": source}),
            profile=json.dumps(profile, default=str),
        )
        with self._writing("log a data set", run_id):
            self._client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file, or a folder's files, under `folder` of the run's artifacts."""
        with self._writing(f"store {path.name}", run_id):
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), folder)
            else:
                self._client.log_artifact(run_id, str(path), folder)

    def log_figure(self, run_id: str, figure: Any, file: str) -> None:
        """Store a matplotlib figure as `file` (PNG or SVG by its ending)."""
        with self._writing(f"store {file}", run_id):
            self._client.log_figure(run_id, figure, file, save_kwargs={"bbox_inches": "tight"})

    def log_table(self, run_id: str, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Store columns of equal length as a table that the UI can show; `file` ends with .json."""
        with self._writing(f"store {file}", run_id):
            self._client.log_table(run_id, {key: list(values) for key, values in columns.items()}, file)

    @contextmanager
    def _writing(self, doing: str, run_id: str) -> Iterator[None]:
        """As `reported`, on a run that somebody may have deleted in MLflow while its process works: it comes back, as
        hours of work would end otherwise."""
        with reported(doing, self.tracking_uri):
            if self._client.get_run(run_id).info.lifecycle_stage == "deleted":
                self._client.restore_run(run_id)
                log.warning("the MLflow run %s was deleted while its production works: it is restored", run_id)
            yield

    def end_run(self, run_id: str, status: Status) -> None:
        """Close a run."""
        with self._writing("end a run", run_id):
            self._client.set_terminated(run_id, status)

    def sweep(self, workspace: str | None = None) -> list[str]:
        """Close as KILLED the runs that nobody works on any more; give their ids.

        workspace: of a caller who holds this domain's lock there, so that no other run of it lives, whatever machine or
        container opened it. Of runs without a workspace, those of this host whose process is gone are closed. A run of
        another workspace or host is left alone: whether it lives cannot be told from here.
        """
        killed = []
        with reported("look for abandoned runs", self.tracking_uri):
            for run in self._client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'"):
                if _is_left(run.data.tags, workspace):
                    self._client.set_tag(run.info.run_id, "alter.note", "its process ended without closing the run")
                    self._client.set_terminated(run.info.run_id, "KILLED")
                    killed.append(str(run.info.run_id))
        return killed


def _is_left(tags: Mapping[str, str], workspace: str | None) -> bool:
    if WORKSPACE in tags:
        return tags[WORKSPACE] == workspace
    return tags.get(HOST) == socket.gethostname() and not _alive(tags)


def _alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that opened a run still lives: a reused process id has another start time."""
    try:
        pid, started = int(tags[PID]), float(tags[STARTED])
        return pid == os.getpid() or abs(psutil.Process(pid).create_time() - started) < 2
    except (KeyError, ValueError, psutil.NoSuchProcess):
        return False
    except psutil.AccessDenied:
        return True


def _flattened(value: Any, prefix: str = "", whole: bool = False) -> Iterator[tuple[str, str]]:
    """(dotted key, text) of nested mappings and of lists of mappings; None and empty parts are left out.

    A list item is named by its `name` where it has one, so that a task's parameters keep their place when the order
    of tasks changes. `whole`, and a mapping with a key that no parameter's name can hold, is one JSON value.
    """
    parts = [] if whole else _parts(value)
    names = [f"{prefix}.{key}" if prefix else key for key, _ in parts]
    if not parts or not _can_be_names([key for key, _ in parts]) or max(map(len, names)) > MAX_NAME:
        if value is not None and value not in ("", [], (), {}):
            yield prefix or "parameters", _cut(value if isinstance(value, str) else _text(value))
        return
    for name, (key, part) in zip(names, parts, strict=True):
        yield from _flattened(part, name, whole=isinstance(value, Mapping) and key in FREE)


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What has a parameter, or several, of its own; nothing in a plain value."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, list | tuple) and all(isinstance(part, Mapping) for part in value):
        named = [(str(part.get("name", place)), part) for place, part in enumerate(value)]
        return named if _can_be_names([name for name, _ in named]) else [(str(n), part) for n, part in enumerate(value)]
    return []


def _can_be_names(keys: Sequence[str]) -> bool:
    """Whether MLflow takes them side by side; some databases do not tell capitals apart."""
    return all(map(_NAME.fullmatch, keys)) and len({key.lower() for key in keys}) == len(keys)


def _cut(text: str) -> str:
    if len(text) <= MAX_VALUE:
        return text
    note = f"... (cut; {len(text):,} characters in all)"
    return text[: MAX_VALUE - len(note)] + note


def _text(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)
