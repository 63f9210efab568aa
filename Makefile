# Every target sets up what it needs, on a machine that has only Python 3.11 (or newer) and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OMERO  := $(VENV)/.omero
GROOVY := $(VENV)/.groovy
WHEELS := $(wildcard $(or $(MXBRIDGE_SHARED),../shared)/wheels)

.PHONY: demo test quick lint format bench clean

demo: $(READY)          ## make a project with simulated slides, score it, say where to look
	$(BIN)/mxbridge demo demo --force
	$(BIN)/mxbridge score --project demo/project.qpproj

test: $(READY) $(OMERO) $(GROOVY) ## all tests
	$(BIN)/python -m pytest

quick: $(READY) $(OMERO) $(GROOVY) ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

lint: $(READY)          ## style, types, the rules between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) $(OMERO) ## measurements against the peers (benchmarks/README.md), e.g. BENCH="score --runs 1"
	$(BIN)/python -m benchmarks $(BENCH)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'mxbridge needs Python 3.11 or newer, e.g. make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,slides,h5ad,train]"
	touch $(READY)

# The OMERO client: from a ready-made wheel, else built, which takes minutes; where neither can be, the tests that need it
# say so and skip. What became of it stands in the stamp and is not tried again: remove that file to do so.
$(OMERO): $(READY) mxbridge/tasks/zeroc_ice_source.py
	@COLUMNS=1000 $(BIN)/mxbridge doctor --fix omero $(if $(WHEELS),--wheels "$(WHEELS)") 2>&1 | tee $(OMERO).log
	@tail -n 1 $(OMERO).log > $(OMERO)

# Groovy 4.0.26, as QuPath 0.6 has it, inside a package of the npm registry: the script buttons are run with it. Without npm the
# tests that need it say so and skip.
GROOVY_PACKAGE := npm-groovy-lint@16.2.0
$(GROOVY): $(READY)
	@mkdir -p $(VENV)/groovy
	@(cd $(VENV)/groovy && npm pack --silent $(GROOVY_PACKAGE) > packed && tar -xzf "$$(cat packed)" && rm "$$(cat packed)") \
	  || echo "No Groovy: the tests of the script buttons skip (npm could not fetch $(GROOVY_PACKAGE))."
	@touch $(GROOVY)

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
