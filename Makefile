# Everything a fresh machine needs: `make demo`, `make test`. Python 3.11 or newer, Linux.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/installed
CONSTRAINTS ?= constraints.txt

.PHONY: demo test test-slow bench docs install lint clean

demo: install
	$(BIN)/glacier demo

test: install lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile

test-slow: install
	$(BIN)/pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: install
	$(BIN)/python benchmarks/throughput.py

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

clean:
	rm -rf demo runs build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
