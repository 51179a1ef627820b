"""What is stored of one version: the bundle as an MLflow model from code, with pins, signature, example, card and bill
of materials."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.bill import BILL, bill_of
from registry.facts import CardFacts
from registry.signing import requirements as signing_requirements
from registry.signing import sign

MODEL_CODE = Path(__file__).with_name("scoring_model.py")
CARD, FACTS = "card.md", "facts.json"
MANIFEST = "bundle.json"  # of the bundle: holds the digest of every other part
MAX_DESCRIPTION = 5000  # what a database keeps of a version's description


def write_model(
    folder: Path,
    model: Any,
    run_id: str,
    bundle: Path,
    code_wheel: Path | None,
    card: str,
    example: Mapping[str, str] | None,
    requirements: Sequence[str],
    facts: CardFacts | None = None,
) -> None:
    """Build the model's folder on local disk. `model` is MLflow's record of it; `folder` must not exist.

    Requirements and signature are given and not inferred: MLflow would load the whole model once more to find them.
    """
    import pandas as pd
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    artifacts, pins = {"bundle": str(bundle)}, list(requirements)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if signature := sign(bundle, folder.parent):
        artifacts["signature"] = str(signature)
        pins += signing_requirements()
    if code_wheel:
        code = folder.with_name("code")
        code.mkdir(parents=True)
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
            artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id
        ),
    )
    (folder / CARD).write_text(card, encoding="utf-8")
    if facts is not None:
        (folder / FACTS).write_text(json.dumps(facts, ensure_ascii=False, default=str), encoding="utf-8")
        bill = bill_of(facts, bundle_digest(bundle), pins)
        (folder / BILL).write_text(json.dumps(bill, indent=1, ensure_ascii=False), encoding="utf-8")


def bundle_digest(bundle: Path) -> str:
    """sha256 of the bundle's manifest, and so of the whole bundle. Raises OSError when there is no manifest."""
    return hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()


def as_description(card: str) -> str:
    """The card as a version's description: cut at a line where a database would cut it anywhere."""
    # MLflow draws tables without any space between cells.
    lines = [line.replace(" | ", " | &nbsp;") if line.startswith("| ") else line for line in card.split("\n")]
    spaced = "\n".join(line.replace("&nbsp;--", "--") for line in lines)
    for text in (spaced, card):
        if len(text) <= MAX_DESCRIPTION:
            return text
    note = f"\n\n*(The whole card is the file `{CARD}` of the model.)*"
    return card[: MAX_DESCRIPTION - len(note)].rsplit("\n", 1)[0] + note


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = {"prediction": "string", "score": "double", "truncated": "boolean", "abstain": "boolean"}
    return ModelSignature(
        inputs=Schema([ColSpec("string", "task"), ColSpec("string", "input")]),
        outputs=Schema([ColSpec(kind, name) for name, kind in columns.items()]),
    )
