"""A version must repeat its recorded predictions in a fresh process."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from alter_core.errors import BundleError
from alter_core.inference.predict import Predictor
from registry.errors import RegistryError, RegistryInputError, VerificationError
from registry.verification import ELSEWHERE, compare_answers, fresh_process
from tests.conftest import tiny_rows
from tests.registry.conftest import Store, verify_in_fresh_process


@pytest.fixture(scope="module")
def samples(bundle: Path) -> list[dict[str, Any]]:
    rows = [{"task": task, "input": row["input"]} for task, lines in tiny_rows().items() for row in lines[:4]]
    answers = Predictor.from_bundle(bundle).predict([row["task"] for row in rows], [row["input"] for row in rows])
    return [
        {**row, "prediction": answer.text, "score": answer.score} for row, answer in zip(rows, answers, strict=True)
    ]


def test_a_whole_version_repeats_its_predictions_in_a_fresh_process(
    store: Store, bundle: Path, samples: list[dict[str, Any]]
) -> None:
    version = store.register(bundle, "k1")
    result = verify_in_fresh_process(store.uri, "tiny", version, samples)
    assert (result["rows"], result["different"]) == (len(samples), 0)


def flipped(bundle: Path) -> None:
    part = bundle / "mta.safetensors"
    data = bytearray(part.read_bytes())
    data[-1] ^= 0xFF
    part.write_bytes(data)


def misstated(bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["parts"]["mta.safetensors"] = "0" * len(manifest["parts"]["mta.safetensors"])
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def swapped(bundle: Path) -> None:
    """Another, consistent bundle in its place."""
    flipped(bundle)
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["parts"]["mta.safetensors"] = hashlib.sha256((bundle / "mta.safetensors").read_bytes()).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def missing(bundle: Path) -> None:
    (bundle / "mta.safetensors").unlink()


def by_predictor(store: Store, _bundle: Path, _samples: list[dict[str, Any]]) -> None:
    Predictor.from_bundle(store.models.bundle_path("tiny", 1))


def by_pyfunc(_store: Store, bundle: Path, _samples: list[dict[str, Any]]) -> None:
    mlflow.pyfunc.load_model(str(bundle.parent.parent))


def in_a_fresh_process(store: Store, _bundle: Path, samples: list[dict[str, Any]]) -> None:
    verify_in_fresh_process(store.uri, "tiny", 1, samples)


@pytest.mark.parametrize(
    ("damage", "load", "error"),
    [
        (flipped, by_predictor, BundleError),
        (flipped, by_pyfunc, BundleError),
        (misstated, by_predictor, RegistryError),
        (misstated, by_pyfunc, BundleError),
        (swapped, by_predictor, RegistryError),
        (missing, by_predictor, BundleError),
        (missing, by_pyfunc, BundleError),
        (missing, in_a_fresh_process, VerificationError),
    ],
)
def test_a_registered_bundle_that_is_no_longer_whole_is_refused_with_its_reason(
    store: Store,
    bundle: Path,
    samples: list[dict[str, Any]],
    damage: Callable[[Path], None],
    load: Callable[[Store, Path, list[dict[str, Any]]], None],
    error: type[Exception],
) -> None:
    store.register(bundle, "k1")
    stored = store.models.bundle_path("tiny", 1)
    damage(stored)
    with pytest.raises(error) as caught:
        load(store, stored, samples)
    assert ("missing" if damage is missing else "altered") in str(caught.value)
    assert ("bundle.json" if error is RegistryError else "mta.safetensors") in str(caught.value)


def started_with(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python process that starts from here on runs `code` first."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_what_a_fresh_process_leaves_in_its_temporary_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow leaves there the whole model that it fetched from a server."""
    started_with("import os, tempfile; tempfile.mkdtemp(prefix='model-'); os._exit(3)", tmp_path, monkeypatch)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with pytest.raises(VerificationError, match="exit code 3"):
        verify_in_fresh_process("sqlite:///unread", "tiny", 1, answers(1))
    assert list(temporary.iterdir()) == []


def test_without_samples_there_is_nothing_to_verify(store: Store) -> None:
    with pytest.raises(RegistryInputError, match="no recorded sample predictions"):
        verify_in_fresh_process(store.uri, "tiny", 1, [])


def answers(count: int, **changes: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [{"task": "t", "input": "x", "prediction": "yes", "score": 0.5} for _ in range(count)]
    for place, change in changes.items():
        rows[int(place.removeprefix("row"))].update(change)
    return rows


def test_a_differing_answer_is_named() -> None:
    with pytest.raises(VerificationError, match="1 of 4 answers and 0 scores differ") as caught:
        compare_answers("models:/t/1", answers(4), answers(4, row2={"prediction": "no"}))
    assert caught.value.problems == ("row 2 (t): recorded 'yes', answers 'no'",)


def test_one_answer_in_twenty_may_fall_the_other_way_by_rounding() -> None:
    assert compare_answers("u", answers(20), answers(20, row3={"prediction": "no"}))["different"] == 1


@pytest.mark.parametrize("score", [0.6, math.nan])
def test_a_score_that_is_far_off_or_no_number_is_refused(score: float) -> None:
    with pytest.raises(VerificationError, match="0 of 30 answers and 1 scores differ"):
        compare_answers("u", answers(30), answers(30, row7={"score": score}))


def test_a_score_within_rounding_is_the_same() -> None:
    assert compare_answers("u", answers(3), answers(3, row0={"score": 0.505}))["largest_score_difference"] < 0.02


@pytest.mark.parametrize(("wrong", "passes"), [(7, True), (8, False)])
def test_elsewhere_most_answers_must_be_repeated(wrong: int, passes: bool) -> None:
    other = {f"row{place}": {"prediction": "no"} for place in range(wrong)}
    if passes:
        assert compare_answers("u", answers(25), answers(25, **other), ELSEWHERE)["different"] == wrong
        return
    with pytest.raises(VerificationError, match="8 of 25 answers"):
        compare_answers("u", answers(25), answers(25, **other), ELSEWHERE)


ASKED = [{"task": "t", "input": "x", "prediction": "yes", "score": 0.5}]


def test_what_the_fresh_process_answers_is_what_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.dumps({"answers": [{"prediction": "no", "score": 0.5, "truncated": False}], "seconds": 1.0})
    code = f"import os, sys; open(sys.orig_argv[3], 'w').write({answer!r}); os._exit(0)"
    started_with(code, tmp_path, monkeypatch)
    with pytest.raises(VerificationError, match="1 of 1 answers"):
        verify_in_fresh_process("sqlite:///x", "tiny", 1, ASKED)


def test_a_fresh_process_that_does_not_answer_in_time_is_told() -> None:
    with pytest.raises(VerificationError, match="gave no answer within 0 s"):
        verify_in_fresh_process("sqlite:///x", "tiny", 1, ASKED, timeout=0.01)


def test_a_fresh_process_ends_with_the_block_that_started_it(store: Store) -> None:
    before = set(psutil.Process().children())
    with fresh_process(store.uri):
        (process,) = set(psutil.Process().children()) - before
    assert not process.is_running()
