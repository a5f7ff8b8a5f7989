# All tasks for developers and CI. `make` without a target lists them.

PYTHON ?= python3.11
DATASET ?= simulated
DATA_DIR ?=
WORKSPACE ?= runs/$(DATASET)
DEMO_OPTIONS ?=
# Keep compiled modules even if the environment forbids it: otherwise each process compiles all modules again.
unexport PYTHONDONTWRITEBYTECODE

# Three workers for two processors, because many tests wait for other processes. A file runs in one worker: its module
# fixtures are made once.
# Files run in the order of tests/conftest.py: the plugin's own order runs files with few tests last, which take longest.
PYTEST_OPTIONS ?= -n 3 --dist loadfile --no-loadscope-reorder

# The tests of `make check`. None of them trains a model.
FAST_TESTS := tests/core/schema tests/core/adaptation tests/core/tasks tests/core/datasets tests/core/store tests/core/test_architecture.py \
	tests/core/test_entry_points.py tests/core/test_file_rules.py tests/core/test_documentation.py \
	tests/core/test_documented_commands.py tests/core/test_manifest.py tests/core/test_staging.py tests/core/training/test_options.py \
	tests/core/evaluation/test_metrics.py

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A newer pip resolves three times as fast as that of a new environment. Compiling all modules takes longer than installing
# them, so only those that the commands import are compiled, by importing them once. The warning is about editable installations.
PIP_INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help env demo check test coverage test-avx2 docs flink spark kafka prism lint format constraints clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  make demo DATASET=kuairand-pure DATA_DIR=<folder that holds KuaiRand-Pure/>   the demo on the real log"

env: $(INSTALLED) ## Create .venv with the pinned dependencies and this project; skipped if it is up to date.

# Older than its inputs: install again (fast if only the project changed).
$(INSTALLED): setup.py pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip
	$(PIP_INSTALL) --no-compile --editable ".[all,dev]"
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -c "import tensorflow, keras, apache_beam, lightgbm, sklearn, pytest" 2>/dev/null
	touch $@

demo: env ## Run the whole loop and write report.html (DATASET=simulated or kuairand-pure, DATA_DIR=..., WORKSPACE=...).
	$(BIN)/limaml demo --dataset $(DATASET) --workspace $(WORKSPACE) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(DEMO_OPTIONS)

check: lint ## Lint, type check and the fast tests: within 90 seconds, before each commit.
	$(BIN)/python -m pytest -q $(PYTEST_OPTIONS) -m "not slow" $(FAST_TESTS)

test: lint ## Lint, type check and run every test.
	$(BIN)/python -m pytest -q $(PYTEST_OPTIONS)

# Measuring coverage almost doubles the time of the tests.
coverage: env ## Run every test and print the lines that no test runs.
	$(BIN)/python -m pytest -q --cov --cov-report=term-missing:skip-covered $(PYTEST_OPTIONS)

# oneDNN chooses its kernels by instruction set; these are the tests whose numbers depend on them.
# On a processor without AVX-512, `make test` has already used these kernels. oneDNN has none for float64.
test-avx2: env ## Run the numerical tests once more with the kernels for processors without AVX-512.
	@if [ -r /proc/cpuinfo ] && ! grep -q avx512 /proc/cpuinfo; then \
		echo "This processor has no AVX-512: make test runs the same kernels."; exit; fi; \
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -q $(PYTEST_OPTIONS) -k "not float64" tests/core/adaptation tests/core/models/test_golden.py \
		tests/core/models/test_gauss_newton_model.py tests/beam/generate_embeddings/test_batch_independence.py

docs: env ## Build the pages and the API reference into build/site; fails on a broken link.
	rm -rf build/site_source
	mkdir -p build/site_source/beam build/site_source/serving
	cp -r README.md CONTRIBUTING.md CHANGELOG.md LICENSE docs build/site_source
	cp beam/README.md build/site_source/beam
	cp serving/README.md build/site_source/serving
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

flink: env ## Fetch or assemble Beam's Flink job server (needs Java and Maven), so that the Flink tests run instead of being skipped.
	$(BIN)/python beam/job_servers/make_job_server.py flink build/flink

spark: env ## The same for Spark 3.5.
	$(BIN)/python beam/job_servers/make_job_server.py spark build/spark

kafka: env ## The same for a Kafka broker, and for a Flink job server that reads from Kafka, for the tests of limaml stream.
	$(BIN)/python beam/job_servers/make_job_server.py kafka build/kafka
	$(BIN)/python beam/job_servers/make_job_server.py flink-kafka build/flink-kafka

prism: env ## Build Prism, Beam's Go runner, of the installed Beam release (needs Go), so that its tests run.
	GOBIN="$(CURDIR)/build/prism" go install \
		github.com/apache/beam/sdks/v2/go/cmd/prism@v$$($(BIN)/python -c 'import apache_beam; print(apache_beam.__version__)')

lint: env ## Ruff (lint and format) and mypy (strict).
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env ## Apply the automatic fixes of ruff.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: env ## Resolve the newest allowed dependencies again into constraints.txt.
	CUSTOM_COMPILE_COMMAND="make constraints" $(BIN)/pip-compile --quiet --upgrade --all-extras --strip-extras --allow-unsafe \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options --output-file constraints.txt pyproject.toml

clean: ## Remove the environment, caches and runs.
	rm -rf $(VENV) runs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info
