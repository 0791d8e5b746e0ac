# Set-up, training and tests from a bare Python 3.11+.

PYTHON ?= python3
CONFIG ?= configs/digits_tada.py
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test lint lock clean

train: $(VENV)/installed
	$(BIN)/python main.py --config=$(CONFIG) $(ARGS)

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

lock:
	uv pip compile requirements-dev.txt --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --output-file requirements.lock

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache
