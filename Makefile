.DEFAULT_GOAL := help
.PHONY: help demo test check clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.dev ## Start Triton, segment a photograph, write demo/mask.png and demo/overlay.png.
	$(BIN)/python -m demo

test: $(VENV)/.dev ## Run the tests.
	$(BIN)/python -m pytest

check: $(VENV)/.dev ## Check format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean: ## Remove the virtual environment, caches and build outputs.
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
