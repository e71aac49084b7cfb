# Needs Python >= 3.11, make and git; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all lint bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

$(VENV)/stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokencake needs Python >= 3.11, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/stamp-dev: $(VENV)/stamp
	$(BIN)/python -m pip install --quiet --editable '.[dev,launchers]'
	@touch $@

DEMO := $(BIN)/tokencake run +experiment=demo overwrite=true

demo: $(VENV)/stamp  ## run the main job on the bundled traces: figures and tables under runs/demo
	$(DEMO) trace.path=examples/code_writer.jsonl.gz out=runs/demo/code_writer
	$(BIN)/tokencake plot --no-table runs/demo/code_writer
	$(DEMO) trace.path=examples/demo.jsonl.gz trace.qps=0.25,0.5,1.0 engine.gpu_blocks=1000 out=runs/demo/mixed_agents
	$(BIN)/tokencake plot --no-table runs/demo/mixed_agents
	@echo "Figures and tables: runs/demo/code_writer/figures and runs/demo/mixed_agents/figures"

test: $(VENV)/stamp  ## run the tests, except those marked slow
	$(BIN)/python -m pytest -m 'not slow' --ignore=tests/bench

test-slow: $(VENV)/stamp  ## run the slow tests
	$(BIN)/python -m pytest -m slow --ignore=tests/bench

test-all: $(VENV)/stamp  ## run every test
	$(BIN)/python -m pytest --ignore=tests/bench

lint: $(VENV)/stamp-dev  ## linters, formatter, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/stamp  ## speed, with pytest-benchmark
	$(BIN)/python -m pytest tests/bench --benchmark-only

clean:  ## remove the environment and the demo's output
	rm -rf $(VENV) runs/demo
