.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster check docs figures bench bench-graphs bench-client bench-cluster fuzz soak clean

PYTHON ?= python3
SOAK_MINUTES ?= 30
VENV ?= .venv
BIN := $(VENV)/bin

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo$(if $(HQSAM_CHECKPOINT),-export) ## Start Triton, segment a photograph, draw the masks in demo/output.
	$(BIN)/python -m demo

test: $(VENV)/.dev ## Run the tests, in two processes.
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test-cluster: $(VENV)/.dev ## Run the tests of several replicas with three, behind a real Envoy.
	HQSAM_TEST_REPLICAS=3 $(BIN)/python -m pytest tests/cluster

fuzz: $(VENV)/.dev ## Send 20,000 hostile inputs instead of the 1,000 of `make test`.
	HQSAM_FUZZ_INPUTS=20000 $(BIN)/python -m pytest -s tests/hostile/test_fuzz.py

soak: $(VENV)/.dev ## Load a server for SOAK_MINUTES (30), into benchmarks/results; 2 make a nightly run.
	$(BIN)/python -m benchmarks.soak --minutes $(SOAK_MINUTES)

check: $(VENV)/.dev ## Check format, lint and types, and the Dockerfile.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint docker/Dockerfile

docs: $(VENV)/.dev ## Build the documentation into site/; a broken link is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

figures: $(VENV)/.dev ## Draw the documentation's images anew, with the small model.
	$(BIN)/python -m demo.figures

bench: $(VENV)/.dev ## Measure serving at full size beside its alternatives, into benchmarks/results.
	$(BIN)/python -m benchmarks.serving

bench-graphs: $(VENV)/.dev ## Measure the exported graphs, into benchmarks/results.
	$(BIN)/python -m benchmarks.graphs

bench-cluster: $(VENV)/.dev ## Measure what replicas bring, into benchmarks/results.
	$(BIN)/python -m benchmarks.cluster

bench-client: $(VENV)/.dev ## Measure the client's own share, into benchmarks/results.
	$(BIN)/python -m benchmarks.client

clean: ## Remove the virtual environment, caches, and what builds and the demo wrote.
	rm -rf $(VENV) build dist site demo/output .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: EXTRAS = demo
# A checkpoint has to be exported first.
$(VENV)/.demo-export: EXTRAS = demo,export
$(VENV)/.dev: EXTRAS = dev
$(VENV)/.demo $(VENV)/.demo-export $(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@
