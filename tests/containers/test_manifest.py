"""The replica of the Kubernetes manifests runs as a pod, as far as `podman kube play` can."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hqsam_testing.command import hqsam
from hqsam_testing.waiting import wait_until

from tests.containers.images import CPU, ROOT, Storage, click, on_loopback

pytestmark = pytest.mark.slow

MANIFEST = ROOT / "docker" / "kubernetes" / "base" / "replicas.yaml"
CONTAINER = "replica-triton"


def pod(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Return the replica's pod, on this machine's network and with volumes in a folder.

    Podman knows neither the other two probes nor topology, and does not give a volume to the group
    `fsGroup`.
    """
    documents = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    (deployment,) = (it for it in documents if it["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    spec["hostNetwork"] = True
    del spec["topologySpreadConstraints"]
    (container,) = spec["containers"]
    for key in ("ports", "startupProbe", "readinessProbe"):
        del container[key]
    container["image"] = CPU
    container["args"] += arguments
    user = spec["securityContext"]["runAsUser"]
    names = [volume["name"] for volume in spec["volumes"]]
    spec["volumes"] = [{"name": name, "hostPath": {"path": str(folder / name)}} for name in names]
    for name in names:
        (folder / name).mkdir(exist_ok=True)
        os.chown(folder / name, user, user)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "replica"}, "spec": spec}


@pytest.fixture(scope="module")
def url(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the running replica."""
    folder = tmp_path_factory.mktemp("manifest")
    subprocess.run(hqsam("small", folder / "models"), check=True, capture_output=True)
    url, arguments = on_loopback()
    manifest = folder / "pod.yaml"
    manifest.write_text(yaml.safe_dump(pod(folder, arguments)))
    storage.podman("kube", "play", manifest)
    wait_until(
        lambda: "serving /models on" in storage.podman("logs", CONTAINER), "the replica to serve"
    )
    yield url
    storage.podman("kube", "down", manifest)


def test_it_answers_clicks_and_its_liveness_probe_passes(storage: Storage, url: str) -> None:
    click(url)
    storage.podman("healthcheck", "run", CONTAINER)
    # Its store is where the manifest puts it.
    assert ".safetensors" in storage.podman("exec", CONTAINER, "ls", "/dev/shm/hqsam")  # noqa: S108
