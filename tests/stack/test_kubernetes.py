"""The base job template for Kubernetes, read as text: no cluster is needed."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from prefect.utilities.templating import apply_values

TEXT = (Path(__file__).parent.parent.parent / "stack" / "kubernetes-pool.json").read_text(encoding="utf-8")
TEMPLATE: dict[str, Any] = json.loads(TEXT)
JOB = TEMPLATE["job_configuration"]["job_manifest"]
POD = JOB["spec"]["template"]["spec"]
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "kubernetes-job.json").read_text(encoding="utf-8"))
GIVEN = {
    "image": "registry.example/alter-worker:0.1.0",
    "name": "brave-otter",
    "command": ["prefect", "flow-run", "execute"],
    "env": [{"name": "PREFECT__FLOW_RUN_ID", "value": "5a3dd6d5"}],
    "labels": {"prefect.io/flow-run-name": "brave-otter"},
}
"""What a run gives the template, as `prefect-kubernetes` hands it on."""


def flaws(**settings: Any) -> list[str]:
    """What Kubernetes' schema finds wrong with the job of a run, in a pool with these settings."""
    pool = {name: one["default"] for name, one in TEMPLATE["variables"]["properties"].items() if "default" in one}
    configuration = apply_values(deepcopy(TEMPLATE["job_configuration"]), {**pool, **GIVEN, **settings})
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(configuration["job_manifest"])]


def test_the_job_of_a_run_is_one_that_kubernetes_knows_to_the_last_field() -> None:
    """One that it does not know, it leaves out without a word."""
    assert flaws() == []
    assert flaws(cpu="500m", memory="24Gi", gpus=1) == []
    assert flaws(image=7) == ["$.spec.template.spec.containers[0].image"]


def test_every_variable_is_declared_and_every_declared_one_is_used() -> None:
    assert set(re.findall(r"\{\{ (\w+) \}\}", TEXT)) == set(TEMPLATE["variables"]["properties"])


def test_a_run_has_no_rights_on_the_node_or_the_cluster() -> None:
    (container,) = POD["containers"]
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_what_is_mounted_is_there_and_no_password_stands_in_the_template() -> None:
    (container,) = POD["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    assert container["envFrom"] == [{"secretRef": {"name": "alter"}}]
    assert "PASSWORD" not in TEXT.upper()


def test_a_run_that_ends_badly_is_left_to_the_next_one() -> None:
    """Prefect would not know of a pod that Kubernetes starts again by itself."""
    assert JOB["spec"]["backoffLimit"] == 0
    assert POD["restartPolicy"] == "Never"
