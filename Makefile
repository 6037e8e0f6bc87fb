# Every target sets itself up. VENV names the virtual environment, TORCH the build to install first:
# plain `torch` would fetch CUDA libraries of several gigabytes where a CPU build was wanted.
VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin

.PHONY: install dev check test demo clean

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

demo: install
	$(BIN)/python examples/demo.py

clean:
	rm -rf $(VENV) .demo build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
