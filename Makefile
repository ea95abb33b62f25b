# Everything runs in .venv, which `make setup` fills. Needs make, bash and Python 3.10 to 3.13 with
# venv.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
SYSTEM ?= hdr_patch
ARGS ?=
# A machine without a GPU saves several GB with
#   make setup PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# pip takes a CPU build by itself if its configuration points to one.
PIP_FLAGS ?=

# If the shell forbids stored bytecode, each of the many processes that tests and sweeps start
# compiles all modules anew.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
RUN := $(VENV)/bin/python
# pytest on all cores; without OMP_NUM_THREADS torch would start a thread per core in each process.
# Tests that share a fixture stay together.
PARALLEL := OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal
FAST := -m "not slow and not ray and not gpu" --hypothesis-profile=fast
# Two Ray clusters more at a time than cores, since each waits a third of its time, where each finds
# 3 GB of memory.
# Tests that share a cluster run in one process (loadscope), in the order of tests/ray/conftest.py.
# Where ARGS name no file, only tests/ray is imported.
AT_ONCE ?= $(shell awk -v most=$$(( $$(nproc) + 2 )) '/^MemAvailable/ { room = int($$2 / 3e6); \
    n = room < most ? room : most; print (n < 1 ? 1 : n) }' /proc/meminfo)
CLUSTERS = OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(AT_ONCE) --dist loadscope --no-loadscope-reorder \
    -m "ray and not gpu" $(if $(filter tests%,$(ARGS)),,tests/ray)
TIMES := .pytest_cache/times
STAMP := $(VENV)/.installed

.PHONY: help setup sweep test test-fast test-times test-versions lint bench
.PHONY: real-data real-hdr real-mri clean clean-cache

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile \
	    | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

setup: $(STAMP)  ## .venv with the project and its tools; does nothing when up to date

# Depends on the two files that say what is installed.
$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
	    echo "Python 3.10 to 3.13 is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	         "Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@[ -x $(RUN) ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "No venv could be made. On Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@echo "Installing into $(VENV) (about 100 packages, 2 GB with a CPU build of torch; minutes):"
	@PYTHONUNBUFFERED=1 $(RUN) -m pip install --disable-pip-version-check --progress-bar off \
	    $(PIP_FLAGS) -e '.[dev]' \
	    | { grep --line-buffered -oE '^(Collecting [^ ]+|Installing collected packages)' || true; }
	@$(RUN) -m pip check
	@touch $(STAMP)

sweep: $(STAMP)  ## a sweep on this machine: make sweep SYSTEM=hdr_patch ARGS="--trials 20"
	$(RUN) -m ray_jobs.sweep $(SYSTEM) --trials 12 --test $(ARGS)

# pytest exits with 5 when ARGS select no test.
test: $(STAMP)  ## all tests that need no GPU
	$(PARALLEL) -m "not ray and not gpu" $(ARGS) || [ $$? = 5 ]
	$(CLUSTERS) $(ARGS) || [ $$? = 5 ]

test-fast: $(STAMP)  ## tests to run on every save: no Ray, no GPU, nothing slow
	$(PARALLEL) $(FAST) $(ARGS)

# A test that fails has its seconds too: the table comes first, and the failure after it.
test-times: $(STAMP)  ## what each tier of the tests costs, by folder
	@rm -rf $(TIMES)
	$(PARALLEL) $(FAST) --junitxml=$(TIMES)/fast.xml $(ARGS) || :
	$(PARALLEL) -m "slow and not ray and not gpu" --junitxml=$(TIMES)/slow.xml $(ARGS) || :
	$(CLUSTERS) --junitxml=$(TIMES)/ray.xml $(ARGS) || :
	@$(RUN) tests/times.py $(TIMES)/fast.xml $(TIMES)/slow.xml $(TIMES)/ray.xml

# Each with an environment of its own (2 GB), which is kept.
VERSIONS ?= 3.10 3.11 3.12 3.13
test-versions:  ## fast tests and a short sweep on each Python of 3.10 to 3.13 that is installed
	@MAKE="$(MAKE)" tests/versions.sh $(VERSIONS)

# No `ruff format`: formulas and tables are laid out by hand.
lint: $(STAMP)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m mypy

bench: $(STAMP)  ## every benchmark, one JSON object per line
	@for file in $$(grep -lE '^ +main\(.+\)|"--json"' $$(grep -l __main__ benchmarks/*.py benchmarks/rivals/*.py)); do \
	    name=$$(echo "$${file%.py}" | tr / .); echo "# $$name" >&2; \
	    $(RUN) -m "$$name" --json; \
	done

real-data: real-hdr real-mri  ## real-hdr and real-mri, for trainings and slow tests

real-hdr: $(STAMP)  ## renders a sequence of each CC0 environment map (downloads about 100 MB)
	$(RUN) -m data.hdr.environment_maps --out .cache/real-data/hdr_maps $(ARGS)

real-mri: $(STAMP)  ## tumour MRI and CT with masks as NIfTI patients (downloads 34 MB)
	$(RUN) -m data.mri.real --out .cache/real-data/mri

clean:  ## removes caches and build products; keeps environments, sweeps and real data
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Without $(STAMP): it takes Python alone, and who empties a cache need not fill an environment.
clean-cache:  ## removes prepared data and networks of the cache, but for those in use
	@$(PYTHON) -c 'from ray_jobs.verb import cache_directory; from data.clean_cache import clean; \
	    print(clean(cache_directory()))'
