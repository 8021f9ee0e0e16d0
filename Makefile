# `make help` lists what there is. Everything runs in .venv, which is made when it is missing or pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# The tests start Python hundreds of times: where it writes no bytecode, each compiles the whole package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types imports bench brokers clean distclean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## Publish and run a typed job in memory
	@$(PY) examples/quickstart.py

test: $(STAMP) brokers ## Run the tests, on real Redis and RabbitMQ servers that they start themselves
	$(PY) -m pytest tests/jobs/ -v

lint: $(STAMP) ## Check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP) ## Mend style and formatting where that is safe
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(STAMP) ## Check types
	$(PY) -m mypy

imports: $(STAMP) ## Check that imports point downwards only
	$(VENV)/bin/lint-imports

bench: $(STAMP) brokers ## Measure against bare clients, Kombu, Celery and others
	$(PY) -m pip install --quiet --group bench
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(PY) $$script; done

brokers: ## Install redis-server and rabbitmq-server where they are missing
	@.ci/install-brokers

clean: ## Remove caches and builds
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv, too
	rm -rf $(VENV)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	$(PY) -m pip install --quiet --editable . --group dev
	$(PY) -m pip install --quiet --no-deps --upgrade --target $(VENV)/flower --group flower
	@touch $@
