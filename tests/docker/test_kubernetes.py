"""The manifests are valid, refer to each other correctly, and agree with the compose files."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from hqsam_cli.commands import export, serve
from hqsam_testing import configs
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).parents[2] / "docker"
KUBERNETES = ROOT / "kubernetes"
VERSION = "1.34"

CUSTOM = {"ServiceMonitor", "PrometheusRule", "InferenceService", "Kustomization", "Component"}
"""Kinds without a schema in Kubernetes itself."""

NOT_MANIFESTS = {"envoy-config.yaml", "prometheus-adapter.yaml"}

FILES = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name not in NOT_MANIFESTS)


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def everything() -> list[dict[str, Any]]:
    return [document for path in FILES for document in documents(path)]


def pod(document: dict[str, Any]) -> dict[str, Any] | None:
    """Return the pod's specification, where the document starts pods."""
    if document["kind"] == "InferenceService":
        return dict(document["spec"]["predictor"])
    return document["spec"].get("template", {}).get("spec") if "spec" in document else None


def name(path: Path) -> str:
    return str(path.relative_to(KUBERNETES))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_each_resource_follows_kubernetes_schema(path: Path) -> None:
    for document in documents(path):
        assert document["apiVersion"]
        if document["kind"] in CUSTOM or path.parent.parent.name == "overlays":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("path", sorted(KUBERNETES.rglob("kustomization.yaml")), ids=name)
def test_kustomizations_name_what_exists(path: Path) -> None:
    (kustomization,) = documents(path)
    for key in ("resources", "components"):
        for entry in kustomization.get(key, []):
            target = path.parent / entry
            assert target.is_file() or (target / "kustomization.yaml").is_file(), target
    known = {(it["kind"], it["metadata"]["name"]) for it in everything() if "metadata" in it}
    for patch in kustomization.get("patches", []):
        if "path" in patch:
            (document,) = documents(path.parent / patch["path"])
            target = document["kind"], document["metadata"]["name"]
        else:
            target = patch["target"]["kind"], patch["target"]["name"]
        assert target in known
    images = {c["image"].split(":")[0] for it in everything() for c in _containers(it)}
    assert {it["name"] for it in kustomization.get("images", [])} <= images
    for generator in kustomization.get("configMapGenerator", []):
        for entry in generator["files"]:
            assert (path.parent / entry.split("=")[1]).is_file()


def _containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    specification = pod(document)
    containers = specification.get("containers", []) if specification else []
    return [container for container in containers if "image" in container]


@pytest.mark.parametrize("path", sorted(KUBERNETES.glob("overlays/*")), ids=name)
def test_overlays_put_the_components_into_the_namespace(path: Path) -> None:
    (kustomization,) = documents(path / "kustomization.yaml")
    (base,) = documents(KUBERNETES / "base" / "kustomization.yaml")
    assert kustomization["namespace"] == base["namespace"]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_an_overlay_needs_no_operator_unless_it_is_the_monitored_one(kind: str) -> None:
    (plain,) = documents(KUBERNETES / "overlays" / kind / "kustomization.yaml")
    assert "components" not in plain
    assert plain["resources"] == ["../../base"]
    (monitored,) = documents(KUBERNETES / "overlays" / f"{kind}-monitored" / "kustomization.yaml")
    assert monitored["resources"] == [f"../{kind}"]
    assert monitored["components"] == [
        "../../components/monitoring",
        "../../components/autoscaling",
    ]
    (components,) = documents(KUBERNETES / "components/monitoring/kustomization.yaml")
    kinds = {
        it["kind"]
        for file in components["resources"]
        for it in documents(KUBERNETES / "components/monitoring" / file)
    }
    assert kinds == {"ServiceMonitor", "PrometheusRule"}


def test_a_rollout_needs_no_spare_gpu() -> None:
    (gpu,) = documents(KUBERNETES / "overlays/gpu/resources.yaml")
    assert gpu["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


@pytest.mark.parametrize(
    "path", [KUBERNETES / "overlays/cpu", KUBERNETES / "overlays/gpu"], ids=name
)
def test_overlays_tag_the_images(path: Path) -> None:
    (kustomization,) = documents(path / "kustomization.yaml")
    # The export image has a separate name; otherwise it would get the server's tag.
    tags = {it["name"]: it.get("newTag") for it in kustomization["images"]}
    assert tags["hqsam-triton"] == path.name
    assert tags["hqsam-triton-export"] == "export"
    cluster = (ROOT / "compose.cluster.yaml").read_text(encoding="utf-8")
    assert f"image: envoyproxy/envoy:{tags['envoyproxy/envoy']}\n" in cluster


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("path", sorted(KUBERNETES.glob("overlays/*")), ids=name)
def test_kubectl_builds_the_overlay_to_valid_resources(path: Path) -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", path], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    resources = list(yaml.safe_load_all(built.stdout))
    assert {it["metadata"].get("namespace") for it in resources} == {None, "hqsam"}
    for resource in resources:
        if resource["kind"] not in CUSTOM:
            kubernetes_validate.validate(resource, VERSION, strict=True)


def test_the_memory_of_a_pod_adds_up() -> None:
    (deployment, *_) = [
        it for it in documents(KUBERNETES / "base/replicas.yaml") if it["kind"] == "Deployment"
    ]
    replica = pod(deployment)
    assert replica is not None
    volumes = {volume["name"]: volume for volume in replica["volumes"]}
    shared_gib = int(volumes["shm"]["emptyDir"]["sizeLimit"].removesuffix("Gi"))
    environment = {it["name"]: it["value"] for it in replica["containers"][0]["env"]}
    # One GiB is left for the shared memory of Triton's processes.
    assert int(environment["HQSAM_STORE_BYTES"]) == (shared_gib - 1) * 2**30
    for path in KUBERNETES.glob("overlays/*/resources.yaml"):
        (patch,) = documents(path)
        (container,) = patch["spec"]["template"]["spec"]["containers"]
        limit_gib = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
        assert limit_gib >= shared_gib + 4  # 3.6 GB are resident
        if "cpu" in container["resources"]["limits"]:
            assert f"--threads={container['resources']['limits']['cpu']}" in container["args"]


def deployment_of(path: Path) -> dict[str, Any]:
    """Return the pod's specification in the only Deployment of a file."""
    (found,) = (it for it in documents(path) if it["kind"] == "Deployment")
    return dict(found["spec"]["template"]["spec"])


def test_a_replica_on_a_gpu_names_runtime_and_nodes() -> None:
    patch = deployment_of(KUBERNETES / "overlays/gpu/node.yaml")
    (kserve, _) = documents(KUBERNETES / "kserve/inference-service.yaml")
    for specification in (patch, kserve["spec"]["predictor"]):
        assert specification["runtimeClassName"] == "nvidia"
        assert specification["nodeSelector"] == {"nvidia.com/gpu.present": "true"}


TENSORRT = KUBERNETES / "overlays/gpu-tensorrt"


def test_engines_of_tensorrt_outlive_their_pod_and_are_shared() -> None:
    (claim,) = documents(TENSORRT / "engines.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kubernetes_validate.validate(claim, VERSION, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    patch = deployment_of(TENSORRT / "resources.yaml")
    (volume,) = patch["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    (mount,) = patch["containers"][0]["volumeMounts"]
    text = (configs.REPOSITORY / "encoder/configs/tensorrt.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    (tensorrt,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert mount == {
        "name": volume["name"],
        "mountPath": tensorrt.parameters["trt_engine_cache_path"],
    }


def test_the_build_of_an_engine_has_time_and_memory() -> None:
    (container,) = deployment_of(TENSORRT / "resources.yaml")["containers"]
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    args = parser.parse_args(container["args"])
    assert args.model_config_name == "tensorrt"
    assert args.start_timeout_secs > parser.get_default("start_timeout_secs")
    (base,) = deployment_of(KUBERNETES / "base/replicas.yaml")["containers"]
    assert args.proxy == parser.parse_args(base["args"]).proxy
    # A replica may wait for another one before it builds.
    tries = container["startupProbe"]["failureThreshold"]
    assert tries * base["startupProbe"]["periodSeconds"] > 2 * args.start_timeout_secs
    (gpu,) = deployment_of(KUBERNETES / "overlays/gpu/resources.yaml")["containers"]
    for kind in ("requests", "limits"):
        memory = [it["resources"][kind]["memory"].removesuffix("Gi") for it in (container, gpu)]
        assert int(memory[0]) > int(memory[1])


def test_weights_are_exported_in_the_precision_that_the_job_says() -> None:
    (job, _) = documents(KUBERNETES / "components/export-weights/job.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environment = {it["name"]: it["value"] for it in container["env"]}
    (command,) = container["args"]
    words = command.replace("$(hqsam fetch)", "file").replace(
        "$PRECISION", environment["PRECISION"]
    )
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    args = parser.parse_args([word.strip('"') for word in words.split()[2:]])
    assert args.precision == "fp32"


def test_patches_of_an_overlay_change_containers_that_exist() -> None:
    (deployment, *_) = [
        it for it in documents(KUBERNETES / "base" / "replicas.yaml") if it["kind"] == "Deployment"
    ]
    names = {container["name"] for container in _containers(deployment)}
    for path in KUBERNETES.glob("overlays/*/resources.yaml"):
        (patch,) = documents(path)
        specification = pod(patch)
        assert specification is not None
        assert {container["name"] for container in specification["containers"]} <= names


def test_containers_run_without_privileges() -> None:
    seen = 0
    for document in everything():
        for container in _containers(document):
            seen += 1
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            specification = pod(document)
            assert specification is not None
            assert specification["securityContext"]["runAsNonRoot"] is True
            assert specification["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts == {volume["name"] for volume in specification.get("volumes", [])}
    assert seen == 5


def test_a_replica_has_enough_time_to_end() -> None:
    for document in everything():
        specification = pod(document)
        if document["kind"] != "Deployment" or "securityContext" not in (specification or {}):
            continue
        assert specification is not None
        (container,) = specification["containers"]
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        pause = int(command[-1].split()[-1])
        exit_timeout = 30 if container["name"] == "triton" else 0
        assert pause + exit_timeout < specification["terminationGracePeriodSeconds"]


def test_services_and_budgets_select_pods_that_exist() -> None:
    pods = [
        it["spec"]["template"]["metadata"]["labels"].items()
        for it in everything()
        if it["kind"] in ("Deployment", "Job") and "metadata" in it["spec"]["template"]
    ]
    for document in everything():
        if document["kind"] == "Service":
            selector = document["spec"]["selector"]
        elif document["kind"] == "PodDisruptionBudget":
            selector = document["spec"]["selector"]["matchLabels"]
        else:
            continue
        assert any(selector.items() <= labels for labels in pods), selector


def test_envoy_is_configured_as_in_compose() -> None:
    copied = KUBERNETES / "base" / "envoy-config.yaml"
    assert copied.read_text() == (ROOT / "envoy" / "envoy.yaml").read_text()


def test_alerts_are_those_of_compose() -> None:
    (rule,) = documents(KUBERNETES / "components" / "monitoring" / "alerts.yaml")
    (compose,) = documents(ROOT / "prometheus" / "alerts.yaml")
    assert rule["spec"] == compose
