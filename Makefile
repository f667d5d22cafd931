# Needs Python 3.11 or later and make; everything else goes into .venv.
#   make train ARGS="env=Acrobot seed=3"
#   make train EXTRAS=box2d ARGS="env=LunarLander"
PYTHON ?= python3
ARGS ?=
EXTRAS ?=

bin := .venv/bin
comma := ,
# One stamp for each set of extras, so that asking for another set installs it.
installed := .venv/installed-dev$(addprefix -,$(subst $(comma),-,$(EXTRAS)))

.DEFAULT_GOAL := help
.PHONY: help install train test test-slow lint types benchmark clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

$(installed): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python is %s, expected 3.11 or later: make PYTHON=python3.x" % sys.version.split()[0])'
	@test -x $(bin)/python || $(PYTHON) -m venv .venv
	@echo 'installing into .venv (torch is large: this takes a while, once)'
	@$(bin)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev$(addprefix $(comma),$(EXTRAS))]'
	@touch $@

install: $(installed) ## the virtual environment, with the pinned versions

train: $(installed) ## one run; ARGS="env=Acrobot seed=3" are its settings, EXTRAS=box2d adds environments
	$(bin)/python -m pgkit.train $(ARGS)

test: $(installed) ## the tests, a few minutes; ARGS="tests/core -k gae" narrows them
	$(bin)/python -m pytest -n auto --maxprocesses 8 -m "not slow" $(ARGS)

test-slow: $(installed) ## the tests that take long
	$(bin)/python -m pytest -m slow $(ARGS)

lint: $(installed) ## style
	$(bin)/python -m ruff check .
	$(bin)/python -m ruff format --check --quiet .

types: $(installed) ## static types
	$(bin)/python -m mypy

benchmark: ## throughput against raw stepping and Stable-Baselines3
	@$(MAKE) --no-print-directory install EXTRAS=peers
	$(bin)/python experiments/throughput/compare.py $(ARGS)

clean: ## removes the environment and the caches, never runs/
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
