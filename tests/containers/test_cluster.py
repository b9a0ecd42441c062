"""Replicas behind Envoy, as compose.cluster.yaml runs them: calls, alerts and what a loss does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from hqsam_client import HQSam
from hqsam_testing.api import new_png
from hqsam_testing.replicas import Load
from hqsam_testing.waiting import TIMEOUT_S, wait_until

from tests.containers.cluster import REPLICAS, Cluster, missing
from tests.containers.images import ROOT, Storage, click

pytestmark = pytest.mark.long

IMAGES = 12
CLICKS = 24
"""Least number of clicks before and after an event."""
DOWN = {"HqsamAllDown", "HqsamNoHealthyReplica", "HqsamReplicaDown", "HqsamReplicaLost"}
"""Alerts of replicas that are not there; those of slow calls depend on this machine."""
BUSY = 24
"""Clients that are more than two replicas should have."""


@pytest.fixture(scope="module")
def cluster(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with storage.docker_host() as docker_host:
        cluster = Cluster(storage, tmp_path_factory.mktemp("cluster"), docker_host)
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.compose("down", "--volumes", "--timeout=45")


@pytest.fixture
def sam(cluster: Cluster) -> Iterator[HQSam]:
    with HQSam(cluster.url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam:
        yield sam


def test_every_replica_gets_its_share_of_images(cluster: Cluster, sam: HQSam) -> None:
    for _ in range(IMAGES):
        sam.open(new_png()).segment(points=[(20, 20)])
    clicks = 'hqsam_calls_total{model="segment",code="OK"}'
    wait_until(lambda: sum(cluster.query(clicks)) == IMAGES, "Prometheus to know of all clicks")
    assert len(cluster.query(clicks)) == REPLICAS
    assert not cluster.firing() & DOWN


def test_no_call_is_lost_with_a_replica_and_its_alert_comes_and_goes(
    cluster: Cluster, sam: HQSam
) -> None:
    with Load([sam.open(new_png()) for _ in range(IMAGES)], clients=4) as load:
        load.wait_for(CLICKS)
        cluster.kill(cluster.replicas()[0])
        wait_until(lambda: "HqsamReplicaLost" in cluster.shown(), "the alert")
        load.wait_for_all()
        cluster.up()
        load.wait_for_all()
    assert load.errors == []
    wait_until(lambda: "HqsamReplicaLost" not in cluster.shown(), "the alert to end")


def test_replicas_are_replaced_one_after_the_other_without_losing_a_call(
    cluster: Cluster, sam: HQSam
) -> None:
    old = cluster.replicas()
    with Load([sam.open(new_png()) for _ in range(IMAGES)], clients=4) as load:
        for replica in old:
            load.wait_for(CLICKS)
            cluster.replace(replica)
        load.wait_for_all()
    assert load.errors == []
    assert not set(old) & set(cluster.replicas())


def test_an_outage_is_one_alert_and_ends_without_help(cluster: Cluster) -> None:
    for replica in cluster.replicas():
        cluster.kill(replica)
    both = {"HqsamAllDown", "HqsamNoHealthyReplica"}
    wait_until(lambda: both <= cluster.firing(), "both alerts")
    wait_until(lambda: both & cluster.shown() == {"HqsamAllDown"}, "Alertmanager to show one")
    cluster.up()
    click(cluster.url)
    wait_until(lambda: not both & cluster.shown(), "the alert to end")


def test_the_autoscalers_metric_rises_under_load_and_falls_afterwards(
    cluster: Cluster, sam: HQSam
) -> None:
    query, target = autoscaler()
    images = [sam.open(new_png()) for _ in range(BUSY)]

    def mean() -> float:
        return sum(cluster.query(query)) / REPLICAS

    with Load(images, clients=BUSY) as load:
        wait_until(lambda: mean() > target, f"more than {target} calls under way on a replica")
    assert load.errors == []
    wait_until(lambda: mean() == 0, "no call under way")


def autoscaler() -> tuple[str, float]:
    """Return the autoscaler's query, by replica and over seconds, and what it scales to."""
    folder = ROOT / "docker" / "kubernetes" / "components" / "autoscaling"
    (rule,) = yaml.safe_load((folder / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>,", "").replace("[1m]", "[5s]")
    (metric,) = yaml.safe_load((folder / "autoscaler.yaml").read_text())["spec"]["metrics"]
    target = metric["pods"]["target"]["averageValue"]
    return query.replace("<<.GroupBy>>", "instance"), float(target)
