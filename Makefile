# `make demo` and `make test` work on a fresh machine: the first call makes .venv and installs, later calls skip that.
#   make demo                        fine-tune a real model with three optimizers, score it, write demo/report.html
#   make test ARGS='tests/optim'     any pytest arguments
#   make PYTHON=python3.12 test      another interpreter (3.11 or newer) for a new .venv
PYTHON ?= python3
VENV ?= .venv
# Two workers with one thread each: two OpenMP jobs on two cores are about three times slower than one after the other.
WORKERS ?= 2
ARGS ?=

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test lint format bench compatibility clean

help:
	@echo "make demo    train and score a real embedding model, write demo/report.html (sets everything up)"
	@echo "make test    the whole test-suite (sets everything up); ARGS='-k name' picks"
	@echo "make lint    ruff, mypy, typos"
	@echo "make format  what ruff can mend by itself"
	@echo "make bench   time of one optimizer step, against torch"
	@echo "make compatibility  every trainer, launcher, precision and wrapper with every optimizer: docs/compatibility.md"
	@echo "make clean   remove .venv and caches, nothing else"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: '$(PYTHON)' is not here: install Python 3.11 or newer, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "make: tamft needs Python 3.11 or newer and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12 $(MAKECMDGOALS)" % v[:2])'
	@echo "Setting up $(VENV) (once; some minutes, most of them torch) …"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(RUN) -m tamft.cli demo $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) $(ARGS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/typos

format: $(STAMP)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) benchmarks/step.py --short $(ARGS)

# Slow (a quarter of an hour on two cores) and not part of the tests; peers of other packages come with the extra `rivals`.
compatibility: $(STAMP)
	$(RUN) -m tests.compatibility $(if $(ARGS),$(ARGS),--write docs/compatibility.md)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist
