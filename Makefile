# `make help` lists the targets. Needs make and a Python that pyproject.toml names, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With which pip to install instead of the one that the Python brings: `oldest` or `newest`.
PIP :=
# What pytest is told besides: make test ARGS=tests/test_cli.py
ARGS :=
# Byte code is written whatever the environment says: it halves the time a server takes to start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run run-local test test-fast check lint format types bench lock schema clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
pip-oldest = pip==$(shell sed -n 's/^oldest-pip = "\(.*\)".*/\1/p' pyproject.toml)
pip-newest = --upgrade pip
say = printf '%s\n' "make: $(1)" >&2

define install-lock
$(INSTALL) --require-hashes -r $(1) || { \
	$(call say,pip could not install $(1): see above. If it is the network: set PIP_INDEX_URL.); \
	$(call say,If not: make clean; make $(MAKECMDGOALS) PIP=newest); exit 1; }
endef

$(BIN)/chattable: pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { \
	$(call say,there is no $(PYTHON). Install Python 3 or name it: make PYTHON=python3.13); exit 1; }
	@$(PYTHON) .ci/floors.py
	@$(PYTHON) -m venv $(VENV) || { \
	$(call say,no virtual environment was made: see above. Mend it; make clean; make again); exit 1; }
	$(if $(PIP),$(INSTALL) $(pip-$(PIP)))
	@$(BIN)/python .ci/floors.py pip
	@$(call install-lock,requirements.lock)
	PYTHONWARNINGS=ignore $(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: requirements-dev.lock $(BIN)/chattable
	@$(call install-lock,requirements-dev.lock)
	@touch $@

run: $(BIN)/chattable  ## run the server at 127.0.0.1:8000 (config.yaml)
	$(BIN)/chattable serve

run-local: $(VENV)/dev  ## the same with a small real model on this machine, no API key needed
	$(BIN)/chattable local pull
	$(BIN)/chattable serve --config examples/local.yaml

test: $(VENV)/dev  ## run all tests
	$(BIN)/python -m pytest -n auto $(ARGS)

test-fast: $(VENV)/dev  ## run the tests that start no server, database or model: about a minute
	PYTHONPATH=tests $(BIN)/python -m pytest -p fast -n 2 --ignore tests/sim --ignore tests/contract/test_ledger_machine.py $(ARGS)

check: lint types test  ## what to run before a commit; CI adds the other Pythons and pips
lint: $(VENV)/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/dev  ## mend what ruff can mend, and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/dev
	$(BIN)/mypy

bench: $(VENV)/dev  ## measure against nginx and a direct call; prints a table, writes bench-results/
	$(BIN)/python tests/bench/run.py

schema: $(BIN)/chattable  ## write config.schema.json anew
	$(BIN)/python -c 'import json; from chattable.proxy.config.schema import schema; print(json.dumps(schema(), indent=2))' > config.schema.json

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-strip-extras --no-emit-index-url --no-header --no-annotate
DEV := --extra sdk --extra local --group dev -c requirements.lock

lock: $(VENV)/dev  ## write the lock files; pins stay but with UPGRADE=--upgrade
	echo 'setuptools>=77' | $(COMPILE) $(UPGRADE) pyproject.toml - -o requirements.lock
	echo 'setuptools>=77' | $(COMPILE) $(UPGRADE) $(DEV) pyproject.toml - -o requirements-dev.lock
	$(BIN)/python tests/locks.py requirements.lock requirements-dev.lock

clean:  ## remove the virtual environments and everything generated
	rm -rf .venv .venv-* build *.egg-info .mypy_cache .ruff_cache .hypothesis .conformance bench-results

.PHONY: bench-against figures
bench-against: $(VENV)/dev  ## compare costs with another commit: REV=abc1234 [ROWS=plain,hit] [PAIRS=21]
	$(BIN)/python tests/bench/against.py $(REV) $(if $(ROWS),--rows '$(ROWS)') $(if $(PAIRS),--pairs $(PAIRS))

figures: $(VENV)/dev  ## count calls, statements and encodings of a request: [REV=abc1234] [ROWS=plain]
	$(BIN)/python tests/bench/figures.py $(REV) $(if $(ROWS),--rows '$(ROWS)')

.PHONY: bench-peers
bench-peers: $(VENV)/dev  ## measure beside other gateways from PyPI and npm: [PEERS=litellm,portkey] [ARGS=--quick]
	$(BIN)/python tests/bench/peers.py $(ARGS) $(if $(PEERS),--peers '$(PEERS)')

.PHONY: bench-scale
bench-scale: $(VENV)/dev  ## measure what grows with a million calls, on SQLite and PostgreSQL: [SCALE=0.05]
	$(BIN)/python tests/bench/scale.py $(if $(SCALE),--scale $(SCALE))

.PHONY: record shape docs
shape: $(VENV)/dev  ## measure the shape of the code beside its targets: [ARGS=--names]
	$(BIN)/python tests/shape/shape.py $(ARGS)

docs: $(VENV)/dev  ## write anew what pages of docs/ show of the settings and of OpenAPI
	$(BIN)/python tests/generated_docs.py

record: $(VENV)/dev  ## write down anew what every route answers: [ARGS="chat cache"]; read the difference
	$(BIN)/python tests/replay/record.py $(ARGS)
