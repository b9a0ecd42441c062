"""`hqsam fetch` gets the expected checkpoint or says why not; against a real server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.export.command import files, hqsam

# More than the 10 MiB that huggingface_hub writes at once, so that there is something to resume.
CONTENT = bytes(range(256)) * 65536
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
OTHER_MD5 = "0" * 32
ADVICE = "Check the address and the network, then run it again"
PUBLISHED_MD5 = "c6b8953247bcfdc8bb8ef91e36a6cacc"


class Files(ThreadingHTTPServer):
    """Serves CONTENT at every path, in the headers of the Hugging Face hub, with ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, str | None]] = []
        self.broken_transfers = 0
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Files

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        body = self._head()
        if self.server.broken_transfers:
            self.server.broken_transfers -= 1
            body = body[: len(body) * 3 // 4]
            self.close_connection = True
        self.wfile.write(body)

    def _head(self) -> bytes:
        requested = self.headers.get("Range")
        self.server.requests.append((self.command, self.path, requested))
        start = int(requested.removeprefix("bytes=").rstrip("-").split("-")[0]) if requested else 0
        body = CONTENT[start:] if self.server.status == 200 else b""
        self.send_response(206 if requested else self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        if requested:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        return body

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Files]:
    with Files() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Files]:
    with serving() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetch(cache: Path, *arguments: str | Path, endpoint: str) -> CompletedProcess[str]:
    environment = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache / "hub"),
        "XDG_CACHE_HOME": str(cache / "xdg"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "no_proxy": "127.0.0.1",
        "NO_PROXY": "127.0.0.1",
    }
    return hqsam("fetch", *arguments, environment=environment)


def fetched(result: CompletedProcess[str]) -> Path:
    assert result.returncode == 0, result.stderr
    path = Path(result.stdout.strip())
    assert path.read_bytes() == CONTENT
    return path


def refused(result: CompletedProcess[str]) -> str:
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    # A progress bar that was cut short stands before it on its line.
    assert result.stderr.count("hqsam fetch: ") == 1
    message: str = result.stderr.partition("hqsam fetch: ")[2].splitlines()[0]
    return message


def test_the_hubs_file_is_downloaded_once_and_then_found_without_the_hub(cache: Path) -> None:
    with serving() as server:
        endpoint = server.url
        path = fetched(fetch(cache, "--md5", MD5, endpoint=endpoint))
        assert path.name == "sam_hq_vit_b.pth"
        downloads = [url for method, url, _ in server.requests if method == "GET"]
        assert downloads == ["/lkeab/hq-sam/resolve/main/sam_hq_vit_b.pth"]
    assert fetched(fetch(cache, "--md5", MD5, endpoint=endpoint)) == path


@pytest.mark.parametrize(
    ("model", "file"),
    [("light", "sam_hq_vit_tiny.pth"), ("l", "sam_hq_vit_l.pth"), ("h", "sam_hq_vit_h.pth")],
)
def test_other_models_are_checked_against_the_digest_that_the_hub_states(
    server: Files, cache: Path, model: str, file: str
) -> None:
    path = fetched(fetch(cache, "--model", model, endpoint=server.url))
    assert path.name == file
    kept = path.resolve()
    assert kept.name == hashlib.sha256(CONTENT).hexdigest()
    kept.write_bytes(b"damaged")
    message = refused(fetch(cache, "--model", model, endpoint=server.url))
    assert kept.name in message
    assert hashlib.sha256(b"damaged").hexdigest() in message


def test_a_source_and_a_model_are_not_both_taken(cache: Path) -> None:
    result = fetch(cache, "mine.pth", "--model", "l", endpoint="http://127.0.0.1:1")
    assert result.returncode == 2
    assert "expected one of them" in result.stderr


def test_a_broken_transfer_from_the_hub_is_resumed_where_it_broke(
    server: Files, cache: Path
) -> None:
    server.broken_transfers = 1
    fetched(fetch(cache, "--md5", MD5, endpoint=server.url))
    ranges = [requested for method, _, requested in server.requests if method == "GET"]
    assert ranges[0] is None
    assert ranges[-1] is not None
    assert int(ranges[-1].removeprefix("bytes=").rstrip("-")) >= 10 << 20


def test_another_file_under_the_published_name_is_refused_with_both_digests(
    server: Files, cache: Path
) -> None:
    message = refused(fetch(cache, endpoint=server.url))
    assert MD5 in message
    assert PUBLISHED_MD5 in message
    assert CONTENT in files(cache).values()  # the cache is the user's


@pytest.mark.slow
def test_without_hub_and_cache_the_message_says_what_to_do(cache: Path) -> None:
    with serving() as server:
        endpoint = server.url
    message = refused(fetch(cache, endpoint=endpoint))
    assert "cannot be reached" in message
    assert "give its path" in message


@pytest.mark.parametrize("status", [401, 404, pytest.param(500, marks=pytest.mark.slow)])
def test_a_hub_that_refuses_is_an_error_of_one_line(
    server: Files, cache: Path, status: int
) -> None:
    server.status = status
    assert "sam_hq_vit_b.pth" in refused(fetch(cache, endpoint=server.url))


def test_a_file_at_a_url_is_downloaded_once(cache: Path) -> None:
    with serving() as server:
        url = f"{server.url}/models/other.pth?download=true"
        path = fetched(fetch(cache, url, "--md5", MD5, endpoint=server.url))
        assert len(server.requests) == 1
    assert fetched(fetch(cache, url, "--md5", MD5, endpoint=server.url)) == path
    assert path.is_relative_to(cache)


def test_a_wrong_file_at_a_url_is_refused_with_both_digests_and_not_kept(
    server: Files, cache: Path
) -> None:
    message = refused(fetch(cache, f"{server.url}/sam_hq_vit_b.pth", endpoint=server.url))
    assert MD5 in message
    assert PUBLISHED_MD5 in message
    assert files(cache) == {}


@pytest.mark.parametrize("suffix", ["?download=true", "?download=true&v=a/b", "#part"])
def test_a_query_does_not_hide_the_published_name_from_its_digest(
    server: Files, cache: Path, suffix: str
) -> None:
    url = f"{server.url}/sam_hq_vit_b.pth{suffix}"
    assert PUBLISHED_MD5 in refused(fetch(cache, url, endpoint=server.url))
    assert files(cache) == {}


def test_a_broken_transfer_from_a_url_is_an_error_and_the_next_run_succeeds(
    server: Files, cache: Path
) -> None:
    server.broken_transfers = 1
    url = f"{server.url}/other.pth"
    assert "Run it again" in refused(fetch(cache, url, "--md5", MD5, endpoint=server.url))
    assert files(cache) == {}
    fetched(fetch(cache, url, "--md5", MD5, endpoint=server.url))


def test_a_server_that_cannot_be_reached_is_an_error_of_one_line(cache: Path) -> None:
    with serving() as server:
        url = f"{server.url}/other.pth"
    message = refused(fetch(cache, url, endpoint=server.url))
    assert message.endswith("cannot be reached, or broke off. " + ADVICE)


def test_a_url_that_answers_404_is_an_error_of_one_line(server: Files, cache: Path) -> None:
    server.status = 404
    assert "404" in refused(fetch(cache, f"{server.url}/other.pth", endpoint=server.url))


def test_a_file_of_the_users_is_taken_as_it_is_or_refused_and_left_alone(
    tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    assert fetched(fetch(cache, path, endpoint="http://127.0.0.1:1")) == path
    message = refused(fetch(cache, path, "--md5", OTHER_MD5, endpoint="http://127.0.0.1:1"))
    assert MD5 in message
    assert OTHER_MD5 in message
    assert path.read_bytes() == CONTENT


def test_a_file_with_the_published_name_must_be_the_published_one(
    tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "sam_hq_vit_b.pth"
    path.write_bytes(CONTENT)
    message = refused(fetch(cache, path, endpoint="http://127.0.0.1:1"))
    assert PUBLISHED_MD5 in message


def test_a_tilde_that_no_shell_expanded_is_the_home_folder(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    path = fetched(fetch(cache, "~/mine.pth", endpoint="http://127.0.0.1:1"))
    assert path == tmp_path / "mine.pth"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, cache: Path) -> None:
    message = refused(fetch(cache, tmp_path / "nothing.pth", endpoint="http://127.0.0.1:1"))
    assert "there is no file" in message
