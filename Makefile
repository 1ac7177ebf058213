# Two commands do everything on a fresh machine, set-up included: `make run` and `make test`.
# Only python3 (3.11 to 3.13) and make are assumed; uv is used where present, else fetched into .venv.

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOB    ?= examples/cartpole.yaml
# Processes that run tests; most of them wait for others more than they compute.
TESTERS ?= 2

# Numerical libraries with more threads than CPUs spin against each other.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup run test format lint types layers generated parts unit pods bench cluster cluster-down clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY)  ## prepare .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"{sys.executable} is Python {v[0]}.{v[1]}; asyncrl needs 3.11 to 3.13: make PYTHON=python3.12 setup")'
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(RUN)/uv || $(RUN)/python -m pip install --quiet uv
	@uv=$$(command -v uv || echo $(RUN)/uv); \
	  $$uv pip install --python $(RUN)/python --constraint constraints.txt --editable '.[worker,operator,cluster,dev]'
	@touch $@

run: $(READY)    ## train examples/cartpole.yaml (JOB=...) to the end and show the result
	@$(RUN)/asyncrl run $(JOB)

test: format lint types layers generated parts unit  ## everything CI checks

format: $(READY)
	$(RUN)/ruff format --check .

lint: $(READY)
	$(RUN)/ruff check .

types: $(READY)
	$(RUN)/mypy crds worker operator client benchmarks tests/cluster tests/docs

layers: $(READY)
	PYTHONPATH=crds:worker:operator:client $(RUN)/lint-imports

generated: $(READY)  ## the files made from the models and the protocol are up to date
	$(RUN)/python -m asyncrl_api.crd --check
	$(RUN)/python -m asyncrl_api.reference --check
	$(RUN)/python -m asyncrl_worker.metrics_reference --check
	$(RUN)/python -m asyncrl_operator.metrics_reference --check
	$(RUN)/python -m asyncrl_operator.values_reference --check
	$(RUN)/python -m asyncrl_operator.events_reference --check
	$(RUN)/python -m asyncrl_worker.protocol.generate --check

parts: $(READY)  ## build the parts of the cluster of the tests, once, into ~/.cache/asyncrl-cluster (30 GB)
	PYTHONPATH=tests $(RUN)/python -m cluster build

unit: $(READY)   ## all tests, training, faults and real pods included
	$(RUN)/python -m pytest -n $(TESTERS) $(ARGS)

pods: $(READY) parts  ## only the tests with real pods: a node, images, Helm, training; root on Linux
	$(RUN)/python -m pytest -m pods $(ARGS)

bench: $(READY)  ## measure; the peers get environments of their own
	$(RUN)/python -m benchmarks $(ARGS)

cluster: $(READY)       ## start a Kubernetes cluster on this machine; as root on Linux, with a node
	@PYTHONPATH=tests $(RUN)/python -m cluster up

cluster-down: $(READY)  ## remove it
	@PYTHONPATH=tests $(RUN)/python -m cluster down

clean:           ## remove what make made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
