"""The bill of materials of a version: the model, its backbone, its data and libraries with their licences, as CycloneDX
1.6 (ECMA-424), which licence and security scanners read."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import InvalidRequirement, Requirement

from registry.facts import CardFacts
from registry.scorecard import own_scorecard

BILL = "bill.cdx.json"


def bill_of(facts: CardFacts, bundle_digest: str, requirements: Sequence[str]) -> Mapping[str, Any]:
    """The bill as JSON. bundle_digest: sha256 of the bundle's manifest. requirements: the pins that it is served with;
    one that is a file of the model itself is left out, as the model holds it."""
    backbone, tasks = facts.get("backbone", {}), facts["tasks"]
    data = [
        {
            "type": "data",
            "bom-ref": f"data/{name}",
            "name": name,
            "description": task.get("source", ""),
            **_licences(task.get("licence", "")),
            "data": [{"type": "dataset", "name": name, "description": _rows(task.get("rows", {}))}],
        }
        for name, task in tasks.items()
    ]
    base = {
        "type": "machine-learning-model",
        "bom-ref": "backbone",
        "name": backbone.get("model", "unknown"),
        **({"version": revision} if (revision := backbone.get("revision")) else {}),
        **_licences(backbone.get("licence", "")),
        "properties": [{"name": "alter:digest", "value": backbone.get("digest", "")}],
    }
    libraries = [pin for text in requirements if (pin := _library(text))]
    own = own_scorecard(facts["scorecards"])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, bundle_digest)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": facts["domain"],
                "description": facts.get("description", ""),
                "hashes": [{"alg": "SHA-256", "content": bundle_digest}],
                "modelCard": {
                    "modelParameters": {
                        "task": ", ".join(sorted({task.get("type", "") for task in tasks.values()})),
                        "architectureFamily": "transformer with Mixture-of-Task-Adapters",
                        "datasets": [{"ref": f"data/{name}"} for name in tasks],
                    },
                    "quantitativeAnalysis": {
                        "performanceMetrics": [
                            {
                                "type": score["metric"],
                                "slice": name,
                                "value": f"{value['value']:.4f}",
                                "confidenceInterval": {
                                    "lowerBound": f"{value['low']:.4f}",
                                    "upperBound": f"{value['high']:.4f}",
                                },
                            }
                            for name, score in own["tasks"].items()
                            for value in [score["metrics"][score["metric"]]]
                        ]
                    },
                },
            },
        },
        "components": [base, *data, *libraries],
        "dependencies": [
            {"ref": "model", "dependsOn": [one["bom-ref"] for one in [base, *data, *libraries]]},
        ],
    }


def _licences(text: str) -> dict[str, Any]:
    """An SPDX expression where the text is one, else its words; nothing where no licence is stated."""
    if not text.strip():
        return {}
    try:
        return {"licenses": [{"expression": canonicalize_license_expression(text)}]}
    except InvalidLicenseExpression:
        return {"licenses": [{"license": {"name": text}}]}


def _rows(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split} rows" for split, count in rows.items())


def _library(text: str) -> dict[str, Any] | None:
    try:
        pin = Requirement(text)
    except InvalidRequirement:  # the path of a wheel
        return None
    version = next((each.version for each in pin.specifier if each.operator == "=="), "")
    purl = f"pkg:pypi/{pin.name.lower()}" + (f"@{version}" if version else "")
    return {"type": "library", "bom-ref": purl, "name": pin.name, "version": version, "purl": purl}
