"""A server with the small model, and a folder with the files that documented commands expect."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import trustme
from hqsam_server import TritonServer
from hqsam_testing import image_files, maps, rebuilt
from hqsam_testing.coins import COINS, LABELS
from hqsam_testing.command import Command
from hqsam_testing.servers import small_server
from PIL import Image

from tests.docs import standins
from tests.docs.pages import ROOT

__all__ = ["small_server"]

SIZE = (640, 480)


@pytest.fixture(scope="package")
def server(small_server: TritonServer) -> TritonServer:
    return small_server


@pytest.fixture(scope="package")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands that have stand-ins."""
    folder = tmp_path_factory.mktemp("docs") / "bin"
    standins.install(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, tiny_repository: Path) -> Path:
    """A user's folder: the root of a clone, with images, weights, certificates and data."""
    for name in ("examples", "integrations", "training", "demo", "docker"):
        (tmp_path / name).symlink_to(ROOT / name)
    photo = Image.open(COINS).convert("RGB").resize(SIZE)
    mask = (
        Image.open(LABELS).resize(SIZE, Image.Resampling.NEAREST).point(lambda it: 255 * (it == 1))
    )
    photo.save(tmp_path / "photo.jpg")
    (tmp_path / "phone.heic").write_bytes(image_files.heic(photo))
    grey = np.asarray(photo.convert("L")).astype(np.uint16)
    Image.fromarray(16 * grey).save(tmp_path / "microscope.tif")
    maps.write(tmp_path / "map.tif", 2 * maps.CELL)
    shutil.copytree(tiny_repository, tmp_path / "model_repository")
    torch.save(rebuilt.state_dict(rebuilt.TINY), tmp_path / "sam_hq_vit_b.pth")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    (tmp_path / "keys").write_text("annotators 0123456789abcdef\n")
    authority.cert_pem.write_to_path(tmp_path / "clients.pem")
    data = "data/thin_object_detection"
    for images, masks in (
        ("FOLDER/images", "FOLDER/masks"),
        ("data/DIS5K/DIS-VD/im", "data/DIS5K/DIS-VD/gt"),
        (f"{data}/COIFT/images", f"{data}/COIFT/masks"),
        (f"{data}/HRSOD/images", f"{data}/HRSOD/masks_max255"),
        (f"{data}/ThinObject5K/images_test", f"{data}/ThinObject5K/masks_test"),
    ):
        for name, image in ((images, photo), (masks, mask)):
            (tmp_path / name).mkdir(parents=True)
            image.save(tmp_path / name / "coin.png")
    examples(tmp_path)
    return tmp_path


def examples(folder: Path) -> None:
    """Write the files that the examples read."""
    (folder / "images").mkdir()
    shutil.copy(COINS, folder / "images" / "coins.png")
    prompts = [
        {"image": "coins.png", "category": "coin", "points": [[335, 44]]},
        {"image": "coins.png", "category": "coin", "box": [242, 92, 297, 145]},
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    detection = {"image_id": 7, "category_id": 1, "bbox": [242, 92, 55, 53], "score": 0.9}
    (folder / "detections.json").write_text(json.dumps([detection]))
    images = [{"id": 7, "file_name": "coins.png"}]
    (folder / "instances.json").write_text(json.dumps({"images": images}))


@pytest.fixture
def environment(server: TritonServer, bin_folder: Path, folder: Path) -> dict[str, str]:
    """The environment of commands: the server's address, and the stand-ins first in `PATH`."""
    return {
        **os.environ,
        "HQSAM_URL": server.grpc_url,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(folder),
    }


@pytest.fixture(scope="package")
def service(server: TritonServer) -> Iterator[str]:
    """The address of a running `examples/async_service.py`."""
    with running("async_service.py", server) as address:
        yield address


@contextmanager
def running(name: str, server: TritonServer, **environment: str) -> Iterator[str]:
    """Run a web service of the examples on a free port; yields its address."""
    arguments: list[str | Path] = [
        sys.executable, ROOT / "examples" / name, "--port=0", f"--url={server.grpc_url}",
    ]  # fmt: skip
    with Command(arguments, env={**os.environ, **environment}) as example:
        line = example.line("running on http://")
        yield line.partition("http://")[2].split()[0]
        example.stop(signal.SIGTERM)


@pytest.fixture
def addressed(server: TritonServer, service: str) -> Callable[[str], str]:
    """Replaces the usual addresses in a text by those of the running servers."""
    places = {
        "localhost:8000": server.http_url,
        "localhost:8001": server.grpc_url,
        "localhost:8080": service,
    }

    def put(text: str) -> str:
        for usual, address in places.items():
            text = text.replace(usual, address)
        return text

    return put
