# Every verb a person or CI needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
TESTS ?= tests
SETUP := PYTHON="$(PYTHON)" infra/setup.sh "$(VENV)"

# Nothing phones home and no hub is asked: the same values the packages set for themselves.
export DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## create .venv with the pinned packages (nothing to do when requirements.lock is unchanged)
	@$(SETUP)

.PHONY: demo
demo: setup ## train, evaluate, register and promote a model on this machine, then name the report
	@$(VENV)/bin/mmfs run

.PHONY: test
test: setup ## run the tests (TESTS=tests/model for a part)
	@$(RUN) -m pytest -n 2 --no-loadscope-reorder $(TESTS)

.PHONY: test-faults
test-faults: setup ## run the kill tests that are too long for `make test` (MMFS_FAULT_SEED=1 draws other points)
	@$(RUN) -m pytest -m faults tests/faults tests/components

.PHONY: lint
lint: setup ## check style, types, import directions and manifests
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports
	@PYTHON="$(RUN)" infra/validate.sh

.PHONY: bench
bench: setup ## run every benchmark and render docs/benchmarks.md
	@$(RUN) -m benchmarks

.PHONY: docs
docs: setup ## renew the pages that are generated from the source
	@$(RUN) docs/generate.py

.PHONY: clean
clean: ## remove the environment and caches; runs, models and data stay
	@rm -rf "$(VENV)" .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
