# `make` lists the targets. `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo test test-all test-gpu test-network lint types check format train eval bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

install: $(READY)  ## make the environment in .venv

demo: $(READY)  ## the whole method on a tiny CLIP and a drawn data set: a table and pictures, minutes on two cores
	$(BIN)/python scripts/demo.py

test: $(READY)  ## the fast tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-all: $(READY)  ## all tests
	$(BIN)/python -m pytest -m 'not network'

test-gpu: $(READY)  ## the tests of a GPU
	$(BIN)/python -m pytest -m gpu -rs

test-network: $(READY)  ## the tests that download weights, or read a data set of the paper
	HF_HUB_OFFLINE=0 $(BIN)/python -m pytest -m network -rs

lint: $(READY)  ## ruff, and its formatter in check mode
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy
	$(BIN)/mypy

check: lint types test  ## lint, types and tests

format: $(READY)  ## let ruff format and mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: $(READY)  ## python src/train.py $(ARGS), such as ARGS="experiment=textures_zero_shot"
	$(BIN)/python src/train.py $(ARGS)

eval: $(READY)  ## python src/eval.py $(ARGS), such as ARGS="model=maskclip_textures data=textures"
	$(BIN)/python src/eval.py $(ARGS)

bench: $(READY)  ## measure speed
	$(BIN)/python scripts/benchmark.py

clean:  ## remove the environment and caches (data and outputs stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
