"""Replicas behind Envoy: each image stays on its replica, and no call is lost with a replica."""

from __future__ import annotations

import hashlib
import operator
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
import yaml
from hqsam_client import HQSam, RemoteImage, UnavailableError
from hqsam_testing.api import new_png
from hqsam_testing.envoy import FOLDER, Envoy
from hqsam_testing.replicas import CLICK, Load, Replica
from hqsam_testing.waiting import TIMEOUT_S
from tritonclient.grpc import service_pb2, service_pb2_grpc

IMAGES = 24
CLICKS = 64
"""Least number of clicks before and after an event."""


@pytest.fixture
def opened(envoy: Envoy) -> Iterator[list[RemoteImage]]:
    """Images that were embedded through Envoy."""
    with connect(envoy) as sam:
        yield [sam.open(new_png()) for _ in range(IMAGES)]


@contextmanager
def connect(envoy: Envoy) -> Iterator[HQSam]:
    with HQSam(envoy.url, timeout_s=TIMEOUT_S, embed_timeout_s=TIMEOUT_S) as sam:
        yield sam


def encodes(replicas: Sequence[Replica]) -> list[int]:
    return [replica.encodes() for replica in replicas]


@pytest.mark.slow
def test_600_images_spread_evenly_and_each_stays_on_one_replica(envoy: Envoy) -> None:
    names = [hashlib.sha256(bytes([index % 256, index // 256])).hexdigest() for index in range(600)]
    with grpc.insecure_channel(envoy.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(3):
            for name in names:
                request = service_pb2.ModelInferRequest(model_name="embed")
                tensor = request.inputs.add(name="image_id", datatype="BYTES", shape=[1])
                tensor.contents.bytes_contents.append(name.encode())
                stub.ModelInfer(request, metadata=[("x-image-id", name)], timeout=TIMEOUT_S)
    places = defaultdict(set)
    for line in envoy.log(3 * len(names)):
        places[line["image_id"]].add(line["upstream"])
    assert places.keys() == set(names)
    assert all(len(hosts) == 1 for hosts in places.values())
    ports = envoy.requests()
    shares = [sum(str(port) in host for (host,) in places.values()) for port in ports]
    assert sum(shares) == 600
    # With 300, a spread by chance is wider once in a few hundred runs.
    assert max(shares) <= 1.25 * 600 / len(ports)


@pytest.mark.slow
def test_an_image_is_encoded_once_for_all_clients(envoy: Envoy, replicas: list[Replica]) -> None:
    before = sum(encodes(replicas))
    photos = [new_png() for _ in range(IMAGES)]
    for _ in range(2):
        with connect(envoy) as sam:
            for photo in photos:
                sam.open(photo).segment(points=[CLICK])
    assert sum(encodes(replicas)) == before + IMAGES


@pytest.mark.slow
def test_no_call_is_lost_with_a_killed_replica_and_it_gets_its_share_back(
    envoy: Envoy, replicas: list[Replica]
) -> None:
    lost, *kept = replicas
    before = encodes(replicas)
    with connect(envoy) as sam:
        opened = [sam.open(new_png()) for _ in range(IMAGES)]
        shares = [*map(operator.sub, encodes(replicas), before)]
        assert sum(shares) == IMAGES
        with Load(opened) as load:
            load.wait_for(CLICKS)
            lost.kill()
            load.wait_for_all()
            assert load.errors == []
            # Only the images that moved are encoded once more. Until Envoy knows that a replica
            # is lost, it retries calls on any other one, which is not always the one that the
            # image moves to.
            moved = encodes(kept)
            extra = sum(moved) - sum(before[1:]) - sum(shares[1:])
            assert shares[0] <= extra <= shares[0] * min(2, len(kept))

            lost.start()
            envoy.wait_for(lost.address[1], healthy=True)
            load.wait_for_all()
    assert load.errors == []
    assert lost.encodes() == shares[0]
    assert encodes(kept) == moved


@pytest.mark.slow
def test_a_replica_that_is_told_to_end_loses_no_call(
    envoy: Envoy, replicas: list[Replica], opened: list[RemoteImage]
) -> None:
    with Load(opened) as load:
        load.wait_for(CLICKS)
        assert replicas[0].terminate() == 0
        load.wait_for(CLICKS)
    assert load.errors == []


@pytest.mark.slow
def test_a_hung_replica_gets_no_calls_until_it_responds_again(
    envoy: Envoy, replicas: list[Replica], opened: list[RemoteImage]
) -> None:
    hung, *well = replicas
    with Load(opened) as load:
        load.wait_for(CLICKS)
        hung.hang()
        envoy.wait_for(hung.address[1], healthy=False)
        load.wait_for_all()
        encoded = sum(encodes(well))
        hung.go_on()
        envoy.wait_for(hung.address[1], healthy=True)
        load.wait_for_all()
    assert load.errors == []
    # A single other replica has all images. With several, a call that is retried while the hung
    # one comes back may reach one that lacks its image.
    assert sum(encodes(well)) <= encoded + (load.clients if len(well) > 1 else 0)


def test_no_call_is_lost_with_a_killed_process_of_a_replica(
    envoy: Envoy, replicas: list[Replica], opened: list[RemoteImage]
) -> None:
    with Load(opened) as load:
        load.wait_for(CLICKS)
        replicas[0].kill_process("segment_0_0")
        load.wait_for_all()
    assert load.errors == []


class DyingOnce(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers INTERNAL to its first call, as Triton does when a process dies on it."""

    def __init__(self) -> None:
        self.answers: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return what answers a method: the health check as well, which takes raw bytes."""
        if details.method.endswith("/Check"):
            return grpc.unary_unary_rpc_method_handler(lambda *_: b"\x08\x01")  # SERVING
        return grpc.unary_unary_rpc_method_handler(self._infer)

    def _infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.answers.append("OK" if self.answers else "INTERNAL")
        if self.answers[-1] == "INTERNAL":
            context.abort(grpc.StatusCode.INTERNAL, "Failed to process the requests.")
        return bytes(service_pb2.ModelInferResponse(model_name="segment").SerializeToString())


def test_envoy_repeats_a_call_that_a_dying_process_lost(tmp_path: Path) -> None:
    # A bare client, which repeats nothing itself.
    replica = DyingOnce()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, [replica])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with (
                Envoy("envoy.yaml", [("127.0.0.1", port)], tmp_path) as envoy,
                grpc.insecure_channel(envoy.url, [("grpc.enable_retries", 0)]) as channel,
            ):
                envoy.wait_for(port, healthy=True)
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                request = service_pb2.ModelInferRequest(model_name="segment")
                with pytest.raises(grpc.RpcError, match="Failed to process"):
                    stub.ModelInfer(request, timeout=TIMEOUT_S)
                assert replica.answers == ["INTERNAL"]
                replica.answers.clear()
                header = [("x-image-id", "0" * 64)]
                stub.ModelInfer(request, metadata=header, timeout=TIMEOUT_S)
                assert replica.answers == ["INTERNAL", "OK"]
        finally:
            server.stop(None).wait()


@pytest.mark.slow
def test_a_rolling_restart_fails_no_call(
    envoy: Envoy, replicas: list[Replica], opened: list[RemoteImage]
) -> None:
    with Load(opened) as load:
        for replica in replicas:
            load.wait_for(CLICKS)
            assert replica.terminate() == 0
            replica.start()
            envoy.wait_for(replica.address[1], healthy=True)
        load.wait_for(CLICKS)
    assert load.errors == []


def test_the_variants_with_and_without_tls_differ_in_tls_only() -> None:
    plain, tls = (
        yaml.safe_load((FOLDER / name).read_text()) for name in ("envoy.yaml", "envoy-tls.yaml")
    )
    (chain,) = tls["static_resources"]["listeners"][0]["filter_chains"]
    assert chain.pop("transport_socket")
    assert tls == plain


@pytest.mark.slow
def test_with_tls_only_clients_with_a_valid_certificate_are_accepted(
    replicas: list[Replica], tmp_path: Path
) -> None:
    ours, others = trustme.CA(), trustme.CA()
    write(ours.cert_pem, tmp_path / "clients.pem")
    server = ours.issue_cert("localhost")
    write(server.cert_chain_pems[0], tmp_path / "server.pem")
    write(server.private_key_pem, tmp_path / "server.key")
    files: dict[str, dict[str, Any]] = {}
    for name, authority in (("ours", ours), ("others", others)):
        certificate = authority.issue_cert("client")
        files[name] = {
            "root_certificates": tmp_path / "clients.pem",
            "client_certificate": write(certificate.cert_chain_pems[0], tmp_path / f"{name}.pem"),
            "client_key": write(certificate.private_key_pem, tmp_path / f"{name}.key"),
        }
    addresses = [replica.address for replica in replicas]
    photo = new_png()
    with Envoy("envoy-tls.yaml", addresses, tmp_path, certificates=tmp_path) as envoy:
        url = f"localhost:{envoy.ports['grpc']}"
        with HQSam(url, **files["ours"]) as sam:
            assert sam.open(photo).segment(points=[CLICK]).low_res_logits.shape == (256, 256)
        refused: tuple[dict[str, Any], ...] = (
            {"root_certificates": tmp_path / "clients.pem"},  # no certificate
            files["others"],  # of another authority
            {},  # no TLS
            {"root_certificates": tmp_path / "others.pem"},  # does not trust the server's
        )
        for options in refused:
            with HQSam(url, **options) as sam, pytest.raises(UnavailableError):
                sam.open(photo)


def write(pem: trustme.Blob, path: Path) -> Path:
    pem.write_to_path(path)
    return path
