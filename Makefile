# keras_grow: what one does with a checkout. `make` alone lists it.
#
# Everything lives in one virtual environment, .venv. `make demo` puts only one backend into it;
# `make test`, `make lint` and `make install` all three and the developer's tools. Marker files in
# .venv remember what was installed, and are out of date as soon as pyproject.toml is newer.

PYTHON ?= python3
VENV ?= .venv
BACKEND ?= jax
BACKENDS ?= jax torch tensorflow
WORKERS ?= 2
# Options for the command behind a target: make demo ARGS="--seeds 1", make test ARGS="-k wide".
ARGS ?=

# What pip is given for each backend. On Linux, PyTorch on PyPI is the CUDA build, several GB large;
# PyTorch's own index has CPU builds: make demo BACKEND=torch TORCH="torch --index-url ADDRESS".
TENSORFLOW ?= tensorflow
TORCH ?= torch==2.13.0
JAX ?= jax

KNOWN := jax torch tensorflow
REQUIRE_jax = $(JAX)
REQUIRE_torch = $(TORCH)
REQUIRE_tensorflow = $(TENSORFLOW)

ifneq ($(filter-out $(KNOWN),$(BACKEND) $(BACKENDS)),)
$(error There is no backend $(filter-out $(KNOWN),$(BACKEND) $(BACKENDS)). Choose among: $(KNOWN))
endif

RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip --disable-pip-version-check
USER_READY := $(VENV)/.ready-$(BACKEND)
DEVELOPER_READY := $(VENV)/.ready-developer
TYPED := build/typecheck

.NOTPARALLEL:
.PHONY: help demo bench coverage-report browser screenshots test test-all lint style types format install wheel clean

help:
	@echo "make demo [BACKEND=jax|torch|tensorflow]  grow a network on handwritten digits"
	@echo "make bench [BACKEND=...]                  measure what a growth costs"
	@echo "make coverage-report [BACKENDS=...]       widen the models of three libraries: docs/coverage.md"
	@echo "make browser                              install Chromium, for the tests of the TensorBoard tab"
	@echo "make screenshots [BACKEND=...]            pictures of that tab: build/screenshots, docs/images"
	@echo "make test [BACKENDS='jax torch']          run the tests: what depends on the backend, on each"
	@echo "make test-all [BACKENDS=...]              all of them on each, in every variant, for releases"
	@echo "make lint                                 check style, format and types"
	@echo "make format                               mend style and format"
	@echo "make install                              only fill .venv for all of these"
	@echo "make wheel                                build dist/*.whl"
	@echo "make clean                                remove what these left, but not .venv"

demo: $(USER_READY)
	KERAS_BACKEND=$(BACKEND) $(RUN)/keras-grow demo $(ARGS)

bench: $(USER_READY)
	KERAS_BACKEND=$(BACKEND) $(RUN)/python -m keras_grow.tools.benchmarks $(ARGS)

# All models on the quickest backend, the first of every family on the others and in float64. Hours
# on two cores; what was measured is kept in build/coverage, so a broken run goes on.
COVERAGE = $(RUN)/python -m keras_grow.tools.coverage
coverage-report: $(DEVELOPER_READY)
	$(PIP) install --quiet keras-cv keras-hub
	$(COVERAGE) run --backend torch $(ARGS)
	$(COVERAGE) run --backend tensorflow --only applications/NASNetMobile $(ARGS)
	for backend in tensorflow jax; do for floatx in float32 float64; do \
		$(COVERAGE) run --backend $$backend --floatx $$floatx --only applications --first $(ARGS); \
	done; done
	$(COVERAGE) report

# Chromium and its driver, from Debian's or Ubuntu's packages: pip has none. Elsewhere install both
# yourself; tests that need them are skipped, unless KERAS_GROW_BROWSER=required is set.
browser:
	@if [ -x /usr/bin/chromedriver ] && command -v chromium >/dev/null; then \
		echo "Chromium is installed."; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			chromium chromium-driver; \
	else \
		echo "Install chromium and chromium-driver: apt-get, as root, does it here." >&2; exit 1; \
	fi

# Trains for a few minutes the first time; the runs are kept in build/screenshots/logs.
screenshots: $(DEVELOPER_READY) browser
	KERAS_BACKEND=$(BACKEND) PYTHONPATH=tests $(RUN)/python -m helpers.screenshots \
		--docs docs/images $(ARGS)

# Every backend runs, whatever the others did; the target fails if one of them failed.
# $(1): settings in the environment, $(2): pytest's options.
define run_tests
	@failed=; \
	for backend in $(BACKENDS); do \
		echo "== tests on $$backend"; \
		KERAS_BACKEND=$$backend $(1) $(RUN)/python -m pytest -n $(WORKERS) --dist worksteal $(2) $(ARGS) \
			|| failed="$$failed $$backend"; \
	done; \
	if [ -n "$$failed" ]; then echo "tests failed on:$$failed" >&2; exit 1; fi
endef

# What depends on no backend runs on one of them: see tests/helpers/where.py.
test: $(DEVELOPER_READY)
	$(call run_tests,,--beside "$(BACKENDS)")

test-all: $(DEVELOPER_READY)
	$(call run_tests,KERAS_GROW_TEST_ALL=1)

lint: style types

style: $(DEVELOPER_READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

# mypy knows packages by their folders, so it is shown a folder of links in which tools/ and zoo/
# lie where the code imports them from: keras_grow.tools and keras_grow.zoo.
types: $(DEVELOPER_READY)
	@rm -rf $(TYPED) && mkdir -p $(TYPED)/keras_grow
	@for part in $(CURDIR)/keras_grow/* $(CURDIR)/tools $(CURDIR)/zoo; do \
		ln -s "$$part" $(TYPED)/keras_grow/; \
	done
	cd $(TYPED) && $(abspath $(RUN))/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p keras_grow

format: $(DEVELOPER_READY)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

install: $(DEVELOPER_READY)

wheel: $(DEVELOPER_READY)
	$(PIP) wheel --no-deps --wheel-dir dist .

clean:
	rm -rf build dist demo-out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find keras_grow tools zoo tests -name __pycache__ -prune -exec rm -rf {} +

# The environment itself. One that exists is used as it is, and never removed.
$(RUN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or name it:" \
			"make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "keras_grow needs Python 3.11 or newer, and $(PYTHON) is" \
			"$$($(PYTHON) --version 2>&1). Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments with pip: it lacks the venv or ensurepip" \
			"module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A developer's environment has everything that the demo needs.
$(USER_READY): pyproject.toml | $(RUN)/python
	@if [ -e $(DEVELOPER_READY) ] && [ ! pyproject.toml -nt $(DEVELOPER_READY) ]; then :; else \
		set -x; $(PIP) install -e ".[zoo,plot]" $(REQUIRE_$(BACKEND)); fi
	@touch $@

$(DEVELOPER_READY): pyproject.toml | $(RUN)/python
	$(PIP) install --quiet -e ".[dev,zoo,plot,tensorboard]" $(JAX) $(TORCH) $(TENSORFLOW)
	@touch $@
