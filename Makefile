# Everything a fresh Debian machine needs: `make run` serves, `make test` checks.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check -q
STAMP  := $(VENV)/.ready
PREFIX ?= /opt/agentd
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header

.PHONY: run test test-sandbox test-vm lint types check bench chaos install-systemd uninstall-systemd lock clean help

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "agentd needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) -V 2>&1`. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv --help >/dev/null 2>&1 && $(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "installing python3-venv"; apt-get update -qq && apt-get install -y -qq python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

run: $(STAMP)    ## serve on 127.0.0.1:8080
	$(BIN)/agentd serve

test: $(STAMP)   ## the whole test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 2

# What `make install-systemd` needs, since the sandbox has no network.
WHEELS := .vm/wheels/.ready
$(WHEELS): requirements-run.lock $(STAMP)
	rm -rf $(@D) && mkdir -p $(@D)
	$(PIP) --python "$$(PYTHON='$(PYTHON)' systemd/setup python)" download --require-hashes --no-deps -d $(@D) -r $<
	@touch $@

test-sandbox: $(STAMP) $(WHEELS) ## agentd under a real systemd in namespaces, installed for real: root, three minutes
	tests/vm/tools/sandbox $(BIN)/python -m pytest -p no:cacheprovider tests/vm

test-vm: $(STAMP) ## the same with cgroup v2 limits in a virtual machine: debootstrap, qemu-system-x86, ten minutes
	tests/vm/tools/vm build .vm
	tests/vm/tools/vm run .vm python3 -m pytest -p no:cacheprovider -v -o timeout=300 tests/vm tests/e2e/test_delegated.py

lint: $(STAMP)   ## style, as CI checks it
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP)  ## strict types
	$(BIN)/mypy

check: test lint types ## what CI runs

bench: $(STAMP)  ## the figures of docs/performance.md, as a table
	$(BIN)/python -m bench

SEED   ?= 1
TRIALS ?= 1000
chaos: $(STAMP)  ## faults in every process, an hour; one trial again: SEED=its number TRIALS=1
	$(BIN)/python -m tests.chaos --seed $(SEED) --trials $(TRIALS)

install-systemd: $(STAMP) ## units, user and software below PREFIX (/opt/agentd); DESTDIR for packagers; docs/systemd.md
	PYTHON='$(PYTHON)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' systemd/setup install

uninstall-systemd: ## the opposite; data and settings stay, unless PURGE=1
	PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PURGE='$(PURGE)' systemd/setup uninstall

lock: $(STAMP)   ## choose dependency versions anew
	$(COMPILE) --group dev -o requirements.lock
	$(COMPILE) --no-annotate -c requirements.lock -o requirements-run.lock

clean:           ## remove what make made
	rm -rf $(VENV) .vm dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
