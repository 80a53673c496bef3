# Every target works in a fresh clone: it first creates a virtual environment in .venv with pinned packages.
# `make` without a target lists the targets.

PYTHON ?= $(shell for p in python3.11 python3 python; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Folder of real logs: STAR_CTR_DATA if it is set, else the first of data/ and ../shared/data that exists.
STAR_CTR_DATA ?= $(abspath $(firstword $(wildcard data ../shared/data) data))
export STAR_CTR_DATA
KUAIRAND := $(wildcard $(STAR_CTR_DATA)/kuairand/log_standard_*.csv*)

# What `make airflow` runs if STAR_CTR_CONF is not set.
ifndef STAR_CTR_CONF
airflow: export STAR_CTR_CONF := conf/$(if $(KUAIRAND),kuairand,demo).yaml
airflow: export STAR_CTR_FIRST_NIGHT := $(if $(KUAIRAND),2022-05-04,2026-01-07)
airflow: export STAR_CTR_LAST_NIGHT := $(if $(KUAIRAND),2022-05-05,2026-01-08)
endif
AIRFLOW_PORT ?= 8080
# Number of test processes, each with a separate Spark session (2 GB).
TEST_PROCESSES ?= 2
# Time limit of a slow test.
SLOW_TEST_SECONDS ?= 1800

.PHONY: help nightly demo demo-logs test test-slow test-long lint bench format requirements clean java airflow airflow-env
help:
	@echo "make nightly    run a night: on KuaiRand if its logs are in $(STAR_CTR_DATA), else on simulated logs"
	@echo "make demo       run a night on simulated logs"
	@echo "make airflow    run nights as an Airflow DAG, with the web interface on this machine"
	@echo "make test       run the fast tests    make test-slow  run the slow tests    make test-long  run all slow tests"
	@echo "make lint       run ruff and mypy     make bench      run the benchmarks (build/bench.json)"

.venv/.ready: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "star-ctr needs Python 3.11 and found none; install it (Debian: apt-get install python3.11 python3.11-venv) or run: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) has no venv module; install it (Debian: apt-get install python3.11-venv)"; exit 1; }
	@echo "Installing the pinned packages into .venv (some 6 GB; one to a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.txt)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

java: .venv/.ready
	@$(BIN)/python -c "from star_ctr.jobs.io.session import check_java; check_java()" 2>&1 | tail -1 | sed 's/^.*UserError: //' | grep . && exit 1 || true

nightly: .venv/.ready java
ifneq ($(KUAIRAND),)
	$(BIN)/star-ctr nightly --conf conf/kuairand.yaml
else
	@echo "No KuaiRand logs in $(STAR_CTR_DATA): using simulated logs."
	$(MAKE) demo
endif

demo-logs: .venv/.ready java
	@test -d warehouse/demo-logs/truth || $(BIN)/star-ctr simulate --conf conf/demo.yaml

demo: demo-logs
	$(BIN)/star-ctr nightly --conf conf/demo.yaml

# Airflow has a separate environment, because its requirements conflict with those of .venv.
airflow-env: .airflow/.ready
.airflow/.ready: requirements-airflow.txt .venv/.ready
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .airflow/venv
	@echo "Installing Airflow into .airflow/venv (some 200 MB) ..."
	@$(BIN)/uv pip install --quiet --python .airflow/venv/bin/python --require-hashes -r requirements-airflow.txt
	@touch $@

airflow: .airflow/.ready java $(if $(or $(STAR_CTR_CONF),$(KUAIRAND)),,demo-logs)
	$(BIN)/python -m star_ctr.workflows.airflow.local --port $(AIRFLOW_PORT)

test: .venv/.ready java
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --durations=20

# Without network access, the tests of Airflow are skipped with a message.
test-slow: .venv/.ready java
	@$(MAKE) --no-print-directory airflow-env || echo "Airflow could not be set up: its tests will be skipped."
	@test -f build/spark.jsa || $(BIN)/python -m tests.archive_classes build/spark.jsa
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m slow --timeout=$(SLOW_TEST_SECONDS) --no-loadscope-reorder --durations=20

# The slow tests with more kills, nights and examples, and those that are skipped without STAR_CTR_LONG. Takes hours.
test-long:
	STAR_CTR_LONG=1 $(MAKE) --no-print-directory test-slow SLOW_TEST_SECONDS=10800

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
	$(BIN)/uv pip compile --group airflow --generate-hashes --python-version 3.11 --no-header --upgrade -o requirements-airflow.txt

clean:
	rm -rf build warehouse
