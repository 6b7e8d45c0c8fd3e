# Every target makes the environment it needs, .venv, from pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

# The peers that `bench` compares with are large: they come when they are asked for.
BENCH_READY := .venv/bench-ready

# The lowest versions that pyproject.toml allows, in an environment of their own.
FLOOR := .venv-floor
FLOOR_READY := $(FLOOR)/ready

.PHONY: setup train test test-slow test-floor bench lint clean

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("jaxrnn needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

train: $(READY)  ## the main job: a language model of Shakespeare, in about five minutes
	$(BIN)/python -m experiments.run configs/shakespeare/shakespeare_lstm.toml

# The tests compile thousands of small programs once and run them once, so LLVM's optimisations cost
# more than they give: three fifths of the time without. What XLA makes of a program, and so its
# structure and memory, is the same. test-slow and test-floor optimise as users' programs are.
test: $(READY)
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0" $(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(READY)  ## the full product of cases too
	$(BIN)/python -m pytest -n auto

$(FLOOR_READY): pyproject.toml tests/floor.py
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python tests/floor.py > $(FLOOR)/constraints.txt
	$(FLOOR)/bin/python -m pip install --quiet --constraint $(FLOOR)/constraints.txt --editable '.[test]'
	@touch $(FLOOR_READY)

# Gradients and sharding, where JAX's versions differ. Of the tests that are there for each cell, but
# for those of meshes, the LSTM's; of windows those of exactness and of meshes; and none that compile
# a program for each of many shapes.
FLOOR_TESTS := bptt placement processes train transformations windows
OF_WINDOWS := test_windows and not (change_nothing or mesh or shard_map)
FLOOR_WITHOUT := elman or gru or any_shape or remembered or ragged or skipped or activation \
  or overlapping or nested or ($(OF_WINDOWS))

test-floor: $(FLOOR_READY)  ## gradients and sharding on the lowest versions that are allowed
	$(FLOOR)/bin/python -m pytest -n auto -m "not slow" -k "placement or not ($(FLOOR_WITHOUT))" \
	  $(FLOOR_TESTS:%=tests/test_%.py)

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
	rm -rf .venv $(FLOOR) runs .pytest_cache .ruff_cache .hypothesis
