# Every target sets up what it needs, on a machine that has only Python 3.11 (or newer) and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test quick lint format bench clean

demo: $(READY)          ## make a project with simulated slides, score it, say where to look
	$(BIN)/mxbridge demo demo --force
	$(BIN)/mxbridge score --project demo/project.qpproj

test: $(READY)          ## all tests
	$(BIN)/python -m pytest

quick: $(READY)         ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

lint: $(READY)          ## style, types, the rules between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)         ## measurements against the peers (benchmarks/README.md), e.g. BENCH="score --runs 1"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python -m benchmarks $(BENCH)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'mxbridge needs Python 3.11 or newer, e.g. make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,slides,h5ad,train]"
	touch $(READY)

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
