"""A real Label Studio calls the backend: smart tools, encoding ahead, export, errors.

They need ``HQSAM_URL``, the address of a server with the small model; see ../../README.md.
"""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from hqsam_client import HQSam
from hqsam_label_studio import brush
from label_studio_sdk import LabelStudio
from numpy.typing import NDArray
from PIL import Image

COINS = Path(__file__).parents[3] / "demo" / "coins.png"
COIN, BESIDE, BOX, SIZE = (335, 44), (346, 92), (242, 92, 297, 145), (303, 384)
EMAIL, PASSWORD = "annotator@example.com", "correct-horse-9"
TIMEOUT_S = 300
CONFIG = """
<View>
  <Image name="photo" value="$image"/>
  <BrushLabels name="brush" toName="photo" smart="true"><Label value="coin"/></BrushLabels>
  <KeyPointLabels name="click" toName="photo" smart="true"><Label value="coin"/></KeyPointLabels>
  <RectangleLabels name="box" toName="photo" smart="true"><Label value="coin"/></RectangleLabels>
</View>
"""


def start(command: list[str], ready: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """Start a command; return it and its line that says that it is ready."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if ready in line:
            # Nobody reads on: a full pipe would stop it.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, line
    raise AssertionError("".join(seen))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, requests.Session]]:
    """The address of a running Label Studio, and a user's browser session."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process, _ = start(
        [
            str(Path(sys.executable).with_name("label-studio")), "start", "--no-browser",
            "--internal-host", "127.0.0.1", "--port", str(port),
            "--username", EMAIL, "--password", PASSWORD,
        ],
        "Starting development server",
        LABEL_STUDIO_BASE_DATA_DIR=str(tmp_path_factory.mktemp("label-studio")),
        # The backend is on the loopback interface, which Label Studio calls only when told to.
        ML_BLOCK_LOCAL_IP="false", SSRF_PROTECTION_ENABLED="false",
        COLLECT_ANALYTICS="false", LATEST_VERSION_CHECK="false",
        FRONTEND_SENTRY_DSN="", SENTRY_DSN="",
    )  # fmt: skip
    home = f"http://127.0.0.1:{port}"
    try:
        with requests.Session() as user:
            user.headers["Referer"] = home
            deadline = time.monotonic() + TIMEOUT_S
            while True:
                try:
                    user.get(f"{home}/user/login/", timeout=TIMEOUT_S).raise_for_status()
                    break
                except requests.ConnectionError:
                    assert time.monotonic() < deadline, "Label Studio did not start"
                    time.sleep(0.2)
            form = {"email": EMAIL, "password": PASSWORD}
            user.post(
                f"{home}/user/login/", timeout=TIMEOUT_S,
                data={**form, "csrfmiddlewaretoken": user.cookies["csrftoken"]},
            ).raise_for_status()  # fmt: skip
            user.headers["X-CSRFToken"] = user.cookies["csrftoken"]
            yield home, user
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def token(session: tuple[str, requests.Session]) -> str:
    """A personal access token of the user."""
    home, user = session
    answer = user.post(f"{home}/api/token/", json={}, timeout=TIMEOUT_S)
    answer.raise_for_status()
    made: str = answer.json()["token"]
    return made


@pytest.fixture(scope="module")
def backend(session: tuple[str, requests.Session], token: str) -> Iterator[str]:
    """The address of the running command."""
    command = [str(Path(sys.executable).with_name("hqsam-label-studio")), "--port", "0"]
    process, line = start(
        command, "Running on",
        LABEL_STUDIO_URL=session[0], LABEL_STUDIO_API_KEY=token, PYTHONUNBUFFERED="1",
    )  # fmt: skip
    yield re.findall(r"http://\S+", line)[0]
    process.terminate()
    assert process.wait(TIMEOUT_S) == 0


@pytest.fixture(scope="module")
def studio(session: tuple[str, requests.Session], token: str) -> LabelStudio:
    return LabelStudio(base_url=session[0], api_key=token)


class Project:
    """A project of one task with the photograph of coins, connected to the backend."""

    def __init__(
        self, studio: LabelStudio, user: requests.Session, home: str, backend: str
    ) -> None:
        self.studio, self._user, self._home = studio, user, home
        self.id = studio.projects.create(title="coins", label_config=CONFIG).id
        with COINS.open("rb") as file:
            user.post(
                f"{home}/api/projects/{self.id}/import", files={"file": ("coins.png", file)},
                timeout=TIMEOUT_S,
            ).raise_for_status()  # fmt: skip
        (self.task,) = studio.tasks.list(project=self.id)
        self.backend = studio.ml.create(
            url=backend, project=self.id, is_interactive=True, title="HQ-SAM"
        )

    def smart(self, *marks: dict[str, Any]) -> dict[str, Any]:
        """Use the smart tools as the labelling page does."""
        answer = self._user.post(
            f"{self._home}/api/ml/{self.backend.id}/interactive-annotating",
            json={"task": self.task.id, "context": {"result": list(marks)}}, timeout=TIMEOUT_S,
        )  # fmt: skip
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def retrieve_predictions(self) -> None:
        """Do as the action "Retrieve predictions" of the task list."""
        answer = self._user.post(
            f"{self._home}/api/dm/actions?id=retrieve_tasks_predictions&project={self.id}",
            json={"selectedItems": {"all": True, "excluded": []}}, timeout=TIMEOUT_S,
        )  # fmt: skip
        answer.raise_for_status()


@pytest.fixture(scope="module")
def project(studio: LabelStudio, session: tuple[str, requests.Session], backend: str) -> Project:
    home, user = session
    return Project(studio, user, home, backend)


def mark(kind: str, **value: Any) -> dict[str, Any]:
    return {
        "id": "m", "type": kind, "from_name": "click", "to_name": "photo",
        "original_height": SIZE[0], "original_width": SIZE[1], "image_rotation": 0,
        "is_positive": value.pop("is_positive", True), "value": {kind: ["coin"], **value},
    }  # fmt: skip


def keypoint(point: tuple[int, int], is_positive: bool = True) -> dict[str, Any]:
    x, y = (100 * (it + 0.75) / side for it, side in zip(point, SIZE[::-1], strict=True))
    return mark("keypointlabels", x=x, y=y, width=1, is_positive=is_positive)


def rectangle() -> dict[str, Any]:
    x0, y0, x1, y1 = (100 * it / side for it, side in zip(BOX, SIZE[::-1] * 2, strict=True))
    return mark("rectanglelabels", x=x0, y=y0, width=x1 - x0, height=y1 - y0, rotation=0)


def stroke() -> dict[str, Any]:
    drawn = np.zeros(SIZE, np.bool_)
    drawn[COIN[1] - 2 : COIN[1] + 3, COIN[0] - 12 : COIN[0] + 13] = True
    return mark("brushlabels", format="rle", rle=brush.encode(drawn))


def region(answer: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Return the one region of an answer, and its mask."""
    (result,) = answer["data"]["result"]
    return result, brush.decode(result["value"]["rle"], SIZE)


def test_smart_keypoints_rectangles_and_strokes_give_the_masks_of_the_client(
    project: Project,
) -> None:
    with HQSam(os.environ["HQSAM_URL"]) as sam:
        image = sam.open(COINS)
        click, both = image.segment([COIN]), image.segment([COIN, BESIDE], [1, 0])
        boxed = image.segment(box=BOX)
    assert np.array_equal(region(project.smart(keypoint(COIN)))[1], click.array)
    marks = keypoint(COIN), keypoint(BESIDE, is_positive=False)
    assert np.array_equal(region(project.smart(*marks))[1], both.array)
    result, found = region(project.smart(rectangle()))
    assert np.array_equal(found, boxed.array)
    assert result["value"]["brushlabels"] == ["coin"]
    overlap = region(project.smart(stroke()))[1] & click.array
    assert overlap.sum() > 0.9 * click.area


def test_an_annotation_made_of_the_answer_is_exported_as_it_was(project: Project) -> None:
    result, found = region(project.smart(keypoint(COIN)))
    project.studio.annotations.create(id=project.task.id, result=[result])
    exported = b"".join(
        project.studio.projects.exports.download_sync(project.id, export_type="BRUSH_TO_PNG")
    )
    # One mask is exported as a file; Label Studio zips several.
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(exported))) > 0, found)


def test_the_task_list_is_encoded_ahead_and_gets_no_empty_predictions(
    studio: LabelStudio, session: tuple[str, requests.Session], backend: str, tmp_path: Path
) -> None:
    home, user = session
    other = Project(studio, user, home, backend)
    new = Image.new("RGB", (64, 48), "orange")
    new.putpixel((5, 5), (os.getpid() % 256, 1, 2))
    new.save(tmp_path / "new.png")
    with (tmp_path / "new.png").open("rb") as file:
        user.post(
            f"{home}/api/projects/{other.id}/import", files={"file": ("new.png", file)},
            timeout=TIMEOUT_S,
        ).raise_for_status()  # fmt: skip
    other.retrieve_predictions()
    with HQSam(os.environ["HQSAM_URL"]) as sam:
        deadline = time.monotonic() + TIMEOUT_S
        # `embed` says whether the server had the image; asking does not send it.
        while not sam.embed([tmp_path / "new.png"])[0].already_stored:
            assert time.monotonic() < deadline
    assert [task.predictions for task in studio.tasks.list(project=other.id)] == [[], []]


def test_the_user_reads_what_is_wrong(project: Project) -> None:
    (error,) = project.smart(mark("ellipselabels", x=1, y=1))["errors"]
    assert "a smart ellipselabels is not supported, expected keypoints" in error
