# featstore: `make demo` and `make test` set up what they need on a fresh machine.
#
#   make demo                        the whole way once, on real images: extract → train → apply → eval
#   make demo IMAGES=path/to/folders the same on your own images (class folders)
#   make test                        lint, types, import contract and tests
#   make test-all                    the same with the long fault budgets
#   make lint | types | contract     the parts

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IMAGES ?=

.PHONY: demo test test-all setup setup-lite lint types contract tests format clean

demo: $(if $(IMAGES),setup-lite,setup)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python examples/demo/demo.py $(if $(IMAGES),--images "$(IMAGES)")

test: setup lint types contract tests

test-all: setup lint types contract
	$(BIN)/python -m pytest -m "full or not full"

setup: $(VENV)/.ready

setup-lite: $(VENV)/.ready-lite

lint:
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types:
	$(BIN)/mypy

contract:
	$(BIN)/lint-imports

tests:
	$(BIN)/python -m pytest -m "not full"

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "featstore needs Python 3.11 or newer; name one with make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing featstore and what it needs into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	@touch $@

$(VENV)/.ready-lite: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lite]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-out
