"""The queries of dashboard, alerts and autoscaler are valid PromQL over metrics that exist."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import promql_parser
import pytest
import yaml
from hqsam_client import HQSam, HQSamError
from hqsam_server import TritonServer
from hqsam_testing.oracle import images
from hqsam_testing.waiting import TIMEOUT_S

DOCKER = Path(__file__).parents[2] / "docker"

# Metrics of Prometheus, Envoy and GPUs, which the server's own metrics page does not have.
ELSEWHERE = {
    "up",
    "envoy_cluster_membership_healthy",
    "envoy_cluster_upstream_rq_retry",
    "nv_gpu_utilization",
}


def queries() -> dict[str, str]:
    dashboard = json.loads((DOCKER / "grafana/hqsam.json").read_text(encoding="utf-8"))
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    for path in (DOCKER / "prometheus").glob("*alerts.yaml"):
        (group,) = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        found |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    adapter = DOCKER / "kubernetes/components/autoscaling/prometheus-adapter.yaml"
    (rule,) = yaml.safe_load(adapter.read_text(encoding="utf-8"))["rules"]["custom"]
    labels = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'pod="a"')
    found["autoscaler"] = labels.replace("<<.GroupBy>>", "pod")
    return {name: query.replace("$__rate_interval", "1m") for name, query in found.items()}


@pytest.mark.parametrize("name", queries())
def test_a_query_is_promql(name: str) -> None:
    promql_parser.parse(queries()[name])


def test_every_metric_is_one_that_the_server_has(tiny_server: TritonServer) -> None:
    names = {
        name
        for query in queries().values()
        for name in re.findall(r"\b(?:up|(?:nv|hqsam|envoy)_\w+)(?=\{)", query)
        + re.findall(r"\b(?:nv|hqsam)_\w+", query)
    }
    with HQSam(tiny_server.grpc_url, timeout_s=TIMEOUT_S) as sam:
        sam.open(images.draw(600, 400)).segment(points=[(20, 30)])
        with pytest.raises(HQSamError):
            sam.segment(b"no image", points=[(20, 30)])
        with urllib.request.urlopen(f"http://{tiny_server.metrics_url}/metrics") as response:
            page = response.read().decode()
    missing = {name for name in names - ELSEWHERE if not re.search(rf"^{name}[{{ ]", page, re.M)}
    assert missing == set()
    # The labels that the queries select.
    assert re.search(r'^nv_inference_request_summary_us\{.*quantile="0.99"', page, re.M)
    assert re.search(r'^nv_inference_request_failure\{.*reason="CANCELED"', page, re.M)
