"""The widget: a points and a shapes layer to prompt with, and a labels layer for the objects."""

from __future__ import annotations

import os
from typing import Any, cast

import numpy as np
from hqsam_client import HQSam, HQSamError, ImageError, RemoteImage
from magicgui.widgets import ComboBox, Container, Label, LineEdit, PushButton, create_widget
from napari.layers import Image, Labels, Points, Shapes
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from napari.viewer import Viewer

from hqsam_napari import prompts

POINTS, BOXES, OBJECTS = "HQ-SAM points", "HQ-SAM boxes", "HQ-SAM objects"
ON, BESIDE = "on the object", "beside it"
DONE = ("added", "changed", "removed")
"""What napari says of a layer's data once they have changed, not before."""


class HQSamWidget(Container):  # type: ignore[misc]
    """Segments the plane that is shown of an image layer.

    The object in work is the selected label. It follows the points and the last rectangle on the
    plane, until "Next object" keeps it and clears them.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        self._viewer = napari_viewer
        self._sam: HQSam | None = None
        self._opened: tuple[Any, RemoteImage] | None = None
        self._busy = self._again = False
        self.image = create_widget(annotation=Image, label="image")
        self.server = LineEdit(value=os.environ.get("HQSAM_URL", "localhost:8001"), label="server")
        self.mode = ComboBox(choices=["hq", "hq+sam", "best"], label="mode")
        self.kind = ComboBox(choices=[ON, BESIDE], label="points are")
        self.start = PushButton(text="Start")
        self.next = PushButton(text="Next object")
        self.status = Label(value="choose an image, and press Start")
        super().__init__(
            widgets=[
                self.image, self.server, self.mode, self.start, self.kind, self.next, self.status,
            ]
        )  # fmt: skip
        self.start.changed.connect(self.begin)
        self.next.changed.connect(self.next_object)
        self.kind.changed.connect(self._choose_kind)
        self.mode.changed.connect(self.segment)

    def begin(self) -> None:
        """Connect, add the layers to work in, and have the plane that is shown encoded."""
        if self.image.value is None:
            self._say("there is no image layer; open an image first")
            return
        if self._sam is not None:
            self._sam.close()
        self._opened = None
        try:
            self._sam = HQSam(self.server.value, token=os.environ.get("HQSAM_TOKEN"))
        except HQSamError as error:
            self._say(str(error))
            return
        self._add_layers(self.image.value)
        self.segment()

    def next_object(self) -> None:
        """Keep the object, clear its prompts, and select a new label."""
        if self._sam is None:
            return
        points, boxes, objects = (self._viewer.layers[it] for it in (POINTS, BOXES, OBJECTS))
        objects.selected_label = int(objects.data.max()) + 1
        with points.events.data.blocker(), boxes.events.data.blocker():
            points.data = np.empty((0, objects.ndim))
            boxes.data = []

    def segment(self) -> None:
        """Ask for the object at the prompts. While an answer is under way, ask again after it."""
        if self._sam is None:
            return
        if self._busy:
            self._again = True
            return
        try:
            where, image = self._plane()
            prompt = self._prompt(where)
        except HQSamError as error:
            self._say(str(error))
            return
        self._busy = True
        self.status.value = "waiting for the server"
        worker = create_worker(self._ask, where, image, prompt, _start_thread=False)
        worker.returned.connect(self._draw)
        worker.finished.connect(self._finish)
        worker.start()

    def _plane(self) -> tuple[tuple[int, ...], Image]:
        """Return the indices of the plane that is shown, and its layer."""
        layer, dims = self.image.value, self._viewer.dims
        if dims.ndisplay != 2 or tuple(dims.displayed) != (dims.ndim - 2, dims.ndim - 1):
            raise ImageError("show the image in 2D, with its last two dimensions")
        place = np.round(layer.world_to_data(dims.point)).astype(int)
        return tuple(place[:-2].tolist()), layer

    def _prompt(self, where: tuple[int, ...]) -> tuple[Any, Any, Any]:
        points, boxes = self._viewer.layers[POINTS], self._viewer.layers[BOXES]
        here = (np.round(points.data[:, :-2]) == where).all(axis=1)
        corners = [it for it in boxes.data if (np.round(it[:, :-2]) == where).all()]
        negative = np.asarray(points.features["kind"] == BESIDE)
        pairs, labels = prompts.points(points.data[here, -2:], negative[here])
        box = prompts.box(corners[-1][:, -2:]) if corners else None
        prompts.check_prompt(pairs, labels, box)
        return pairs or None, labels or None, box

    def _ask(self, where: tuple[int, ...], layer: Image, prompt: tuple[Any, Any, Any]) -> Any:
        """Return the plane's indices, and its mask, or None without a prompt; in a thread.

        An error is returned as well: napari would show its traceback.
        """
        try:
            return where, self._mask(where, layer, prompt)
        except HQSamError as error:
            return where, error

    def _mask(self, where: tuple[int, ...], layer: Image, prompt: tuple[Any, Any, Any]) -> Any:
        sam = cast(HQSam, self._sam)  # `segment` has asked
        data = layer.data[0] if layer.multiscale else layer.data
        key = (id(data), where, tuple(layer.contrast_limits))
        if self._opened is None or self._opened[0] != key:
            plane = prompts.rgb(np.asarray(data[where]), layer.contrast_limits)
            self._opened = key, sam.open(plane)
        if prompt == (None, None, None):
            return None
        return self._opened[1].segment(*prompt, mode=self.mode.value).array

    def _draw(self, answer: tuple[tuple[int, ...], Any]) -> None:
        where, mask = answer
        if isinstance(mask, HQSamError):
            self._say(str(mask))
            return
        objects = self._viewer.layers[OBJECTS]
        label = objects.selected_label or int(objects.data.max()) + 1
        objects.selected_label = label
        plane = objects.data[where]
        others = np.where(plane == label, 0, plane)
        # Finished objects stay in front.
        found = others if mask is None else np.where(mask & (others == 0), label, others)
        rows, columns = np.nonzero(found != plane)
        if rows.size:
            indices = (*(np.full(rows.size, it) for it in where), rows, columns)
            # Not `data` itself: napari can undo this.
            objects.data_setitem(indices, found[rows, columns])
        count = int((found == label).sum())
        self.status.value = f"label {label}: {count} pixels" if count else "ready: click, or draw"

    def _finish(self) -> None:
        self._busy = False
        if self._again:
            self._again = False
            self.segment()

    def _say(self, text: str) -> None:
        self.status.value = text
        show_error(f"HQ-SAM: {text}")

    def _choose_kind(self, kind: str) -> None:
        if POINTS in self._viewer.layers:
            self._viewer.layers[POINTS].feature_defaults = {"kind": kind}

    def _on_data(self, event: Any) -> None:
        if str(event.action) in DONE:
            self.segment()

    def _add_layers(self, image: Image) -> None:
        """Add the layers that are missing, in the image's frame: their data are its pixels."""
        frame = {"scale": image.scale, "translate": image.translate}
        shape = (image.data[0] if image.multiscale else image.data).shape[: image.ndim]
        layers = self._viewer.layers
        if OBJECTS in layers and layers[OBJECTS].data.shape != shape:
            # Objects of another image are kept under another name.
            layers[OBJECTS].name = f"{OBJECTS} before"
            del layers[POINTS], layers[BOXES]
        if OBJECTS not in layers:
            self._viewer.add_layer(Labels(np.zeros(shape, np.int32), name=OBJECTS, **frame))
        if BOXES not in layers:
            boxes = Shapes(
                ndim=image.ndim, name=BOXES, face_color="transparent", edge_color="yellow", **frame
            )
            boxes.events.data.connect(self._on_data)
            self._viewer.add_layer(boxes)
        if POINTS not in layers:
            points = Points(
                ndim=image.ndim, name=POINTS, size=max(shape[-2:]) / 80,
                features={"kind": np.empty(0, object)}, feature_defaults={"kind": self.kind.value},
                face_color="kind", face_color_cycle={ON: "lime", BESIDE: "red"}, **frame,
            )  # fmt: skip
            points.events.data.connect(self._on_data)
            self._viewer.add_layer(points)
        layers[BOXES].mode, layers[POINTS].mode = "add_rectangle", "add"
        layers.selection.active = layers[POINTS]
