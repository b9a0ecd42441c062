.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-long test-cluster test-containers test-integrations environments check docs figures bench bench-graphs bench-family bench-everything bench-client bench-cluster bench-compare bench-gpu bench-attack bench-windows fuzz soak clean bench-page

PYTHON ?= python3
SOAK_MINUTES ?= 30
VENV ?= .venv
BIN := $(VENV)/bin

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo$(if $(HQSAM_CHECKPOINT),-export) ## Start a server, segment a photograph, and draw the masks in demo/output.
	$(BIN)/python -m demo

# Two processes. Groups of tests start in the order of tests/conftest.py, the longest first.
PYTEST := $(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(PYTEST_OPTIONS)

test: $(VENV)/.dev ## Run the tests, without the slow ones: less than 10 minutes on two cores.
	$(PYTEST) -m "not slow and not long"

test-all: $(VENV)/.dev ## Run the tests of CI, with the slow ones: full-size ViT-B, training, faults.
	$(PYTEST) -m "not long"

test-long: $(VENV)/.dev ## Run the longest: a soak, hundreds of images, starved processors, the slowest pages.
	$(PYTEST) -m long

test-cluster: $(VENV)/.dev ## Test two and three replicas, behind a real Envoy and without a proxy.
	HQSAM_TEST_REPLICAS="2 3" $(BIN)/python -m pytest tests/cluster

test-containers: $(VENV)/.dev ## Build the image on stand-ins for its bases, and run it as Compose and Kubernetes do.
	$(BIN)/python -m pytest -rs tests/containers

# Folders of integrations/ whose tests run with the real packages.
INTEGRATIONS ?= cvat label_studio napari supervision x_anylabeling
READY := $(INTEGRATIONS:%=$(VENV)/integrations/%/.ready)

environments: $(READY) ## Make an environment for each of INTEGRATIONS, with its tool: up to 2 GB each.

test-integrations: $(VENV)/.dev $(READY) ## Test INTEGRATIONS with the real packages of their tools.
	$(BIN)/python -m pytest tests/integrations

fuzz: $(VENV)/.dev ## Send 20,000 malformed inputs instead of the 1,000 of `make test`.
	HQSAM_FUZZ_INPUTS=20000 $(BIN)/python -m pytest -s --timeout=0 tests/hostile/test_fuzz.py

soak: $(VENV)/.dev ## Load a server for SOAK_MINUTES (30); the result goes to benchmarks/results.
	$(BIN)/python -m benchmarks.soak --minutes $(SOAK_MINUTES)

check: $(VENV)/.dev ## Check format, lint, types, imports between packages, and the Dockerfile.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint docker/Dockerfile

docs: $(VENV)/.dev ## Build the documentation into site/; a broken link is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

figures: $(VENV)/.dev ## Draw the documentation's images with the small model.
	$(BIN)/python -m demo.figures

bench: $(VENV)/.dev ## Measure serving at full size and its alternatives; see benchmarks/results.
	$(BIN)/python -m benchmarks.serving

bench-graphs: $(VENV)/.dev ## Measure the exported graphs.
	$(BIN)/python -m benchmarks.graphs

bench-family: $(VENV)/.dev ## Measure Light HQ-SAM beside ViT-B.
	$(BIN)/python -m benchmarks.family

bench-cluster: $(VENV)/.dev ## Measure the gain of several replicas.
	$(BIN)/python -m benchmarks.cluster

bench-client: $(VENV)/.dev ## Measure the client's own share of a click.
	$(BIN)/python -m benchmarks.client

bench-page: $(VENV)/.dev ## Measure clicks and frames of the page in a browser.
	$(BIN)/python -m benchmarks.page

bench-compare: $(VENV)/.dev ## Measure this checkout against the one in the folder BEFORE, with clients.
	$(BIN)/python -m benchmarks.compare --before $(BEFORE) --after .

bench-everything: $(VENV)/.dev ## Measure everything in an image, and clicks meanwhile.
	$(BIN)/python -m benchmarks.everything

bench-windows: $(VENV)/.dev ## Measure clicks on small objects of an image of 400 megapixels.
	$(BIN)/python -m benchmarks.windows

bench-attack: $(VENV)/.dev ## Measure what another user notices of an attack.
	$(BIN)/python -m benchmarks.attack

bench-gpu: $(VENV)/.dev $(VENV)-gpu/.gpu ## Measure encoder and clicks on a GPU; needs no Triton.
	$(BIN)/python -m benchmarks.gpu_files build/bench-gpu
	$(VENV)-gpu/bin/python -m benchmarks.gpu build/bench-gpu

clean: ## Remove the virtual environment, caches, builds, and the output of the demo.
	rm -rf $(VENV) $(VENV)-gpu build dist site demo/output .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: EXTRAS = demo
# A checkpoint is exported first.
$(VENV)/.demo-export: EXTRAS = demo,export
$(VENV)/.dev: EXTRAS = dev
$(VENV)/.demo $(VENV)/.demo-export $(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

# An environment of its own: onnxruntime-gpu takes the place of onnxruntime.
$(VENV)-gpu/.gpu: pyproject.toml
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-gpu/bin/python -m pip install --quiet --editable '.[triton,gpu]'
	touch $@

$(VENV)/integrations/%/.ready: integrations/%/pyproject.toml pyproject.toml
	$(PYTHON) -m venv $(VENV)/integrations/$*
	$(VENV)/integrations/$*/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/integrations/$*/bin/python -m pip install --quiet --editable . --editable 'integrations/$*[test]'
	touch $@
