# Everything a person or CI does here starts with `make <target>`; `make` alone lists the targets. Only Python 3.11 or
# newer and make are needed: `setup` puts the rest into .venv, and every target that needs it runs it first.

PYTHON ?= python3
VENV   ?= .venv
# The engine of `run` and `up`: vllm (a GPU, or patience on a CPU) or replay (recorded traces; needs neither).
ENGINE ?= vllm
# More arguments for pytest: make test PYTEST_ARGS="-k ledger -x"
PYTEST_ARGS ?=
# Test processes side by side; a module's tests stay together, since they share a running stack.
PYTEST_PARALLEL ?= -n 3 --dist loadfile

BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run up seen-live test test-quick test-engine test-fault fuzz verify bench proto proto-breaking fmt clean

help: ## List the targets
	@echo "usage: make <target> [ENGINE=vllm|replay] [PYTHON=python3]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED) ## Make .venv and install the project into it (again when pyproject.toml changed)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is missing or older than 3.11; install Python 3.11 or newer, or name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[local,dev]'
	@touch $@

run: $(INSTALLED) ## Start everything on this machine, answer the bundled questions, compare with the fixed budget, and stop
	$(BIN)/dynasor demo --engine $(ENGINE)

up: $(INSTALLED) ## Start everything on this machine and keep it running until Ctrl-C
	$(BIN)/dynasor up --engine $(ENGINE)

test: $(INSTALLED) ## Run all tests that need no inference engine (six to eight minutes on two cores)
	$(BIN)/pytest -m "not engine" $(PYTEST_PARALLEL) $(PYTEST_ARGS)

test-quick: $(INSTALLED) ## Run the tests that take no longer than a few seconds each
	$(BIN)/pytest -m "not engine and not slow and not fault" $(PYTEST_ARGS)

test-engine: $(INSTALLED) ## Run the tests against a real vLLM
	$(BIN)/pytest -m engine tests/engine $(PYTEST_ARGS)

test-fault: $(INSTALLED) ## Run the tests that kill processes and cut connections
	$(BIN)/pytest -m fault $(PYTEST_ARGS)

fuzz: $(INSTALLED) ## Feed 100,000 hostile texts to what reads and compares answers (`make test` takes 2,000)
	DYNASOR_FUZZ_INPUTS=100000 $(BIN)/pytest -m fuzz $(PYTEST_ARGS)

verify: $(INSTALLED) ## Check style, types, layers, protos, generated code and the contracts of the tree
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/python protos/generate.py --check
	$(BIN)/mypy
	$(BIN)/pytest -q tests/contract

bench: $(INSTALLED) ## Measure what the control plane costs and what the rules save
	$(BIN)/dynasor bench
	$(BIN)/dynasor bench batch
	$(BIN)/dynasor bench allocation
	$(BIN)/dynasor bench scheduler
	$(BIN)/dynasor bench scaling

SEEN_LIVE = .dynasor/seen-live
seen-live: $(INSTALLED) ## Write docs/seen-live.md: every algorithm and rule on the vLLM of a running `make up`
	mkdir -p $(SEEN_LIVE)
	$(BIN)/python -m dynasor_serve.local.seen_live questions > $(SEEN_LIVE)/questions.jsonl
	@# Status 1: every line was asked, and some have no answer. That is to be shown, too.
	$(BIN)/dynasor batch $(SEEN_LIVE)/questions.jsonl $(SEEN_LIVE)/results.jsonl --overwrite || test $$? -eq 1
	$(BIN)/python -m dynasor_serve.local.seen_live page $(SEEN_LIVE)/results.jsonl > docs/seen-live.md
	cp $(SEEN_LIVE)/results.jsonl docs/seen-live.jsonl

proto: $(INSTALLED) ## Write the Python code of the protos
	$(BIN)/python protos/generate.py

proto-breaking: $(INSTALLED) ## Check that the protos still understand those of the main branch
	$(BIN)/buf breaking protos --against '.git#branch=main,subdir=protos'

fmt: $(INSTALLED) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean: ## Remove .venv, caches and build results
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find operator services protos tests -name __pycache__ -type d -prune -exec rm -rf {} +
