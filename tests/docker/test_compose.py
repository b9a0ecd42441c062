"""The Dockerfile and the compose files agree with each other, the project and the tools' rules."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from hqsam_cli.commands import serve

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
REPLICAS = ("cpu", "gpu-0", "gpu-1")
COMPOSE = sorted(DOCKER.glob("compose*.yaml"))


def services(path: Path) -> dict[str, dict[str, Any]]:
    """Return a file's services, each merged with the one that it extends."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = {}
    for name, service in content["services"].items():
        base = service.get("extends")
        inherited = services(DOCKER / base["file"])[base["service"]] if base else {}
        found[name] = inherited | service
    return found


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_keep_the_specification(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # Compose itself puts in the variables' defaults before it validates a file.
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "./models", text)
    compose = PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(text)))
    assert compose.service_names()


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_mount_and_build_what_exists(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    named = set(content.get("volumes", {}))
    for service in services(path).values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).is_file()
            elif not source.startswith("$") and path.name != "compose.base.yaml":
                assert source in named
        if "build" in service:
            assert (DOCKER / service["build"]["context"]).resolve() == ROOT
            assert f" AS {service['build']['target']}\n" in DOCKERFILE


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_nothing_is_published_beyond_loopback(path: Path) -> None:
    for service in services(path).values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("compose.yaml", "cpu"),
        ("compose.yaml", "gpu"),
        *(("compose.cluster.yaml", name) for name in REPLICAS),
    ],
)
def test_the_server_runs_without_privileges(file: str, name: str) -> None:
    service = services(DOCKER / file)[name]
    assert service["read_only"] is True
    assert service["user"] == "1000:1000"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_each_gpu_has_a_replica_of_its_own() -> None:
    cluster = services(DOCKER / "compose.cluster.yaml")
    gpus = [it for name, it in cluster.items() if name.startswith("gpu-")]
    ids = [it["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for it in gpus]
    assert ids == [["0"], ["1"]]
    assert not any("replicas" in it["deploy"] for it in gpus)


@pytest.mark.parametrize(
    ("models", "served"),
    [
        ("compose.models.yaml", "compose.yaml"),
        ("compose.cluster.models.yaml", "compose.cluster.yaml"),
    ],
)
def test_own_models_are_mounted_for_every_server(models: str, served: str) -> None:
    with_models = yaml.safe_load((DOCKER / models).read_text(encoding="utf-8"))["services"]
    assert set(with_models) == {
        name for name, it in services(DOCKER / served).items() if "user" in it and "init" in it
    }


def test_envoy_and_prometheus_look_up_the_name_of_the_replicas() -> None:
    cluster = services(DOCKER / "compose.cluster.yaml")
    for name in REPLICAS:
        assert cluster[name]["networks"]["default"]["aliases"] == ["hqsam-replicas"]
    assert "address: hqsam-replicas, port_value: 8001" in (DOCKER / "envoy/envoy.yaml").read_text()
    prometheus = yaml.safe_load((DOCKER / "prometheus/prometheus.yaml").read_text())
    (discovery,) = prometheus["scrape_configs"][0]["dns_sd_configs"]
    assert discovery["names"] == ["hqsam-replicas"]
    (datasource,) = yaml.safe_load((DOCKER / "grafana/datasource.yaml").read_text())["datasources"]
    assert datasource["url"] == "http://prometheus:9090"
    assert "prometheus" in cluster


def test_the_images_start_hqsam_serve_with_options_that_it_has() -> None:
    entrypoints = re.findall(r"^ENTRYPOINT (\[.*?\])$", DOCKERFILE, re.DOTALL | re.MULTILINE)
    commands = [json.loads(text.replace("\\\n", "")) for text in entrypoints]
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    served = [command[3:] for command in commands if command[1:3] == ["hqsam", "serve"]]
    assert len(served) == 2
    for command in served:
        args = parser.parse_args(command)
        assert args.grpc_address == "0.0.0.0"  # noqa: S104 - inside a container
        assert args.model_repository == Path("/models")
    assert parser.parse_args(served[1]).model_config_name == "cuda"
    assert (ROOT / "model_repository/encoder/configs/cuda.pbtxt").is_file()


def test_an_older_driver_finds_cudas_compat_libraries() -> None:
    """NVIDIA's entrypoint puts their folder first on LD_LIBRARY_PATH, if the driver needs them."""
    servers = DOCKERFILE.split("FROM triton AS ")[1:]
    assert [stage.split("\n")[0] for stage in servers] == ["cpu", "gpu"]
    for stage in servers:
        assert 'ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "hqsam", "serve",' in stage
    instructions = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    assert not any("LD_LIBRARY_PATH" in line for line in instructions)


def test_no_manifest_replaces_nvidias_entrypoint() -> None:
    for path in COMPOSE:
        for name, service in services(path).items():
            assert "entrypoint" not in service, f"{name} of {path.name}"
    for path in (DOCKER / "kubernetes").rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            for container in servers_of(document):
                assert "command" not in container, path.name


def servers_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of a manifest that serve."""
    specification = document.get("spec", {})
    specification = specification.get("predictor") or specification.get("template", {}).get("spec")
    containers = (specification or {}).get("containers", [])
    return [it for it in containers if it["name"] in ("triton", "kserve-container")]


@pytest.mark.parametrize("name", ["docker/README.md", "docs/gpus.md"])
def test_the_documented_tag_is_the_images(name: str) -> None:
    (tag,) = re.findall(r"^ARG TRITON_TAG=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"`{tag}`" in (ROOT / name).read_text(encoding="utf-8")


def test_the_image_has_every_package_and_nothing_else(tmp_path: Path) -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in kept if line.startswith("!")}
    stage = DOCKERFILE.split(" AS wheel\n")[1].split("\nFROM ")[0]
    copied = {
        source
        for line in re.findall(r"^COPY (.*)$", stage, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == allowed
    # The wheel is built from links to exactly these files: a folder that is not copied is missing.
    context = tmp_path / "context"
    context.mkdir()
    for name in copied - {"model_repository"}:
        (context / name).symlink_to(ROOT / name)
    repository = shutil.copytree(ROOT / "model_repository", context / "model_repository")
    # An export that lies in the repository does not belong in the package.
    (repository / "encoder" / "1").mkdir(exist_ok=True)
    (repository / "encoder" / "1" / "model.onnx").touch()
    (repository / "manifest.json").touch()
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, context],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("hqsam_triton-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = {path.parent.name for path in ROOT.glob("*/hqsam_*/__init__.py")}
    assert {f"{package}/__init__.py" for package in packages - {"hqsam_testing"}} <= names
    assert "hqsam_server/small/encoder/1/model.onnx" in names
    ours = "hqsam_export/model_repository/"
    assert {f"{ours}segment/1/model.py", f"{ours}encode/1/.gitkeep"} <= names
    assert not {f"{ours}encoder/1/model.onnx", f"{ours}manifest.json"} & names
