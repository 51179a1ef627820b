"""Champions: the version under each domain's alias, followed while it moves."""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from alter_core.errors import AlterError
from alter_core.inference.predict import Predictor
from alter_core.memory import release_free_memory
from flows.production.stores import model_name, model_store
from flows.serving.metrics import Metrics
from flows.serving.served import Served
from registry.champions import CHAMPION
from registry.errors import RegistryError, RegistryInputError
from registry.scorecard import Sample, own_scorecard
from registry.verification import ELSEWHERE, compare_answers
from registry.versions import Version

log = logging.getLogger(__name__)
LOOK_SECONDS = 2.0
AGAIN_SECONDS = 60.0  # before a version that could not be loaded is tried again
STOP_SECONDS = 5.0  # that the end waits for a look, which may be at a server that does not answer


@dataclass
class _Followed:
    """A domain's state. `trouble` says why the champion is not the version that answers, or may not be."""

    served: Served
    trouble: str | None = None
    failed: int | None = None
    again: float = 0.0


class Champions:
    """Loads each domain's champion, and looks every LOOK_SECONDS whether it is another one by now.

    A version answers once its bundle is whole under the digest that was registered and it repeats most of the
    predictions that were recorded of it: another machine rounds otherwise. Until then, and where it does not, the one
    before goes on answering.
    """

    def __init__(self, domains: Sequence[str], metrics: Metrics, turn: AbstractContextManager[None]) -> None:
        """turn: held while a model computes. Raises AlterError with what is wrong with every domain."""
        self._metrics, self._turn = metrics, turn
        self._store = model_store()
        self._followed: dict[str, _Followed] = {}
        self._left: list[weakref.ref[Predictor]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="champions", daemon=True)
        wrong: list[AlterError] = []
        for name in dict.fromkeys(map(model_name, domains)):
            try:
                served = self._loaded(self._store.get(name, CHAMPION))
            except AlterError as error:
                wrong.append(error)
                continue
            self._followed[name] = _Followed(served)
            self._took_over(served)
        if wrong:
            code = RegistryInputError if any(error.exit_code == 2 for error in wrong) else RegistryError
            raise wrong[0] if len(wrong) == 1 else code("these domains cannot be served", [str(one) for one in wrong])

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self._followed)

    def serving(self, domain: str) -> Served:
        """The version that answers now."""
        return self._followed[domain].served

    def trouble(self, domain: str) -> str | None:
        """Why the champion is not followed; None while it is."""
        return self._followed[domain].trouble

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(STOP_SECONDS)

    def _follow(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            for domain in self.domains:
                self._look(domain)
            if self._left:
                gc.collect()  # a version that left, once its last batch is answered: it holds itself in circles
                self._left = [one for one in self._left if one() is not None]
                release_free_memory(now=True)

    def _look(self, domain: str) -> None:
        """Make the champion the one that answers, if it is another."""
        state = self._followed[domain]
        try:
            now = self._store.alias(domain, CHAMPION)
            if now is None:
                self._tell(state, f"no version is champion any more; {state.served.name} goes on answering")
            elif now["version"] == state.served.version:
                self._tell(state, None)
            elif now["version"] != state.failed or time.monotonic() >= state.again:
                state.failed, state.again = now["version"], time.monotonic() + AGAIN_SECONDS
                served = self._loaded(now)
                self._left.append(weakref.ref(state.served.predictor))
                state.served, state.failed = served, None
                self._took_over(served)
                self._tell(state, None)
        except AlterError as error:
            if error.transient:
                state.failed = None
            self._tell(state, f"{state.served.name} goes on answering: {error}")
        except Exception as error:  # a defect in what was registered must not end what answers
            log.exception("%s: the champion cannot be followed", domain)
            self._tell(state, f"{state.served.name} goes on answering: {type(error).__name__}: {error}")

    def _tell(self, state: _Followed, trouble: str | None) -> None:
        domain = state.served.domain
        if trouble != state.trouble:
            log.log(*((logging.WARNING, trouble) if trouble else (logging.INFO, f"{domain}: followed again")))
        state.trouble = trouble
        self._metrics.trouble.labels(domain).set(trouble is not None)

    def _took_over(self, served: Served) -> None:
        log.info("%s answers", served.name)
        self._metrics.version.labels(served.domain).set(served.version)
        self._metrics.changes.labels(served.domain).inc()

    def _loaded(self, version: Version) -> Served:
        """Raises RegistryError and BundleError for a version that is not whole or answers otherwise than recorded."""
        name, number = version["name"], version["version"]
        predictor = Predictor.from_bundle(self._store.bundle_path(name, number))
        samples = self._samples(version)
        if samples:
            found = compare_answers(version["uri"], samples, self._repeated(predictor, samples), ELSEWHERE)
            if found["different"]:
                counts = found["different"], found["rows"]
                log.warning("%s/%d answers %d of %d recorded rows otherwise", name, number, *counts)
        else:
            log.warning("%s/%d has no recorded predictions: it is served without having repeated them", name, number)
        release_free_memory(now=True)  # reading a bundle takes more than it leaves
        return Served(name, number, predictor)

    def _samples(self, version: Version) -> Sequence[Sample]:
        try:
            facts = self._store.facts(version["name"], version["version"])
        except RegistryInputError:  # registered without them
            return ()
        return own_scorecard(facts["scorecards"]).get("samples", ())

    def _repeated(self, predictor: Predictor, samples: Sequence[Sample]) -> list[Sample]:
        """All rows in one call, as at registration: in other batches more would round otherwise."""
        with self._turn:
            answers = predictor.predict([row["task"] for row in samples], [row["input"] for row in samples])
        return [
            {**row, "prediction": answer.text, "score": float(answer.score)}
            for row, answer in zip(samples, answers, strict=True)
        ]
