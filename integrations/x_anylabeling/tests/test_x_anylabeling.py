"""The real X-AnyLabeling, without a screen: its window, its tools, and what it shows.

They need ``HQSAM_URL``, the address of a server with the small model; see ../../README.md.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
import pytest
from aiohttp import web
from anylabeling import config as settings
from anylabeling.views.labeling.utils.theme import get_app_stylesheet, init_theme
from hqsam_client import HQSam
from hqsam_x_anylabeling.service import service
from PIL import Image, ImageDraw
from PyQt6.QtCore import QPointF, Qt, QTimer
from PyQt6.QtGui import QCursor
from PyQt6.QtTest import QTest
from PyQt6.QtWidgets import QApplication

COINS = Path(__file__).parents[3] / "demo" / "coins.png"
COIN, BESIDE, BOX = (335, 44), (346, 92), (242, 92, 297, 145)
TIMEOUT_S = 60
UNFINISHED = "AUTOLABEL_OBJECT"


class Service:
    """The web service in a thread of its own, in front of an HQ-SAM server."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._runner = web.AppRunner(service(url))
        self._run(self._runner.setup())
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        self._run(site.start())
        self.port = self._runner.addresses[0][1]

    def stop(self) -> None:
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT_S)


@pytest.fixture(scope="module")
def app() -> QApplication:
    from anylabeling.resources import resources  # noqa: F401 - registers icons

    made = QApplication.instance() or QApplication(["xanylabeling"])
    init_theme("light")
    made.setStyleSheet(get_app_stylesheet())
    return made


class Desktop:
    """The program's window with the photograph of coins, and the remote server chosen."""

    def __init__(self, app: QApplication, folder: Path, port: int) -> None:
        from anylabeling.views.mainwindow import MainWindow

        self._app = app
        settings.set_work_directory(str(folder))
        settings.current_config_file = str(folder / ".xanylabelingrc")
        Path(settings.current_config_file).write_text(
            f"remote_server_settings: {{server_url: 'http://127.0.0.1:{port}'}}"
        )
        shutil.copy(COINS, folder)
        config = settings.get_config()
        self.window = MainWindow(app, config=config, filename=str(folder / COINS.name))
        self.window.resize(1400, 900)
        self.window.show()
        self.view = self.window.labeling_widget.view
        self.tools = self.view.auto_labeling_widget
        self.view.toggle_auto_labeling_widget()
        self.statuses: list[str] = []
        self._threads: list[Any] = []
        manager = self.tools.model_manager
        manager.new_model_status.connect(self.statuses.append)
        (remote,) = (it for it in manager.model_configs if "remote_server" in it["config_file"])
        manager.load_model(remote["config_file"])
        self.wait(lambda: self.tools.remote_server_select_combobox.count() > 0, "the models")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}: {self.statuses}"
            self._app.processEvents()

    def press(self, point: tuple[int, int]) -> None:
        """Press the mouse in the middle of a pixel of the image."""
        canvas = self.view.canvas
        place = QPointF(point[0] + 0.5, point[1] + 0.5) + canvas.offset_to_center()
        position = (place * canvas.scale).toPoint()
        QTest.mouseMove(canvas, position)
        QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=position)
        # X-AnyLabeling 4.2.1 drops its thread when it says that it has finished, which may be a
        # moment before it has: Qt ends the process then.
        self._threads.append(self.tools.model_manager.model_execution_thread)

    def objects(self, label: str = UNFINISHED) -> list[Any]:
        return [it for it in self.view.canvas.shapes if it.label == label]

    def predicted(self) -> Callable[[], bool]:
        """Return whether the prediction that begins next has ended."""
        before = len(self.statuses)
        return lambda: (
            any("Finished" in it for it in self.statuses[before:])
            # Until then it takes no clicks.
            and not self.view.canvas.is_loading
            and self.tools.model_manager.model_execution_thread is None
        )

    def label(self, name: str) -> None:
        """Finish the object, and name it in the dialog that opens."""

        def type_it() -> None:
            self.view.label_dialog.edit.setText(name)
            self.view.label_dialog.validate()

        # The dialog opens where the pointer is, which has to be on the screen.
        QCursor.setPos(10, 10)
        QTimer.singleShot(100, type_it)
        self.tools.button_finish_object.click()


@pytest.fixture
def desktop(app: QApplication, tmp_path: Path) -> Iterator[Callable[[int], Desktop]]:
    opened = []

    def open_it(port: int) -> Desktop:
        opened.append(Desktop(app, tmp_path, port))
        return opened[-1]

    yield open_it
    for it in opened:
        it.view.set_clean()
        it.window.close()


def drawn(shapes: list[Any]) -> np.ndarray[Any, Any]:
    """Return the pixels in polygons of the program."""
    image = Image.new("1", Image.open(COINS).size)
    for shape in shapes:
        assert shape.shape_type == "polygon"
        ImageDraw.Draw(image).polygon([(it.x(), it.y()) for it in shape.points], 1, 1)
    return np.asarray(image)


def agreement(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Return the intersection over the union of two masks."""
    return float((found & expected).sum() / (found | expected).sum())


def test_clicks_and_a_box_become_labelled_polygons(
    desktop: Callable[[int], Desktop],
) -> None:
    remote = Service(os.environ["HQSAM_URL"])
    program = desktop(remote.port)
    assert program.tools.remote_server_select_combobox.currentText() == "HQ-SAM"
    with HQSam(os.environ["HQSAM_URL"]) as sam:
        image = sam.open(COINS)
        both, boxed = image.segment([COIN, BESIDE], [1, 0]), image.segment(box=BOX)

    program.tools.button_add_point.click()
    done = program.predicted()
    program.press(COIN)
    program.wait(done, "the first mask")
    program.tools.button_remove_point.click()
    done = program.predicted()
    program.press(BESIDE)
    program.wait(done, "the second mask")
    # Simplified outlines: as exact as the default fineness.
    assert agreement(drawn(program.objects()), both.array) > 0.97
    program.label("coin")
    assert len(program.objects("coin")) == 1 and not program.objects()

    program.tools.button_add_rect.click()
    done = program.predicted()
    program.press(BOX[:2])
    program.press(BOX[2:])
    program.wait(done, "the mask of the box")
    assert agreement(drawn(program.objects()), boxed.array) > 0.97
    # The finished object is still there.
    assert len(program.objects("coin")) == 1
    if picture := os.environ.get("HQSAM_PICTURE"):
        program.window.grab().save(picture)
    remote.stop()


def test_without_a_server_the_user_reads_why_and_keeps_the_annotations(
    desktop: Callable[[int], Desktop],
) -> None:
    remote = Service("127.0.0.1:1")
    program = desktop(remote.port)
    from anylabeling.views.labeling.shape import Shape

    made = Shape(label="coin", shape_type="polygon")
    for x, y in ((1, 1), (9, 1), (9, 9)):
        made.add_point(QPointF(x, y))
    made.close()
    program.view.load_shapes([made], replace=False)
    program.tools.button_add_point.click()
    program.press(COIN)
    program.wait(lambda: any("Remote server error" in it for it in program.statuses), "the error")
    (status,) = (it for it in program.statuses if "Remote server error" in it)
    assert "503 Server Error: no answer from 127.0.0.1:1: nothing listens there" in status
    program.wait(lambda: not program.view.canvas.is_loading, "the end of the prediction")
    assert len(program.objects("coin")) == 1
    remote.stop()
