# `make demo` and `make test` do everything on a machine that has only Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test install lint format format-check type check benchmark-memory benchmark-speed benchmark-async \
	benchmark-zoo clean

help:
	@echo "make demo          train GIPO on Meta-World reach-v3 and see what it learnt (demo/reach-v3)"
	@echo "make test          run the whole default test suite"
	@echo "make check         lint, format check and type check"
	@echo "make format        format the code"
	@echo "make benchmark-memory   bytes per stored transition against the raw payload"
	@echo "make benchmark-async    asynchronous actors: speed, lag and chaos, three quarters of an hour on a machine that does nothing else"
	@echo "make benchmark-zoo      what rl_zoo_hyperparams/ gives beside PPO, hours"
	@echo "make benchmark-speed    steps per second beside SB3's PPO, half an hour on a machine that does nothing else"

# The tested set: torch first, so that nothing else picks another build of it.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v < (3, 14) and "Python 3.10 to 3.13 is needed, this is %d.%d" % v)'
	@echo "Installing the tested set into $(VENV) (a minute or two) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[metaworld,tests]'
	touch $(INSTALLED)

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python examples/metaworld_demo.py --task reach-v3 --folder demo/reach-v3

test: $(INSTALLED)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: $(INSTALLED)
	$(BIN)/ruff format --check .

type: $(INSTALLED)
	$(BIN)/mypy

check: lint format-check type

benchmark-memory: $(INSTALLED)
	$(BIN)/python benchmarks/replay_memory.py

benchmark-speed: $(INSTALLED)
	$(BIN)/python -m benchmarks.speed all

benchmark-async: $(INSTALLED)
	$(BIN)/python -m benchmarks.asynchronous all
	$(BIN)/python -m benchmarks.asynchronous chaos

benchmark-zoo: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.zoo_entries

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
