# `make` lists the targets. Each makes the environment in .venv first.
PYTHON ?= python3
VENV ?= .venv
# lowest-direct: install the lowest versions that pyproject.toml allows
RESOLUTION ?= highest
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo test test-all test-gpu test-network lint types check docs docs-serve format bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
ifeq ($(RESOLUTION),highest)
	$(BIN)/python -m pip install -q -e '.[dev,docs]'
else
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip install -q --python $(BIN)/python --resolution $(RESOLUTION) -e '.[dev,docs]'
endif
	@touch $@

install: $(READY)  ## make the environment in .venv

demo: $(READY)  ## run the whole method on the shipped CLIP and synthetic scenes: a table and an image, 5 to 8 minutes on two CPU cores, after the installation
	$(BIN)/python scripts/demo.py

test: $(READY)  ## run the fast tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-all: $(READY)  ## run all tests that need no network, slow ones included
	$(BIN)/python -m pytest -m 'not network'

test-gpu: $(READY)  ## run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu -rs

test-network: $(READY)  ## run the tests that download weights or read a data set of the paper
	HF_HUB_OFFLINE=0 $(BIN)/python -m pytest -m network -rs

lint: $(READY)  ## run ruff and check the format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## run mypy
	$(BIN)/mypy

check: lint types test  ## run lint, types and the fast tests: what every commit passes

docs: $(READY)  ## build the documentation in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(READY)  ## serve the documentation at http://127.0.0.1:8000 while you edit it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: $(READY)  ## format and fix with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## measure the speed
	$(BIN)/python scripts/benchmark.py

clean:  ## remove the environment, caches and the built site; data and outputs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist site src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
