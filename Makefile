# The two commands of the README. Both set up .venv on the first call: Python 3.11 or newer is all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Written last, so that a setup that was interrupted starts again.
READY := $(VENV)/.ready

.PHONY: evaluate test lint docs notebooks figures clean

evaluate: $(READY)  ## the main job: MADDPG and MIR2 against trained worst-case adversaries
	$(BIN)/python -m mir2bench.evaluate --algo maddpg mir2

test: lint  ## all checks and tests
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

lint: $(READY)  ## style, types, import layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/codespell

docs: $(READY)  ## the documentation site, in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: $(READY)  ## execute the notebooks in docs/ and keep what they print and draw
	OMP_NUM_THREADS=1 $(BIN)/python docs/execute.py

figures: $(READY)  ## every figure of docs/ that committed data can give, drawn again without training
	$(BIN)/python docs/figures.py

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "mir2bench needs Python 3.11 or newer; $(PYTHON) is none. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:  ## remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
