"""The plug-in in the real napari. It draws with OpenGL, so it needs a screen, or Xvfb.

They need ``HQSAM_URL``, the address of a server with the small model; see ../../README.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from hqsam_client import HQSam
from hqsam_napari.widget import BESIDE, BOXES, OBJECTS, POINTS
from npe2 import PluginManager, PluginManifest
from PIL import Image
from qtpy.QtWidgets import QApplication

COINS = Path(__file__).parents[3] / "demo" / "coins.png"
COIN, BESIDE_COIN, BOX = (335, 44), (346, 92), (242, 92, 297, 145)
TIMEOUT_S = 120


if not os.environ.get("DISPLAY"):
    pytest.skip("napari needs a screen: run it under xvfb-run", allow_module_level=True)


@pytest.fixture(scope="module")
def coins() -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(COINS).convert("L"))


@pytest.fixture
def viewer() -> Iterator[napari.Viewer]:
    made = napari.Viewer(show=False)
    yield made
    made.close()


@pytest.fixture
def sam() -> Iterator[HQSam]:
    with HQSam(os.environ["HQSAM_URL"]) as client:
        yield client


def widget_of(viewer: napari.Viewer) -> Any:
    """Open the widget as napari's menu does."""
    return viewer.window.add_plugin_dock_widget("napari-hqsam", "Segment by clicks and boxes")[1]


def wait(condition: Callable[[], bool], widget: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while widget._busy or not condition():
        assert time.monotonic() < deadline, widget.status.value
        QApplication.processEvents()


def expected(sam: HQSam, image: np.ndarray[Any, Any], **prompt: Any) -> np.ndarray[Any, Any]:
    return sam.segment(np.repeat(image[..., None], 3, axis=-1), **prompt).array


def test_the_manifest_is_valid_and_napari_finds_the_plug_in() -> None:
    manifest = PluginManifest.from_distribution("napari-hqsam")
    manifest.validate_imports()
    PluginManager.instance().discover()
    assert "napari-hqsam" in [it.name for it in PluginManager.instance().iter_manifests()]


def test_points_and_boxes_become_labels(
    viewer: napari.Viewer, sam: HQSam, coins: np.ndarray[Any, Any]
) -> None:
    viewer.add_image(coins, name="coins", contrast_limits=(0, 255))
    widget = widget_of(viewer)
    widget.start.native.click()
    wait(lambda: "ready" in widget.status.value, widget)
    points, boxes, objects = (viewer.layers[it] for it in (POINTS, BOXES, OBJECTS))

    points.add([COIN[::-1]])
    wait(lambda: "label 1" in widget.status.value, widget)
    assert np.array_equal(objects.data == 1, expected(sam, coins, points=[COIN]))
    widget.kind.value = BESIDE
    points.add([BESIDE_COIN[::-1]])
    both = expected(sam, coins, points=[COIN, BESIDE_COIN], labels=[1, 0])
    wait(lambda: np.array_equal(objects.data == 1, both), widget)

    widget.next.native.click()
    assert len(points.data) == 0
    x0, y0, x1, y1 = BOX
    boxes.add_rectangles([[y0, x0], [y0, x1], [y1, x1], [y1, x0]])
    wait(lambda: "label 2" in widget.status.value, widget)
    assert np.array_equal(objects.data == 2, expected(sam, coins, box=BOX) & ~both)
    # The first object is as it was, and napari can undo the second.
    assert np.array_equal(objects.data == 1, both)
    objects.undo()
    assert not (objects.data == 2).any()
    objects.redo()
    if picture := os.environ.get("HQSAM_PICTURE"):
        viewer.window.resize(1200, 800)
        viewer.screenshot(picture, canvas_only=False)


def test_each_plane_of_a_stack_is_an_image_of_its_own(
    viewer: napari.Viewer, sam: HQSam, coins: np.ndarray[Any, Any]
) -> None:
    stack = np.stack([255 - coins, coins])
    viewer.add_image(stack, name="stack", contrast_limits=(0, 255), scale=(1, 0.5, 0.5))
    viewer.dims.set_current_step(0, 1)
    widget = widget_of(viewer)
    widget.start.native.click()
    wait(lambda: "ready" in widget.status.value, widget)
    viewer.layers[POINTS].add([(1, *COIN[::-1])])
    wait(lambda: "label 1" in widget.status.value, widget)
    objects = viewer.layers[OBJECTS]
    assert not objects.data[0].any()
    assert np.array_equal(objects.data[1] == 1, expected(sam, coins, points=[COIN]))


def test_the_user_reads_what_is_wrong(viewer: napari.Viewer, coins: np.ndarray[Any, Any]) -> None:
    widget = widget_of(viewer)
    widget.start.native.click()
    assert "open an image first" in widget.status.value
    viewer.add_image(coins)
    widget.reset_choices()
    widget.server.value = "127.0.0.1:1"
    widget.start.native.click()
    wait(lambda: "no answer from 127.0.0.1:1: nothing listens" in widget.status.value, widget)
    widget.server.value = os.environ["HQSAM_URL"]
    widget.start.native.click()
    wait(lambda: "ready" in widget.status.value, widget)
    widget.kind.value = BESIDE
    viewer.layers[POINTS].add([COIN[::-1]])
    wait(lambda: "add a point on the object" in widget.status.value, widget)
    viewer.dims.ndisplay = 3
    widget.segment()
    assert "show the image in 2D" in widget.status.value
