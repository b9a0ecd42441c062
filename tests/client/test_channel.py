"""Addresses, credentials and metadata, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hqsam_client import HQSam, OptionError
from hqsam_client.shared.channel import Replica, metadata, options, replicas, target


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:8001", "localhost:8001"),
        ("dns:///hqsam-headless:8001", "dns:///hqsam-headless:8001"),
        ("ipv4:10.0.0.1:8001,10.0.0.2:8001", "ipv4:10.0.0.1:8001,10.0.0.2:8001"),
        ("127.0.0.1:8001,127.0.0.1:8011", "ipv4:127.0.0.1:8001,127.0.0.1:8011"),
        ("localhost:8001, 127.0.0.1:8011", "ipv4:127.0.0.1:8001,127.0.0.1:8011"),
        ("dns:8001", "dns:8001"),
        ("[::1]:8001", "[::1]:8001"),
    ],
)
def test_an_address_becomes_grpcs_name_for_it(url: str, expected: str) -> None:
    assert target(url) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "url is '', expected host:port"),
        ("localhost:8001,", "expected host:port, or several separated by commas"),
        ("localhost:8001,127.0.0.1", "url has '127.0.0.1', expected host:port"),
        ("localhost", "url has 'localhost', expected host:port, such as localhost:8001"),
        ("http://localhost:8001", "url has 'http://localhost:8001', expected host:port"),
        (
            "localhost:8001,no.such.host.invalid:8001",
            "no.such.host.invalid:8001', which has no IPv4 address",
        ),
    ],
)
def test_a_wrong_address_is_refused(url: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        HQSam(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("a:1,b:2", [Replica("a:1", None), Replica("b:2", None)]),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", [Replica("10.0.0.1:1", None), Replica("10.0.0.2:2", None)]),
        ("localhost:8001", [Replica("localhost:8001", None)]),
        ("[::1]:8001", [Replica("[::1]:8001", None)]),
        ("dns:///localhost:8001", [Replica("localhost:8001", None)]),
    ],
)
def test_replicas_are_found_one_by_one(url: str, expected: list[Replica]) -> None:
    assert replicas(url) == expected


def test_certificates_are_checked_against_the_first_name_of_a_list() -> None:
    assert ("grpc.default_authority", "a.example") in options("a.example:1,b.example:1", None)
    listed = options("ipv4:10.0.0.1:1,10.0.0.2:1", None)
    assert ("grpc.default_authority", "10.0.0.1") in listed
    assert ("grpc.default_authority", "c") in options("a.example:1,b.example:1", "c")
    assert "grpc.default_authority" not in dict(options("a.example:1", None))


def test_the_service_config_retries_only_what_may_be_retried() -> None:
    config = json.loads(str(dict(options("localhost:8001", None))["grpc.service_config"]))
    (method,) = config["methodConfig"]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "INTERNAL", "CANCELLED"]
    assert config["loadBalancingConfig"] == [
        {"ring_hash_experimental": {"requestHashHeader": "x-image-id"}}
    ]


def test_a_token_goes_with_the_callers_own_metadata() -> None:
    assert metadata("secret", {"X-Tenant": "a"}) == (
        ("x-tenant", "a"),
        ("authorization", "Bearer secret"),
    )
    assert metadata(None, None) == ()


@pytest.mark.parametrize("token", ["secret\n", "schlüssel", "a\0b"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(OptionError, match="the token has a line break or another") as caught:
        HQSam(token=token)
    assert token.strip() not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("x tenant", "a"), ("x-tenant", "a\nb"), ("", "a")])
def test_metadata_that_cannot_be_sent_is_refused(key: str, value: str) -> None:
    with pytest.raises(OptionError, match="expected keys of letters"):
        HQSam(metadata={key: value})


def test_a_certificate_that_is_absent_or_no_pem_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.pem cannot be read: No such file"):
        HQSam(root_certificates=tmp_path / "none.pem")
    (tmp_path / "text.pem").write_text("hello")
    with pytest.raises(OptionError, match=r"text\.pem is not a PEM file"):
        HQSam(root_certificates=tmp_path / "text.pem")


def test_a_client_certificate_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="client_certificate and client_key belong together"):
        HQSam(client_certificate=tmp_path / "client.pem")
