# `make demo` and `make test` need nothing but Python 3.11 or newer: each installs what it uses into .venv first.
# Where there is a C++ compiler, `make test` and `make install` build the sparse provider as well.
# Other interpreter: `make PYTHON=python3.12 test`.  Other environment: `make VENV=/path test`.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
FRAMEWORKS ?= .venv-frameworks

BIN     := $(abspath $(VENV)/bin)
STAMP   := $(VENV)/.installed
SPARSE  := backends/sparse_ep
ASKED   := $(if $(filter default undefined,$(origin CXX)),c++ g++ clang++,$(CXX))
COMPILER := $(firstword $(foreach name,$(ASKED),$(shell command -v $(name) 2>/dev/null)))
PROVIDER := $(if $(COMPILER),$(VENV)/.provider,no-compiler)
BENCHES := $(filter-out __init__,$(basename $(notdir $(wildcard benchmarks/*.py))))

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-frontends lint bench wheel install sanitize no-compiler clean
.DELETE_ON_ERROR:

help:  ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP)  ## Compress the sample model (about two minutes) into build/demo
	@mkdir -p build/demo
	$(BIN)/surgery-ir compile samples/fashion_resnet.onnx -o build/demo/small.onnx \
	  --data samples/calibration.npz --selection-data samples/selection.npz --eval-data samples/report.npz \
	  --labels label --minimize nonzeros --max-drop 0.01 --time-limit 90 \
	  --json build/demo/report.json --profile-out build/demo/profile.yaml --policy-out build/demo/policy.yaml

test: lint $(PROVIDER)  ## Lint, type-check and run the tests, all but the slow ones
	@$(call pytest,-m 'not slow')
	@$(native-sparse)
	@$(call pytest-sparse,-m 'not slow')

test-all: lint $(PROVIDER)  ## The same with the slow tests
	@$(call pytest,)
	@$(native-sparse)
	@$(call pytest-sparse,)

test-frontends: $(FRAMEWORKS)/.installed  ## Test the frontends, with PyTorch, TensorFlow and JAX in .venv-frameworks
	@$(call pytest,-m 'not slow' tests/frontends tests/test_examples.py tests/test_docs.py,$(FRAMEWORKS)/bin)

lint: $(STAMP)  ## ruff, mypy --strict and the import contracts
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	cd $(SPARSE) && $(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache/sparse_ep \
	  --explicit-package-bases onnxruntime_ep_sparse tests bench
	@$(BIN)/lint-imports --no-logo

bench: $(STAMP)  ## Run the benchmarks: all, or one with BENCHES=name
	@for name in $(BENCHES); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

wheel: $(STAMP)  ## Build the wheel into dist
	@rm -rf build/lib build/bdist.*
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build/lib build/bdist.*
	@ls dist/*.whl

install: $(STAMP) $(PROVIDER)  ## Create .venv with everything the other targets need

sanitize: $(STAMP) $(PROVIDER)  ## Test the sparse provider under AddressSanitizer, UBSan and ThreadSanitizer
	@PATH=$(BIN):$$PATH $(MAKE) --no-print-directory -C $(SPARSE) sanitize VENV=$(abspath $(VENV)) JOBS=$(JOBS)

clean:  ## Remove everything that make created
	rm -rf .venv .venv-frameworks build dist $(SPARSE)/build $(SPARSE)/dist *.egg-info .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One BLAS thread for each of the test processes: more would fight over the cores.
pytest = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(or $(2),$(BIN))/python -m pytest -n $(JOBS) $(1)

# The provider's own tests: those in C++, which are compiled for it, and those in Python.
native-sparse = $(if $(COMPILER),PATH=$(BIN):$$PATH $(MAKE) --no-print-directory -C $(SPARSE) build JOBS=$(JOBS) && \
  PATH=$(BIN):$$PATH ctest --test-dir $(SPARSE)/build/release --output-on-failure --parallel $(JOBS) --quiet,true)
pytest-sparse = $(if $(COMPILER),cd $(SPARSE) && $(call pytest,$(1) tests),true)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("surgery-ir needs Python 3.11 or newer: make PYTHON=/path/to/it" if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV) (a minute or two, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# Built anew when anything that it is made of has changed; its dependencies are those of this package.
$(VENV)/.provider: $(STAMP) $(wildcard $(SPARSE)/CMakeLists.txt $(SPARSE)/pyproject.toml) \
  $(shell find $(SPARSE)/src $(SPARSE)/onnxruntime_ep_sparse -type f -name '*.*' ! -name '*.pyc')
	@echo "building the sparse provider (a minute or two, once)"
	@command -v cmake >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check cmake
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./$(SPARSE)
	@touch $@

no-compiler:
	@echo "no C++ compiler ($(ASKED)): the sparse provider is not built, and its tests are skipped"

# PyTorch goes first and by its version: what else depends on it would bring a build for GPUs of several gigabytes.
$(FRAMEWORKS)/.installed: pyproject.toml
	@echo "installing PyTorch, TensorFlow and JAX into $(FRAMEWORKS) (some minutes, once)"
	@$(PYTHON) -m venv $(FRAMEWORKS)
	@$(FRAMEWORKS)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(FRAMEWORKS)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,torch,tensorflow,jax]' transformers
	@touch $@
