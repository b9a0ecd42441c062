"""Replicas behind Envoy: pictures stay where they are, and no call is lost with a replica."""

from __future__ import annotations

import hashlib
import operator
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
import pytest
from hqsam_client import HQSam, Picture
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.cluster.envoy import Envoy
from tests.cluster.replicas import CLICK, Load, Replica
from tests.models.api import new_png
from tests.server.serving import PATIENCE_S

PICTURES = 24
CLICKS = 64
"""How many clicks there are at least before and after something happens."""


@pytest.fixture
def opened(envoy: Envoy) -> Iterator[list[Picture]]:
    """Pictures that were embedded through Envoy."""
    with connect(envoy) as sam:
        yield [sam.open(new_png()) for _ in range(PICTURES)]


@contextmanager
def connect(envoy: Envoy) -> Iterator[HQSam]:
    with HQSam(envoy.url, timeout_s=PATIENCE_S, embed_timeout_s=PATIENCE_S) as sam:
        yield sam


def encodes(replicas: Sequence[Replica]) -> list[int]:
    return [replica.encodes() for replica in replicas]


def test_300_pictures_spread_evenly_and_each_stays_on_one_replica(envoy: Envoy) -> None:
    names = [hashlib.sha256(bytes([index % 256, index // 256])).hexdigest() for index in range(300)]
    with grpc.insecure_channel(envoy.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(3):
            for name in names:
                request = service_pb2.ModelInferRequest(model_name="embed")
                tensor = request.inputs.add(name="image_id", datatype="BYTES", shape=[1])
                tensor.contents.bytes_contents.append(name.encode())
                stub.ModelInfer(request, metadata=[("x-image-id", name)], timeout=PATIENCE_S)
    places = defaultdict(set)
    for line in envoy.log(3 * len(names)):
        places[line["image_id"]].add(line["upstream"])
    assert places.keys() == set(names)
    assert all(len(hosts) == 1 for hosts in places.values())
    first, second = (
        sum(str(port) in host for (host,) in places.values()) for port in envoy.requests()
    )
    assert first + second == 300
    assert max(first, second) <= 1.25 * 150


def test_a_picture_is_encoded_once_for_all_clients(envoy: Envoy, replicas: list[Replica]) -> None:
    before = sum(encodes(replicas))
    photos = [new_png() for _ in range(PICTURES)]
    for _ in range(2):
        with connect(envoy) as sam:
            for photo in photos:
                sam.open(photo).segment(points=[CLICK])
    assert sum(encodes(replicas)) == before + PICTURES


def test_a_killed_replica_takes_no_call_with_it_and_gets_its_share_back(
    envoy: Envoy, replicas: list[Replica]
) -> None:
    lost, kept = replicas
    before = encodes(replicas)
    with connect(envoy) as sam:
        opened = [sam.open(new_png()) for _ in range(PICTURES)]
        of_lost, of_kept = map(operator.sub, encodes(replicas), before)
        assert of_lost + of_kept == PICTURES
        with Load(opened) as load:
            load.wait_for(CLICKS)
            lost.kill()
            load.wait_for_all()
            assert load.errors == []
            # Those that moved were encoded once more, and nothing else.
            assert kept.encodes() == before[1] + PICTURES

            lost.start()
            envoy.wait_for(lost.address[1], healthy=True)
            load.wait_for_all()
    assert load.errors == []
    assert lost.encodes() == of_lost
    assert kept.encodes() == before[1] + PICTURES


def test_a_replica_that_is_told_to_end_loses_no_call(
    envoy: Envoy, replicas: list[Replica], opened: list[Picture]
) -> None:
    with Load(opened) as load:
        load.wait_for(CLICKS)
        assert replicas[0].terminate() == 0
        load.wait_for(CLICKS)
    assert load.errors == []


def test_a_hung_replica_is_left_out_and_comes_back(
    envoy: Envoy, replicas: list[Replica], opened: list[Picture]
) -> None:
    hung, well = replicas
    with Load(opened) as load:
        load.wait_for(CLICKS)
        hung.hang()
        envoy.wait_for(hung.address[1], healthy=False)
        load.wait_for_all()
        encoded = well.encodes()
        hung.go_on()
        envoy.wait_for(hung.address[1], healthy=True)
        load.wait_for_all()
    assert load.errors == []
    assert well.encodes() == encoded


def test_a_rolling_restart_fails_no_call(
    envoy: Envoy, replicas: list[Replica], opened: list[Picture]
) -> None:
    with Load(opened) as load:
        for replica in replicas:
            load.wait_for(CLICKS)
            assert replica.terminate() == 0
            replica.start()
            envoy.wait_for(replica.address[1], healthy=True)
        load.wait_for(CLICKS)
    assert load.errors == []
