# `make help` lists the targets. Needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Byte code is written whatever the environment says: it halves the time a server takes to start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run run-local test check lint types bench lock schema clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

$(BIN)/chattable: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: requirements-dev.lock $(BIN)/chattable
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

run: $(BIN)/chattable  ## run the server at 127.0.0.1:8000 (config.yaml)
	$(BIN)/chattable serve

run-local: $(VENV)/dev  ## the same with a small real model on this machine, no API key needed
	$(BIN)/chattable local pull
	$(BIN)/chattable serve --config examples/local.yaml

test: $(VENV)/dev  ## run all tests
	$(BIN)/python -m pytest

check: lint types test  ## everything CI checks

lint: $(VENV)/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/dev
	$(BIN)/mypy

bench: $(VENV)/dev  ## measure against nginx and a direct call; prints a table, writes bench-results/
	$(BIN)/python tests/bench/run.py

schema: $(BIN)/chattable  ## write config.schema.json anew
	$(BIN)/python -c 'import json; from chattable.proxy.configfile import schema; print(json.dumps(schema(), indent=2))' > config.schema.json

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate

lock: $(VENV)/dev  ## resolve the dependencies anew into the two lock files
	echo 'setuptools>=77' | $(COMPILE) --upgrade pyproject.toml - -o requirements.lock
	echo 'setuptools>=77' | $(COMPILE) --upgrade --extra sdk --extra local --group dev -c requirements.lock pyproject.toml - -o requirements-dev.lock

clean:  ## remove the virtual environment and everything generated
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis .conformance bench-results

.PHONY: bench-against figures
bench-against: $(VENV)/dev  ## compare costs with another commit: REV=abc1234 [ROWS=plain,hit] [PAIRS=21]
	$(BIN)/python tests/bench/against.py $(REV) $(if $(ROWS),--rows '$(ROWS)') $(if $(PAIRS),--pairs $(PAIRS))

figures: $(VENV)/dev  ## count calls, statements and encodings of a request: [REV=abc1234] [ROWS=plain]
	$(BIN)/python tests/bench/figures.py $(REV) $(if $(ROWS),--rows '$(ROWS)')
