# make app | test | lab | docs | env | notebooks | lint | figures. Each builds .venv first if it is not there.
PYTHON ?= python3
PORT ?= 7860
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Small tensors: one thread beats two, and two fight each other when anything else runs.
export OMP_NUM_THREADS ?= 1

.PHONY: app test lab docs env notebooks lint figures

env: $(READY)

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cmlab needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || { rm -rf $(VENV); echo "could not make $(VENV): on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install -q -c constraints.txt uv
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[app,lab,metrics,lsun,log,launch,docs,dev]'
	touch $(READY)

app: $(READY)
	PORT=$(PORT) $(BIN)/cmlab app

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile

lab: $(READY)
	$(BIN)/cmlab lab notebooks

# The site, in site/: opens from a disk, or behind any server of files.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

notebooks: $(READY)
	$(BIN)/python notebooks/make.py

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo && $(BIN)/pyright

# The pictures of the README and of docs/: bundled models, and the app in a browser.
figures: $(READY)
	$(BIN)/python benchmarks/figures.py
	$(BIN)/python benchmarks/screenshot.py benchmarks/figures/app.png
