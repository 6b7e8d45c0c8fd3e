# Every target makes the environment it needs, .venv, from pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

# The peers that `bench` compares with are large, so only `make bench` installs them.
BENCH_READY := .venv/bench-ready

# The lowest versions that pyproject.toml allows, in an environment of their own.
LOWEST := .venv-lowest
LOWEST_READY := $(LOWEST)/ready

.PHONY: setup train test test-slow test-lowest bench bench-layers lint docs clean

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("jaxrnn needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

# glibc keeps large blocks of memory instead of mapping them anew at every call (jaxrnn/devices.py).
MALLOC := MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=2000000000

train: $(READY)  ## the main job: a language model of Shakespeare, in about three minutes
	$(MALLOC) $(BIN)/python -m experiments.run configs/shakespeare/shakespeare_lstm.toml

# The tests compile thousands of small programs and run each once, so XLA:CPU's and LLVM's
# optimizations cost more than they gain: without them, compiling takes a fifth of the time. The
# program that XLA plans, and so its structure and its memory, stays the same, except for at most one
# number per step and sequence. test-slow compiles as users' programs are compiled.
CHEAP := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false \
  --xla_cpu_parallel_codegen_split_count=1
# worksteal: neighbors, which share compiled programs, run in the same process.
PYTEST := -m pytest -n auto --dist worksteal

test: $(READY)
	XLA_FLAGS="$(CHEAP) $(XLA_FLAGS)" $(BIN)/python $(PYTEST) -m "not slow"

test-slow: $(READY)  ## the full product of cases too
	$(BIN)/python $(PYTEST)

$(LOWEST_READY): pyproject.toml tests/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python tests/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[test]'
	@touch $(LOWEST_READY)

# Gradients and sharding, where JAX's versions differ: the tests marked `lowest`. They compile
# as users' programs do.
test-lowest: $(LOWEST_READY)  ## gradients and sharding on the lowest versions that are allowed
	$(LOWEST)/bin/python $(PYTEST) -m "lowest and not slow"

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[bench,experiments]'
	@touch $(BENCH_READY)

bench: $(BENCH_READY)  ## jaxrnn and its peers side by side, in under three minutes; BENCH=--full: all
	$(MALLOC) $(BIN)/python -m benchmarks.run $(BENCH)

bench-layers: $(BENCH_READY)  ## networks of layers beside those of the peers, in about ten minutes
	$(MALLOC) $(BIN)/python -m benchmarks.layers $(BENCH)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# The notice is about the next major version of mkdocs, which pyproject.toml does not allow.
docs: $(READY)  ## the site, in site/; a broken link or any other warning fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf site .venv $(LOWEST) runs .pytest_cache .ruff_cache .hypothesis
