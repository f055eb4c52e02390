# What a change needs, in commands that people and CI share. `make` alone lists them.
# Needs only a Python from 3.10 on (PYTHON=... names one); the rest goes into .venv.

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
PY := $(BIN)/python
# The rooms by name, because the package lists what it re-exports and pdoc goes by that.
ROOMS := $(patsubst src/ohmqtt/%.py,ohmqtt.%,$(filter-out %/__init__.py %/__main__.py,$(wildcard src/ohmqtt/*.py))) \
	$(patsubst src/ohmqtt/%/__init__.py,ohmqtt.%,$(wildcard src/ohmqtt/*/__init__.py))
PYTEST := $(PY) -m pytest -n auto

.PHONY: help setup demo test slow sim sim-hour check format lint types tidy cover explore mutants docs conformance matrix broker clean

help:
	@echo "make demo     see that nothing is lost and nothing comes twice, although things break (20 seconds)"
	@echo "make test     run the tests, apart from the slow ones"
	@echo "make slow     run the slow tests"
	@echo "make sim      play 20,000 fresh stories of the simulation and say what happened (make sim-hour: for an hour)"
	@echo "make check    format, lint, types, house rules (about a minute)"
	@echo "make format   put the code into shape"
	@echo "make cover    run the tests and ask for every line and branch, and of each room of the core by its own tests"
	@echo "make explore  take every way that three messages, two disconnects and a crash can go (tens of minutes)"
	@echo "make mutants  put bugs in by hand, one at a time, and see that each is caught (five minutes)"
	@echo "make docs     write the reference into build/docs"
	@echo "make conformance  write down which tests show which requirement of the standard"
	@echo "make matrix   run the tests with every CPython on this machine"
	@echo "make clean    remove what these commands made"

setup:
	@sh scripts/setup

broker:
	@sh scripts/ensure_mosquitto

demo: setup
	$(PY) -m ohmqtt demo

test: setup broker
	$(PYTEST) -m "not slow"

slow: setup broker
	$(PYTEST) -m slow

sim: setup
	$(PY) -m tests.simulation --seeds 20000 --jobs 0

sim-hour: setup
	$(PY) -m tests.simulation --minutes 60 --jobs 0

check: setup lint types tidy

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lint: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

types: setup
	$(PY) -m mypy
	$(PY) -m pyright --pythonpath $(PY)

tidy: setup
	$(PYTEST) -q tests/test_tidy.py

cover: setup broker
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest -n auto -m "not slow"
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage html --quiet --fail-under=0
	$(PY) -m coverage report
	$(PY) scripts/cover_rooms.py

explore: setup
	$(PY) -m tests.exploration

mutants: setup
	$(PY) -m tests.mutations

docs: setup
	$(PY) -m pdoc --docformat restructuredtext --output-directory build/docs ohmqtt $(ROOMS)

conformance: setup
	$(PY) scripts/conformance.py

matrix: setup broker
	$(PY) -m nox --session tests

clean:
	rm -rf .venv .nox build dist .hypothesis .pytest_cache
