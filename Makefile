# Every target makes the environment it needs, .venv, from pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

# The peers that `bench` compares with are large: they come when they are asked for.
BENCH_READY := .venv/bench-ready

.PHONY: setup train test test-slow bench lint clean

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("jaxrnn needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

train: $(READY)  ## the main job: a language model of Shakespeare, in under five minutes
	$(BIN)/python -m experiments.run configs/shakespeare_lstm.toml

test: $(READY)
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(READY)  ## the full product of cases too
	$(BIN)/python -m pytest -n auto

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[bench,experiments]'
	@touch $(BENCH_READY)

bench: $(BENCH_READY)  ## jaxrnn and its peers side by side, in under three minutes; BENCH=--full: all
	$(BIN)/python -m benchmarks.run $(BENCH)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis
