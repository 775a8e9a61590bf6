# Sets up .venv and runs the jobs of this repository. `make help` lists them.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# OpenMP threads that spin while they wait make two busy processes slower than one.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help install demo test coverage slow results docs tutorial lint format clean

help: ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile

install: $(STAMP) ## Set up .venv with everything (Python 3.11).

$(STAMP): setup.py
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[all,test]'
	touch $@

demo: $(STAMP) ## Run the main job on the shipped model: profile, search, prune, recover, evaluate.
	$(BIN)/sepprune demo --out runs/demo

test: $(STAMP) ## Run the tests that are quick, on up to four cores.
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

coverage: $(STAMP) ## Run them again and say which lines of the package they leave out (90 % at least).
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
	    --cov --cov-report term:skip-covered --cov-report html:build/coverage

slow: $(STAMP) ## Run the tests that are slow.
	$(BIN)/python -m pytest -m slow --timeout 1800

results: $(STAMP) ## Write benchmarks/RESULTS.md and its plots again from the records.
	$(BIN)/python -m benchmarks results

docs: $(VENV)/.docs ## Build the pages and the reference into build/docs.
	$(BIN)/python scripts/build_docs.py

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install -e '.[docs]'
	touch $@

tutorial: $(STAMP) ## Run docs/tutorial.md and write its outputs into it again.
	$(BIN)/python scripts/tutorial.py

lint: $(STAMP) ## Check style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/readme_results.py --check

format: $(STAMP) ## Rewrite the files in the project's format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what building and testing left behind (not .venv, not runs/).
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
