"""The base job template for Kubernetes, read as text: no cluster is needed."""

import json
import re
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).parent.parent.parent / "stack" / "kubernetes-pool.json").read_text(encoding="utf-8")
TEMPLATE: dict[str, Any] = json.loads(TEXT)
JOB = TEMPLATE["job_configuration"]["job_manifest"]
POD = JOB["spec"]["template"]["spec"]


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
