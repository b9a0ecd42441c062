"""The part of a CVAT server that an agent talks to: one task of one frame, and one function.

It stands in for CVAT, which is a dozen containers. The requests to it and the reading of its
answers are those of the real `cvat-cli`; the answers have the fields that its models demand.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TASK, FUNCTION = 3, 7
DATE = "2026-01-01T00:00:00Z"


class FakeCvat:
    """A server that hands out requests for annotation and keeps what comes back.

    Attributes:
        url: its address.
        function: what was registered.
        waiting: the parameters of requests that no agent has taken.
        results: what agents have answered, in order: "complete" or "fail", and the body.
        frames_sent: how many times the frame was downloaded.
    """

    def __init__(self, frame: bytes, size: tuple[int, int]) -> None:
        """Serve a frame, the bytes of a PNG file of `size` (width, height)."""
        self.function: dict[str, Any] = {}
        self.waiting: list[dict[str, Any]] = []
        self.results: list[tuple[str, dict[str, Any]]] = []
        self.frames_sent = 0
        self._frame, (self._width, self._height) = frame, size
        self._taken = 0
        self.url = ""

    def ask(self, pos: list[Any], neg: list[Any], box: list[Any]) -> None:
        """Put an annotator's request into the queue."""
        self.waiting.append(
            {
                "type": "interact", "task": TASK, "frame": 0,
                "pos_points": pos, "neg_points": neg, "obj_bbox": box,
            }
        )  # fmt: skip

    def get(self, path: str) -> dict[str, Any] | bytes:
        """Answer a GET request."""
        if path == f"/api/tasks/{TASK}/data":
            self.frames_sent += 1
            return self._frame
        return {
            "/api/server/about": {
                "name": "CVAT", "description": "", "version": "2.80.0", "subtitle": "",
                "logo_url": "",
            },
            f"/api/functions/{FUNCTION}": self.function,
            f"/api/tasks/{TASK}": self._task(),
            f"/api/tasks/{TASK}/data/meta": self._meta(),
            "/api/labels": {"count": 0, "next": None, "previous": None, "results": []},
        }[path]  # fmt: skip

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a POST request."""
        action = path.rsplit("/", 1)[1]
        if path == "/api/functions":
            # CVAT fills in what a function does not set.
            unset = {
                "min_neg_points": -1,
                "startswith_box": False,
                "startswith_box_optional": False,
            }
            self.function = {**unset, **body, "id": FUNCTION}
            return self.function
        if action == "acquire":
            mine = body["request_category"] == "interactive" and self.waiting
            if not mine:
                return {"ar_assignment": None}
            self._taken += 1
            return {"ar_assignment": {"ar_id": f"r{self._taken}", "ar_params": self.waiting.pop(0)}}
        assert action in ("complete", "fail"), path
        self.results.append((action, body))
        return {}

    def _task(self) -> dict[str, Any]:
        return {
            "id": TASK, "name": "coins", "size": 1, "updated_date": DATE, "data_chunk_size": 1,
            "data_original_chunk_type": "imageset", "labels": {}, "organization": None,
            "jobs": {"completed": 0, "validation": 0},
        }  # fmt: skip

    def _meta(self) -> dict[str, Any]:
        frame = {"name": "coins.png", "width": self._width, "height": self._height}
        return {
            "frames": [{**frame, "related_files": 0}],
            "deleted_frames": [],
            "chunks_updated_date": DATE,
        }


@contextmanager
def serving(cvat: FakeCvat) -> Iterator[FakeCvat]:
    """Serve it on a free port of the loopback interface."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = cvat.get(urlsplit(self.path).path.rstrip("/"))
            if isinstance(answer, bytes):
                self._answer(answer, "image/png")
            else:
                self._answer(json.dumps(answer).encode(), "application/json")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = cvat.post(urlsplit(self.path).path, body)
            self._answer(json.dumps(answer).encode(), "application/json")

        def _answer(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the output of tests clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        cvat.url = f"http://127.0.0.1:{server.server_port}"
        yield cvat
        server.shutdown()
        thread.join()
