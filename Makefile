# make devnet   sets up .venv on first run, then starts the market; Ctrl-C stops it and keeps its state
# make test     sets up, lints, type-checks, tests
# Variables: PYTHON (default python3), TORCH_INDEX (an extra package index for torch, e.g. one with the CPU build),
#            AI=off (no torch), ARGS (passed to `quorix devnet up` or pytest)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := torch==2.13.0
TORCH_INDEX ?=
AI ?= full
ARGS ?=

.PHONY: setup huggingface devnet test test-all cover lint types format clean lock check-python
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -4

check-python:
	@$(PYTHON) -c 'import sys; ok = sys.implementation.name == "cpython" and sys.version_info[:2] in ((3,11),(3,12)); \
	sys.exit(0 if ok else "Quorix needs CPython 3.11 or 3.12 (LevelDB has no wheel for later ones yet), and this is %s %s. Name one: make PYTHON=python3.11" % (sys.implementation.name, sys.version.split()[0]))'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python has no venv module; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.base: requirements.lock requirements-build.lock pyproject.toml | check-python
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the locked packages (hashes checked)"
	@$(PIP) install --require-hashes --no-deps -r requirements-build.lock
	@$(PIP) install --require-hashes --no-deps --no-build-isolation -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.torch: $(VENV)/.base
ifneq ($(AI),off)
	@echo "installing $(TORCH) (the largest part of the set-up)"
	@$(PIP) install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$(TORCH)"
	@touch $@
endif

$(VENV)/.dev: requirements-dev.lock $(VENV)/.base
	@echo "installing the locked packages for tests (hashes checked)"
	@$(PIP) install --require-hashes --no-deps --no-build-isolation -r requirements-dev.lock
	@touch $@

$(VENV)/.models: requirements-models.lock $(VENV)/.torch
	@echo "installing the locked packages for Hugging Face folders (hashes checked)"
	@$(PIP) install --require-hashes --no-deps -r requirements-models.lock
	@touch $@

huggingface: $(VENV)/.models

setup: $(VENV)/.base $(VENV)/.torch

devnet: setup
	@$(BIN)/quorix devnet up $(if $(filter off,$(AI)),--ai off) $(ARGS)

test: setup $(VENV)/.dev lint types
	$(BIN)/pytest -n 2 -m "not long" $(ARGS)

test-all: setup $(VENV)/.dev lint types
	QUORIX_FRESH_EXAMPLES=1 $(BIN)/pytest -n 2 $(ARGS)

# Branch coverage of the rules by their own tests and the conformance vectors; fails below 95 %.
cover: setup $(VENV)/.dev
	@mkdir -p build
	$(BIN)/coverage run -m pytest -n 0 -m "not long" tests/unit/runtime tests/unit/tools/test_lab_vectors.py tests/unit/tools/test_spec.py $(ARGS)
	@$(BIN)/coverage report --skip-covered --show-missing --sort=miss
	@$(BIN)/coverage json --quiet -o build/branches.json
	@$(BIN)/python -c 'import json, sys; t = json.load(open("build/branches.json"))["totals"]; \
	share = 100 * t["covered_branches"] / t["num_branches"]; print(f"branches of runtime/: {share:.2f} %"); sys.exit(share < 95)'

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Rewrites the lock files from pyproject.toml; needs uv.
lock:
	tools/ops/lock.sh
