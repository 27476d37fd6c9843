"""The cluster files that are shipped: what Ray's own validation says of them, and KubeRay's fields."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from gcsearch.cli.main import app

ROOT = Path(__file__).parents[1]


def variant(cloud: str) -> dict[str, Any]:
    """The file with a cloud's lines in place of the local ones, as its head says."""
    text = (ROOT / "ray_cluster.yaml").read_text()
    if cloud != "local":
        assert f"sed -e '/# local$/d' -e 's/^#{cloud} //' ray_cluster.yaml > {cloud}.yaml" in text
        text = re.sub(r"^.*# local\n", "", text, flags=re.MULTILINE)
        text = re.sub(rf"^#{cloud} ", "", text, flags=re.MULTILINE)
    return yaml.safe_load(text)


@pytest.mark.parametrize("cloud", ["local", "aws", "gcp"])
def test_ray_accepts_the_cluster_file(cloud: str) -> None:
    config = prepare_config(variant(cloud))
    validate_config(config)
    assert config["provider"]["type"] == cloud
    types = config["available_node_types"]
    if cloud == "local":
        assert [(kind["min_workers"], kind["max_workers"]) for kind in types.values()] == [(2, 2)]
        return
    assert types["head"]["max_workers"] == 0, "workers are not of the head's kind"
    assert types["head"]["resources"] == {"CPU": 0}
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (2, 8)
    spot = {
        "aws": ("InstanceMarketOptions", {"MarketType": "spot"}),
        "gcp": ("scheduling", [{"preemptible": True}, {"onHostMaintenance": "TERMINATE"}]),
    }
    key, value = spot[cloud]
    assert types["gpu"]["node_config"][key] == value
    assert key not in types["head"]["node_config"], "the head must not be taken away"


@pytest.mark.parametrize("cloud", ["local", "aws", "gcp"])
def test_every_node_gets_this_gcsearch_and_asks_for_the_token(cloud: str) -> None:
    config = prepare_config(variant(cloud))
    for remote, here in config["file_mounts"].items():
        if remote != "~/.ray/auth_token":
            assert (ROOT / here).exists()
            assert remote == f"~/gcsearch/{here}"
    for kind in ("head", "worker"):
        setup = config[f"{kind}_setup_commands"]
        assert "~/gcsearch-env/bin/pip install --quiet ~/gcsearch" in setup
        assert any("/mnt/studies" in command for command in setup)
        start = config[f"{kind}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start
        assert all(command.count("~/gcsearch-env/bin/ray") == 1 for command in config[f"{kind}_start_ray_commands"])
    needed = {"local": [], "aws": ["boto3"], "gcp": ["google-api-python-client", "cryptography"]}[cloud]
    assert all(any(name in command for command in config["head_setup_commands"]) for name in needed)


def test_what_ray_refuses_is_seen_here_too() -> None:
    config = prepare_config(variant("aws"))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config | {"head_nodes": {}})
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(config | {"head_node_type": "cpu"})


def objects(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}

POD = objects(
    ["spec"],
    metadata={"type": "object"},
    spec=objects(
        ["containers"],
        containers={
            "type": "array",
            "minItems": 1,
            "items": objects(
                ["name", "image"],
                name={"type": "string"},
                image={"type": "string"},
                resources=objects([], requests=TEXTS, limits=TEXTS),
                volumeMounts={
                    "type": "array",
                    "items": objects(["name", "mountPath"], name={"type": "string"}, mountPath={"type": "string"}),
                },
                env={"type": "array"},
            ),
        },
        volumes={"type": "array", "items": {"type": "object", "required": ["name"]}},
    ),
)
"""The part of Kubernetes' PodTemplateSpec (core/v1) that the manifest uses."""

RAY_JOB = objects(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=objects(["name"], name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}),
    spec=objects(
        [],
        activeDeadlineSeconds=COUNT,
        backoffLimit=COUNT,
        rayClusterSpec=objects(
            ["headGroupSpec"],
            rayVersion={"type": "string"},
            authOptions=objects([], mode={"enum": ["disabled", "token"]}, secretName={"type": "string"}),
            enableInTreeAutoscaling={"type": "boolean"},
            autoscalerOptions=objects(
                [],
                idleTimeoutSeconds=COUNT,
                upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
                version={"enum": ["v1", "v2"]},
            ),
            headGroupSpec=objects(["template"], rayStartParams=TEXTS, serviceType={"type": "string"}, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": objects(
                    ["groupName", "minReplicas", "maxReplicas", "template"],
                    groupName={"type": "string"},
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    numOfHosts=COUNT,
                    rayStartParams=TEXTS,
                    template=POD,
                ),
            },
        ),
        submitterConfig=objects([], backoffLimit=COUNT),
        entrypoint={"type": "string"},
        runtimeEnvYAML={"type": "string"},
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        ttlSecondsAfterFinished=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        suspend={"type": "boolean"},
    ),
)
"""Fields of the RayJob resource that KubeRay 1.6 knows, of those that a study could want, with their types.

Source: KubeRay's ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go, and its CRD API reference.
"""


def manifest() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docs" / "cluster" / "rayjob.yaml").read_text())


def test_the_kubernetes_manifest_has_kuberays_fields() -> None:
    job = manifest()
    jsonschema.validate(job, RAY_JOB)
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in pods):
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert set(mounts) == volumes
        assert f"--studies {mounts['studies']}" in job["spec"]["entrypoint"]
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in pods}) == 1
    assert cluster["authOptions"] == {"mode": "token"}


def test_a_mistake_in_the_manifest_is_seen() -> None:
    job = manifest()
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 8
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(job, RAY_JOB)


def test_the_manifests_command_is_one_that_gcsearch_knows() -> None:
    words = manifest()["spec"]["entrypoint"].split()
    command = typer.main.get_command(app).commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert words[0] == "gcsearch"
    assert {word for word in words if word.startswith("--")} <= known
    assert (ROOT / words[2]).exists()
