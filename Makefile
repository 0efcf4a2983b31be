# The README's commands. Run `make help`.

PYTHON ?= python3
# Index for torch alone, e.g. the CPU-only one given on pytorch.org. Empty: the default index,
# whose Linux build brings the CUDA libraries along (gigabytes).
TORCH_INDEX ?=

# Processes of the test run; each computes on one thread.
WORKERS ?= 2
CALLS ?= 100000
SOAK_S ?= 600
STEPS ?= 10000000
SEED ?= 0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

DEMO := --seed 1 --temperature 0.2 --max-tokens 64
# The head of main() in py_compile.py.
define HELD_OUT
def main():
    import argparse
endef
export HELD_OUT

.DEFAULT_GOAL := help
.PHONY: help venv test test-all test-copies lint demo fuzz fuzz-aarch64 threads traces kills-batch soak-stream distribution package train instruct specialists corpus bench-waves bench-gpu clean

help:
	@echo "make venv      create $(VENV) with all that the other targets need"
	@echo "make test      the default tests (minutes, two cores)"
	@echo "make test-all  every test, the slow ones included"
	@echo "make test-copies  copies of checkpoints under another transformers, TRANSFORMERS=$(TRANSFORMERS)"
	@echo "make lint      ruff, format checks of Python and C++, mypy"
	@echo "make demo      the model that ships completes two functions"
	@echo "make fuzz      call the CPU kernels at random under sanitizers, CALLS=$(CALLS) times (needs cmake)"
	@echo "make fuzz-aarch64  the same for NEON under emulation, without sanitizers (needs a cross compiler and qemu-user)"
	@echo "make threads   two models from four Python threads under the address sanitizer, runtimes from four C++ threads"
	@echo "               under the thread sanitizer, SOAK_S=$(SOAK_S) each (needs cmake)"
	@echo "make kills-batch   a batch of 1,000 lines killed 50 times: none lost, none twice (a quarter of an hour)"
	@echo "make soak-stream   mixed work under a budget in a control group, resident memory at 100 Hz, SOAK_S=$(SOAK_S)"
	@echo "make distribution  two million tokens with guesses against exact probabilities, a few minutes"
	@echo "make traces    random traces through the scheduler, every step checked, STEPS=$(STEPS) SEED=$(SEED)"
	@echo "make package   build wheel and sdist, install each into an empty venv (the wheel without a compiler), run them"
	@echo "make bench-waves  two ranks over a paced link, in network namespaces (root; else over loopback, not paced)"
	@echo "make bench-gpu    the GPU kernels: compile, and where there is a Hopper GPU check and time them"
	@echo "make train     train the model that ships on text of packages (two to three hours), into runs/nano"
	@echo "make instruct  train the model that ships further on questions about the standard library, into runs/instruct"
	@echo "make specialists  train three adapters of the model that ships and compare them with it, into runs/"
	@echo "make corpus    download the listed packages again and compare documents and token shards with the list"
	@echo "make clean     remove build outputs and caches ($(VENV) stays)"
	@echo
	@echo "PYTHON=$(PYTHON)  TORCH_INDEX=$(TORCH_INDEX) (index to take torch from; empty: the default)"

venv: $(STAMP)

# Looks for pip, not python: without ensurepip `venv` fails but leaves a python behind.
# torch goes first and from its own index; the pin keeps the second install from replacing it.
$(STAMP): pyproject.toml constraints.txt $(wildcard csrc/*)
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
		{ echo "no venv made; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/pip install -c constraints.txt -e '.[test,lint,train,gpu,serve,hub,specialists]'
	@touch $@

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS)

# An empty -m overrides the default "not slow".
test-all: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) -m ""

# Copies of checkpoints held against another release of transformers than the pinned one.
TRANSFORMERS ?= 5.24.0
test-copies: $(STAMP)
	$(BIN)/pip install -q --no-deps --target build/transformers-$(TRANSFORMERS) transformers==$(TRANSFORMERS)
	PYTHONPATH=build/transformers-$(TRANSFORMERS) $(BIN)/python -m pytest -q -s -m "" tests/checkpoint/test_copies.py

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror csrc/*.cpp csrc/*.h
	$(BIN)/mypy wavefold

# The model that ships completes two functions; the second is from a file that its training held out.
demo: $(STAMP)
	@echo
	@printf "%s" "def read_file(path):"
	@$(BIN)/wavefold run $(DEMO) -p "def read_file(path):"
	@echo
	@printf '%s' "$$HELD_OUT"
	@$(BIN)/wavefold run $(DEMO) -p "$$HELD_OUT"

threads: $(STAMP)
	cmake -S csrc -B build/threads -DWF_SANITIZE_THREADS=ON -DWF_FUZZ=ON -DCMAKE_BUILD_TYPE=Release
	cmake --build build/threads -j2 --target hammer
	build/threads/hammer $(SOAK_S)
	cmake -S csrc -B build/sanitize -DWF_SANITIZE=ON -DCMAKE_BUILD_TYPE=Release
	cmake --build build/sanitize -j2 --target wavefold_kernels
	ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	    WAVEFOLD_NATIVE=build/sanitize/libwavefold_kernels.so $(BIN)/python -m tests.two_models $(SOAK_S)

kills-batch: $(STAMP)
	$(BIN)/python bench/kills_batch.py

# MODEL="DIR --memory 4G" for another checkpoint than a small random one; a control group needs root.
soak-stream: $(STAMP)
	$(BIN)/python bench/soak_stream.py $(MODEL) --seconds $(SOAK_S)

distribution: $(STAMP)
	$(BIN)/python -m tests.engine.distribution

# Requests come, go, are aborted and preempted at random in tiny pools; some minutes on one core.
traces: $(STAMP)
	$(BIN)/python -m tests.engine.traces --steps $(STEPS) --seed $(SEED)

# Random calls of the CPU kernels under the address and undefined-behaviour sanitizers; a million take half an hour.
fuzz:
	cmake -S csrc -B build/sanitize -DWF_SANITIZE=ON
	cmake --build build/sanitize
	build/sanitize/fuzz $(CALLS)

# On Debian: apt-get install g++-aarch64-linux-gnu qemu-user. Processors with all of NEON's variants, with dotprod alone, with none.
fuzz-aarch64:
	cmake -S csrc -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/csrc/cmake/aarch64-linux-gnu.cmake -DWF_FUZZ=ON
	cmake --build build/aarch64
	for cpu in max neoverse-n1 cortex-a72; do \
		qemu-aarch64 -cpu $$cpu -L /usr/aarch64-linux-gnu build/aarch64/fuzz $(CALLS) || exit 1; done

# Each into a venv of its own, where it completes a function. CXX names no compiler while the wheel is installed.
package: $(STAMP)
	rm -rf dist build/package
	$(BIN)/pip install -c constraints.txt build
	$(BIN)/python -m build --outdir dist
	@for file in dist/*.whl dist/*.tar.gz; do \
		echo "== $$file" && rm -rf build/package && $(PYTHON) -m venv build/package && \
		build/package/bin/pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0 && \
		case $$file in *.whl) compiler="env CC=/nonexistent CXX=/nonexistent" ;; *) compiler= ;; esac && \
		$$compiler build/package/bin/pip install -q -c constraints.txt $$file && \
		(cd / && "$(CURDIR)/build/package/bin/wavefold" run $(DEMO) --max-tokens 24 -p "def fibonacci(n):") && \
		(cd / && "$(CURDIR)/build/package/bin/python" -c "from wavefold.ops import native; print(native.isas())") || exit 1; \
	done

train: corpus
	$(BIN)/wavefold train --config recipes/nano.json --recipe recipes/nano.py --data build/corpus/shards/3072/text \
	    --last-data build/corpus/shards/3072/last --out runs/nano

instruct: $(STAMP)
	$(BIN)/wavefold train --recipe recipes/instruct.py --init wavefold/models/default --data instruct:stdlib --out runs/instruct

# One command each; the judges are packages of others.
SPECIALISTS ?= cron dates units
specialists: $(STAMP)
	for name in $(SPECIALISTS); do \
		$(BIN)/wavefold train --recipe recipes/specialist.py --init wavefold/models/default --data specialist:$$name \
		    --out runs/$$name || exit 1; done
	$(BIN)/python bench/specialists.py $(foreach name,$(SPECIALISTS),--adapter $(name)=runs/$(name)/adapter) \
	    --work runs/specialists --samples runs/specialists.md

# Some minutes and 206 MB of downloads; the chats of the shards need the list's Python.
corpus: $(STAMP)
	XDG_CACHE_HOME=$(CURDIR)/build/corpus $(BIN)/wavefold data fetch
	XDG_CACHE_HOME=$(CURDIR)/build/corpus $(BIN)/wavefold data shards --vocab 3072 --out build/corpus/shards

# Namespaces and pacing need root; a quarter of an hour on two otherwise idle cores.
bench-waves: $(STAMP)
	$(BIN)/python bench/waves.py $$([ $$(id -u) = 0 ] || echo --loopback) --plot runs/waves.svg

bench-gpu: $(STAMP)
	$(BIN)/python bench/gpu_experts.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +
