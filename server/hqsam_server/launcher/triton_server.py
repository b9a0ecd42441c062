"""A real Triton as a child process: started, waited for, restarted and stopped."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from hqsam_client import contract

from hqsam_server import small_model
from hqsam_server.errors import StartError
from hqsam_server.front.call_log import CallLog
from hqsam_server.front.callers import Callers, Keys
from hqsam_server.front.settings import (
    KEYS_VARIABLE,
    SETTINGS_FILE,
    UNTESTED_FILE,
    Front,
    Settings,
    limits,
)
from hqsam_server.launcher import distribution, engines, repository_view, self_test
from hqsam_server.launcher.front import FrontProcess
from hqsam_server.launcher.log import Log
from hqsam_server.launcher.options import Endpoint, Tls, Tuning, absolute
from hqsam_server.launcher.process import Process, instances
from hqsam_server.launcher.services import Services
from hqsam_server.launcher.workspace import Workspace
from hqsam_server.models.settings import default_store_folder

_FREE_PORT = Endpoint()
_PORT_ATTEMPTS = 3
_LAST_ANSWERS_S = 2.0
_POLL_S = 0.1
_FIRST_NEWS_S = 10.0

# The tensors of an encode take 75 MB. Triton's pool of 64 MB on the GPU is too small for one;
# beyond its pools, it allocates and frees memory in each request.
_GPU_POOLS = (
    f"--cuda-memory-pool-byte-size=0:{512 * 2**20}",
    f"--pinned-memory-pool-byte-size={512 * 2**20}",
)

_STORE = "HQSAM_STORE_FOLDER"
_AUTO = "auto"


class _FrontError(StartError):
    """The front could not be started."""


class TritonServer:
    """A Triton server on a model repository.

    ```python
    with TritonServer(Path("model_repository")) as server:
        sam = HQSam(server.grpc_url)
    ```
    """

    def __init__(
        self,
        model_repository: Path | None = None,
        *,
        grpc: Endpoint = _FREE_PORT,
        http: Endpoint = _FREE_PORT,
        metrics: Endpoint = _FREE_PORT,
        tls: Tls | None = None,
        front: Front | None = None,
        tuning: Tuning | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        self_test: bool = False,
        start_timeout_s: float = 600.0,
        exit_timeout_s: int = 30,
        log: TextIO | None = None,
    ) -> None:
        """Prepare a server; `start` starts it.

        Paths may be relative to the current folder.

        Args:
            model_repository: what `hqsam export` wrote; None for the small model.
            grpc: where to serve KServe v2 over gRPC.
            http: where to say whether it is ready, and to serve KServe v2 over HTTP if `front`
                says so.
            metrics: where Prometheus reads.
            tls: encrypts gRPC, and KServe v2 over HTTP; None leaves them in the clear.
            front: who may call what; None for the defaults.
            tuning: precision, threads and instances of the ONNX models; None for the defaults.
            environment: variables for the models, such as ``HQSAM_STORE_FOLDER``. Without
                that one, embeddings are lost when the server stops.
            arguments: further arguments for `tritonserver`, which runs in another folder.
                Any ``--log-…`` among them shows its whole log.
            self_test: whether to encode and segment an image before the server is ready, and to
                fail if that fails. It takes as long as an encode.
            start_timeout_s: how long a start may take, loading of models included. Before that, it
                waits as long for another server that builds engines of TensorRT in the same folder.
            exit_timeout_s: how long requests under way may take when the server stops.
            log: where the server's log goes; None for nowhere.
        """
        self._source = None if model_repository is None else absolute(model_repository)
        self._tls = tls
        self._front = front or Front()
        self._tuning = tuning or Tuning()
        self._environment = dict(environment or {})
        store = self._environment.get(_STORE) or os.environ.get(_STORE)
        self._store = store if store in (None, _AUTO) else str(absolute(store))
        self._arguments = list(arguments)
        self._self_test = self_test
        self._start_timeout_s = start_timeout_s
        self._exit_timeout_s = exit_timeout_s
        self._log = Log(
            log,
            gpu=self._tuning.backend_directory is not None,
            everything=any(argument.startswith("--log-") for argument in arguments),
        )
        self._workspace = Workspace()
        self._models: list[str] = []
        self._services = Services(
            {"grpc": grpc, "http": http, "metrics": metrics}, self._workspace.folder
        )
        self._process: Process | None = None
        self._front_processes: list[FrontProcess] = []
        self._is_up = False
        self._expected: frozenset[str] = frozenset()

    @property
    def grpc_url(self) -> str:
        """``host:port`` of the gRPC service."""
        return self._services.url("grpc")

    @property
    def http_url(self) -> str:
        """``host:port`` of the HTTP service."""
        return self._services.url("http")

    @property
    def metrics_url(self) -> str:
        """``host:port`` of the metrics service; Prometheus reads ``/metrics`` there."""
        return self._services.url("metrics")

    @property
    def pid(self) -> int:
        """Process ID of `tritonserver`."""
        return self._running.pid

    @property
    def front_pids(self) -> dict[str, int]:
        """Process IDs of the front, ``grpc`` and ``http``."""
        return {process.kind: process.pid for process in self._front_processes}

    @property
    def _running(self) -> Process:
        assert self._process is not None, "the server was not started"  # noqa: S101
        return self._process

    @property
    def expected(self) -> frozenset[str]:
        """Names of the model instances that were alive when the server was ready."""
        return self._expected

    @property
    def shared_memory_prefix(self) -> str:
        """What the names of the server's files in /dev/shm start with."""
        return self._workspace.shared_memory_prefix

    def say(self, text: str) -> None:
        """Write a line to the server's log."""
        self._log.say(text)

    def start(self) -> TritonServer:
        """Start the server and wait until it is ready.

        Raises:
            StartError: it cannot be started; the message says why in one line.
        """
        try:
            self._prepare()
            self._launch()
        except OSError as error:
            self.stop()
            raise StartError(f"the server cannot be started: {error}") from error
        except BaseException:
            self.stop()
            raise
        # Later, an instance that died at once would be missing.
        self._expected = frozenset(instances(self.pid).values())
        return self

    def _prepare(self) -> None:
        self._distribution = distribution.find()
        self._tls = self._tls.checked() if self._tls else None
        # Both raise if a file cannot be used.
        Callers(Keys(self._front.keys_file), self._front.proxies)
        if self._front.call_log is not None:
            CallLog(self._front.call_log).close()
        self._workspace.open()
        folder = self._workspace.folder
        if self._tuning.backend_directory is None:
            repository_view.write_backends(folder / "backends", self._distribution)
        source = self._source
        if source is None:
            source = folder / "small"
            small_model.write(source, link=True)
        self._check_cache()
        repository = folder / "repository"
        self._models = repository_view.write_repository(repository, source, self._tuning)
        # Nothing here calls this model: `segment` reads its files and decodes by itself.
        unused = {contract.PROMPT_DECODER.name} - {*self._front.open_models}
        self._models = [name for name in self._models if name not in unused]
        self._environment["HQSAM_COMPUTED_BY"] = repository_view.computed_by(repository)
        if self._self_test:
            self._untested.touch()

    def _check_cache(self) -> None:
        """Warn if compiled models cannot be kept."""
        cache = self._tuning.cache_dir
        if cache is None or self._tuning.backend_directory is not None:
            return
        try:
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=cache):
                pass
        except OSError as error:
            self.say(
                f"the cache folder {cache} cannot be written ({error.strerror}): models that are "
                "not in it are compiled at every start; choose another one with --cache-dir"
            )

    def _launch(self) -> None:
        self.say(f"starting Triton with {self._source or 'the small model'}")
        kept = engines.folders(self._workspace.folder / "repository")
        with engines.turn(kept, self._start_timeout_s, self.say):
            self._start()

    def _start(self) -> None:
        self._services.choose_ports()
        self._spawn()
        for attempt in range(_PORT_ATTEMPTS):
            self._start_front()
            try:
                self._wait_until_ready()
            except _FrontError:
                # Another program may have taken a free port before the front did.
                if attempt + 1 == _PORT_ATTEMPTS:
                    raise
                self._stop_front()
                self._services.choose_ports()
            else:
                break
        for process in self._front_processes:
            process.keep()

    @property
    def _untested(self) -> Path:
        return self._workspace.folder / UNTESTED_FILE

    def _is_tested(self, timeout_s: float) -> bool:
        """Test a server whose models are loaded, if that is still to be done; return True.

        Raises:
            StartError: it failed.
        """
        if self._untested.exists():
            start = time.monotonic()
            self_test.run(self._services.call, self._store_folder(), timeout_s)
            self._untested.unlink()
            self.say(f"the self-test passed in {time.monotonic() - start:.1f} s")
        return True

    def _store_folder(self) -> Path:
        if self._store == _AUTO:
            return default_store_folder()
        return Path(self._store or self._workspace.store)

    def _start_front(self) -> None:
        environment = {**os.environ, **self._environment}
        message_bytes, prompts = limits(environment)
        Settings(
            front=self._front,
            **self._services.endpoints,
            tls=self._tls,
            message_bytes=message_bytes,
            prompts=prompts,
            exit_timeout_s=self._exit_timeout_s,
        ).write(self._workspace.folder / SETTINGS_FILE)
        alive = {
            "grpc": self._services.is_grpc_front_alive,
            "http": self._services.is_http_front_alive,
        }
        variables = {
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **self._workspace.marks,
        }
        self._front_processes = [
            FrontProcess(kind, variables, self._workspace.folder, self._log, is_alive)
            for kind, is_alive in alive.items()
        ]

    def _stop_front(self, timeout_s: float = 0.0) -> None:
        for process in self._front_processes:
            process.kill(timeout_s)
        self._front_processes = []

    def _spawn(self) -> None:
        self._is_up = False
        # Unless the user wants a store, it ends with the server.
        store = {_STORE: self._store or str(self._workspace.store)}
        self._log.reset()
        self._services.remove_sockets()
        variables = (
            self._distribution.environment() | self._environment | store | self._workspace.marks
        )
        variables.pop(KEYS_VARIABLE, None)  # nothing but the front needs them
        self._process = Process(
            [self._distribution.binary, *self._command_line()],
            variables,
            self._workspace.folder,
            self._log,
        )

    def _command_line(self) -> list[str]:
        folder = self._workspace.folder
        own_backends = self._tuning.backend_directory is None
        return [
            f"--model-repository={folder / 'repository'}",
            f"--backend-directory={self._tuning.backend_directory or folder / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self.shared_memory_prefix}",
            *self._services.arguments(),
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self._models),
            f"--exit-timeout-secs={self._exit_timeout_s}",
            # Quantiles as well as sums: an average hides slow requests.
            "--metrics-config=summary_latencies=true",
            f"--allow-gpu-metrics={str(not own_backends).lower()}",
            *(() if own_backends else _GPU_POOLS),
            "--disable-auto-complete-config",
            # Otherwise it keeps the memory of the eight largest messages for later ones.
            "--grpc-infer-allocation-pool-size=0",
            *self._arguments,
        ]

    def _wait_until_ready(self, look: Callable[[], None] = lambda: None) -> None:
        start = time.monotonic()
        next_news_s = _FIRST_NEWS_S
        metrics = not any(argument.startswith("--allow-metrics") for argument in self._arguments)
        deadline = start + self._start_timeout_s
        while not (
            self._services.is_triton_ready(metrics)
            and self._is_tested(deadline - time.monotonic())
            and self._services.is_front_ready()
        ):
            # A start that failed unloads its models for seconds before the process ends.
            if not self._running.is_running() or self._log.drained.is_set():
                raise StartError(f"Triton ended while it started: {self._running.reason()}")
            for process in self._front_processes:
                if not process.is_kept and not process.is_running():
                    raise _FrontError(f"the front ended while it started: {process.last_line}")
            waited_s = time.monotonic() - start
            if waited_s > self._start_timeout_s:
                raise StartError(
                    f"Triton was not ready within {self._start_timeout_s:g} s; it was still "
                    f"waiting for {self._awaited()}; for its whole log, start with "
                    "-- --log-info=true"
                )
            if waited_s > next_news_s:
                self.say(
                    f"waiting for {self._awaited()} ({waited_s:.0f} s of "
                    f"{self._start_timeout_s:g} s)"
                )
                next_news_s *= 2
            self._note_environment()
            look()
            time.sleep(_POLL_S)
        self._note_environment()
        self._is_up = True

    def _awaited(self) -> str:
        """Return what a start is waiting for."""
        models = ", ".join(sorted(self._log.loading))
        return f"the models {models}" if models else "the services of Triton"

    def _note_environment(self) -> None:
        environment = self._running.new_environment()
        if environment is not None:
            self._workspace.add_environment(environment)

    def restart(self, look: Callable[[], None]) -> None:
        """Start the process again on the same ports, with the same store.

        The old process is killed, not asked to end: its models may no longer answer.

        Args:
            look: called again and again until the server is ready.

        Raises:
            StartError: it ended, or was not ready in time.
        """
        if self._process is not None:
            self._process.kill()
        self._workspace.remove_shared_memory()
        self._workspace.count_restart()
        self._spawn()
        self._wait_until_ready(look)

    def reload(self, model: str, timeout_s: float) -> None:
        """Load a model again; its living instances answer until the new ones are ready.

        Raises:
            StartError: it could not be loaded in that time.
        """
        self._workspace.count_restart()
        # Triton reloads a model only if its files have changed.
        (self._workspace.folder / "repository" / model / "generation").touch()
        failure = self._services.load(model, timeout_s)
        if failure is not None:
            raise StartError(f"{model} could not be loaded: {failure}")

    def call(self, model: str, inputs: list[dict[str, Any]], timeout_s: float) -> tuple[int, str]:
        """Run a model on inputs in KServe's JSON; return HTTP status and text, or 0 and why."""
        return self._services.call(model, inputs, timeout_s)

    def remove_shared_memory(self, used: Collection[str]) -> None:
        """Remove the server's shared memory, but not the parts with these names."""
        self._workspace.remove_shared_memory(used)

    def is_running(self) -> bool:
        """Tell whether the process exists."""
        return self._process is not None and self._process.is_running()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the process to end; return its exit status, or None after the timeout."""
        return self._running.wait(timeout_s)

    def stop(self) -> None:
        """End the server and remove everything that it owns.

        Requests under way are answered first, within the exit timeout. A server that is
        still starting is killed.
        """
        if self._is_up:
            for front in self._front_processes:
                front.terminate()
        if self._process is not None:
            if self._is_up:
                self._process.terminate(self._exit_timeout_s)
            else:
                self._process.kill()
        # What it has yet to send was answered, or never will be.
        self._stop_front(_LAST_ANSWERS_S if self._is_up else 0.0)
        self._is_up = False
        self._workspace.close()

    def __enter__(self) -> TritonServer:
        """Start the server unless it runs already."""
        return self if self.is_running() else self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()
