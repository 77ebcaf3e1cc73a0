# `make study` and `make test` do everything on a fresh machine. `make help` lists the rest.

# The first Python that really starts, has the right version and can make environments.
FITS    = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
            $$python -c '$(FITS)' 2>/dev/null && echo $$python && break; done)
VENV   ?= .venv
COLAB  ?= .venv-colab
RUN     = $(VENV)/bin/python
# Two workers, each with the tests of whole files and a data folder of its own.
PYTEST  = -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
WORKERS ?= 2
# nbval waits for a dead kernel as long as its cell timeout. Its runs stay out of data/, its kernels are forked (tests/processes.py).
NBVAL   = -m pytest --nbval --nbval-cell-timeout=600 --nbval-kernel-name=python3 -p forked_kernels -p no:warnings $(wildcard notebooks/[0-8]*.ipynb)
NBDATA  = export PYTHONPATH=tests LSTM_AE_DATA="$$(mktemp -d)"; trap 'rm -rf "$$LSTM_AE_DATA"' EXIT
# Both at once, lessons' trainings cut short: the notebooks' report is shown when the tests have ended. Side by side, more threads only wait for each other.
both    = export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1; ($(NBDATA); $(1) $(NBVAL) -p short_trainings) > .nbval.log 2>&1 & notebooks=$$!; \
          $(1) $(PYTEST); tests=$$?; wait $$notebooks; notebooks=$$?; cat .nbval.log; rm -f .nbval.log; exit $$((tests | notebooks))

.DEFAULT_GOAL := help
.PHONY: help study full data test test-quick test-nbval test-colab test-backends test-web test-scale chromium soak bench bench-train notebooks book address clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

study: $(VENV)/.installed  ## install, then train and evaluate on the bundled sample (notebooks 90, 91) and print the result
	$(RUN) -m lstm_ae_lib run --preset quick

full: $(VENV)/.installed  ## the same on all of CIFAR-10 (fetches it; about 12 minutes on 2 cores)
	$(RUN) -m lstm_ae_lib run --preset full

data: $(VENV)/.installed  ## find or fetch the full CIFAR-10 and verify it
	$(RUN) -m lstm_ae_lib data

test: $(VENV)/.installed-test  ## install, then pytest and the notebooks' regression test side by side
	@$(call both,$(RUN))

test-quick: $(VENV)/.installed-test  ## pytest alone
	$(RUN) $(PYTEST)

test-nbval: $(VENV)/.installed-test  ## the notebooks' regression test alone, trainings as long as the lessons say
	@$(NBDATA); $(RUN) $(NBVAL)

test-colab: $(COLAB)/.installed  ## the tests with the versions that Colab has
	@$(call both,$(COLAB)/bin/python)

test-backends: $(VENV)-backends/.installed  ## layer, model and metric tests on PyTorch and JAX
	KERAS_BACKEND=torch $(VENV)-backends/bin/python -m pytest -m backends
	KERAS_BACKEND=jax $(VENV)-backends/bin/python -m pytest -m backends

test-web: $(VENV)/.installed-test chromium  ## the page and the book in headless Chromium, OpenVINO, a base installation from scratch
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[web,book]'
	$(RUN) -m pytest -m web tests/test_web.py

test-scale: $(VENV)/.installed-test  ## sweeps on Dask clusters, a training on two processes: what is killed, lost or cut off; files decoded everywhere; long tests
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[jax]'
	$(RUN) -m pytest -m 'scale and not soak' tests/test_any_rate_codec.py tests/test_decodes_everywhere.py tests/test_cluster_runs.py tests/test_data_parallel.py tests/test_bench.py tests/test_drivers.py tests/test_notebook_runs.py

# Installed only where that can be done without asking.
chromium:
	@command -v chromium chromium-browser google-chrome > /dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && timeout 120 apt-get update -qq > /dev/null 2>&1; \
	    timeout 300 apt-get install -qq -y --no-install-recommends chromium > /dev/null 2>&1; } || \
	  { echo "the page is tested in Chromium (on Debian: apt install chromium)"; exit 2; }

soak: $(VENV)/.installed-test  ## the tests that take minutes: a training killed twenty times
	$(RUN) -m pytest -m soak

bench: $(VENV)/.installed  ## measure speed on this machine
	$(RUN) -m lstm_ae_lib bench

bench-train: $(VENV)-backends/.installed  ## measure training and inference beside stock Keras, PyTorch and ONNX Runtime
	$(VENV)-backends/bin/python -m lstm_ae_lib bench train

notebooks: $(VENV)/.installed  ## execute the lessons whose outputs are stale in place (ALL=1: all lessons)
	$(RUN) -m lstm_ae_lib notebooks $(if $(ALL),--all)

book: $(VENV)/.installed  ## the READMEs, all notebooks and the API as a static site in build/book; nothing is executed
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[book]'
	$(RUN) -m lstm_ae_lib.study.book build/book

address:  ## REPO=account/name: set the repository's address in badges, notebooks and READMEs
	@test -n "$(REPO)" || { echo "usage: make address REPO=account/name"; exit 2; }
	@$(or $(PYTHON),python3) -m lstm_ae_lib.study.address '$(REPO)'

clean:  ## remove the environments; data and runs stay
	rm -rf .venv .venv-* build *.egg-info

define new_environment
@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' || { \
  echo "this needs Python 3.11, 3.12 or 3.13 with venv (on Debian: apt install python3-venv); found: $$($(or $(PYTHON),python3) --version 2>&1)."; \
  echo "If you have one under another name: make PYTHON=/path/to/python3.12 study"; exit 2; }
$(PYTHON) -m venv $(1)
endef

# One stamp file each: a second call installs nothing, a changed list installs again.
$(VENV)/bin/python:
	$(call new_environment,$(VENV))

$(VENV)/.installed: requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing requirements.txt into $(VENV) (a few minutes the first time)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[study]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed tests/requirements.txt tests/requirements-scale.txt
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(COLAB)/.installed: tests/colab-constraints.txt requirements.txt pyproject.toml
	$(call new_environment,$(COLAB))
	@$(COLAB)/bin/python -m pip install --quiet --disable-pip-version-check -c tests/colab-constraints.txt -e '.[test]'
	@touch $@

$(VENV)-backends/.installed: requirements.txt pyproject.toml
	$(call new_environment,$(VENV)-backends)
	@$(VENV)-backends/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 jax
	@$(VENV)-backends/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@
