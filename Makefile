# The README's commands. Run `make help`.

PYTHON ?= python3
# Index for torch alone, e.g. the CPU-only one given on pytorch.org. Empty: the default index,
# whose Linux build brings the CUDA libraries along (gigabytes).
TORCH_INDEX ?=

# Processes of the test run; each computes on one thread.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := build/demo-model

.DEFAULT_GOAL := help
.PHONY: help venv test test-all lint demo train clean

help:
	@echo "make venv      create $(VENV) with all that the other targets need"
	@echo "make test      the default tests (minutes, two cores)"
	@echo "make test-all  every test, the slow ones included"
	@echo "make lint      ruff, format check, mypy"
	@echo "make demo      make a small random model and let it generate"
	@echo "make train     train the nano model on the standard library (an hour or two), into runs/nano"
	@echo "make clean     remove build outputs and caches ($(VENV) stays)"
	@echo
	@echo "PYTHON=$(PYTHON)  TORCH_INDEX=$(TORCH_INDEX) (index to take torch from; empty: the default)"

venv: $(STAMP)

# Looks for pip, not python: without ensurepip `venv` fails but leaves a python behind.
# torch goes first and from its own index; the pin keeps the second install from replacing it.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
		{ echo "no venv made; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/pip install -c constraints.txt -e '.[test,lint,train]'
	@touch $@

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS)

# An empty -m overrides the default "not slow".
test-all: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) -m ""

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy wavefold

# Written beside and moved, so that an interrupted run leaves no half model.
$(DEMO): | $(STAMP)
	rm -rf $@.part
	mkdir -p $(@D)
	$(BIN)/wavefold init --config nano --vocab 285 --seed 0 --out $@.part
	mv $@.part $@

demo: $(STAMP) | $(DEMO)
	@echo
	@echo "The model below is RANDOM: untrained weights from seed 0. Its text is noise."
	@echo "The demo shows that the whole path runs, not that the model knows anything."
	@echo
	$(BIN)/wavefold run $(DEMO) -p "def fibonacci(n):" --max-tokens 48

train: $(STAMP)
	$(BIN)/wavefold train --out runs/nano --threads 1

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +
