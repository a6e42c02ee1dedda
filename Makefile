# What a person types. Every target sets up first, where that is missing or stale.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup train test check format ui bench bench-gpu slurm-up slurm-down clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## the virtual environment, from pyproject.toml and constraints.txt

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("prefopt needs Python 3.11 or newer: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

train: setup ## the main job: robust DPO on the embedded default; ARGS="method=dpo seed=1" for another
	$(BIN)/python -m prefopt.train $(ARGS)

test: setup ## all tests
	$(BIN)/python -m pytest $(ARGS)

check: setup ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## let ruff format and mend
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

ui: setup ## MLflow's interface, on this machine only
	$(BIN)/python -m prefopt.track ui $(ARGS)

bench: setup ## how fast it is, against the targets, in under eight minutes on two cores
	$(BIN)/python tests/bench/bench.py $(ARGS)

bench-gpu: setup ## the same on one GPU, in under nine minutes
	$(BIN)/python tests/bench/gpu.py $(ARGS)

slurm-up: ## a real SLURM of two nodes on this machine, to try out and for the cluster tests
	@launchers/slurm/up

slurm-down: ## stop it, with all its jobs
	@launchers/slurm/down

clean: ## the virtual environment and caches; runs/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
