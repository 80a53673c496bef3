# Every target does its own set-up from a fresh clone: a virtual environment in .venv with pinned packages.
# `make` alone lists the targets.

PYTHON ?= $(shell for p in python3.11 python3 python; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Real logs: the first of data/ and ../shared/data that is there, unless STAR_CTR_DATA says otherwise.
STAR_CTR_DATA ?= $(abspath $(firstword $(wildcard data ../shared/data) data))
export STAR_CTR_DATA
KUAIRAND := $(wildcard $(STAR_CTR_DATA)/kuairand/log_standard_*.csv*)

.PHONY: help nightly demo test test-slow lint bench format requirements clean java
help:
	@echo "make nightly    one whole night: on KuaiRand if its logs are in $(STAR_CTR_DATA), else on simulated logs"
	@echo "make demo       one whole night on simulated logs"
	@echo "make test       the fast tests        make test-slow  the long ones"
	@echo "make lint       ruff and mypy         make bench      benchmarks, into build/bench.json"

.venv/.ready: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "star-ctr needs Python 3.11 and found none; install it (Debian: apt-get install python3.11 python3.11-venv) or run: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) has no venv module; install it (Debian: apt-get install python3.11-venv)"; exit 1; }
	@echo "Installing the pinned packages into .venv (some 6 GB; one to a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.txt)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

java: .venv/.ready
	@$(BIN)/python -c "from star_ctr.jobs.session import check_java; check_java()" 2>&1 | tail -1 | sed 's/^.*UserError: //' | grep . && exit 1 || true

nightly: .venv/.ready java
ifneq ($(KUAIRAND),)
	$(BIN)/star-ctr nightly --conf conf/kuairand.yaml
else
	@echo "No KuaiRand logs in $(STAR_CTR_DATA): taking simulated ones."
	$(MAKE) demo
endif

demo: .venv/.ready java
	@test -d warehouse/demo-logs/truth || $(BIN)/star-ctr simulate --conf conf/demo.yaml
	$(BIN)/star-ctr nightly --conf conf/demo.yaml

test: .venv/.ready java
	$(BIN)/python -m pytest

test-slow: .venv/.ready java
	$(BIN)/python -m pytest -m slow --timeout=1800

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.ready java
	$(BIN)/python bench/run.py

requirements: .venv/.ready
	$(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes --python-version 3.11 --no-header --upgrade -o requirements.txt

clean:
	rm -rf build warehouse
