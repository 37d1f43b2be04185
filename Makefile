# Everything a person types. Each target does the set-up that it needs; nothing else has to be run first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help install demo serve test chaos hostile check audit fuzz format lock clean

help:
	@echo "make demo     set up, then run the whole main job over HTTP and print what it reached"
	@echo "make serve    set up, then run the service on http://127.0.0.1:8000 (data in ./data)"
	@echo "make install  the set-up alone: locked dependencies in ./.venv"
	@echo "make test     every test (unit, contract, parity, end to end)"
	@echo "make chaos    the fault and load tests in their long form (about an hour); writes docs/reliability.md's table"
	@echo "make hostile  every hostile upload and slow sender (about five minutes); writes docs/reliability.md's tables of them"
	@echo "make check    linters, types, import layers, what is installed against the lock files"
	@echo "make audit    known faults of the locked dependencies (needs a network)"
	@echo "make fuzz     coverage-guided fuzzing of what reads strangers' files: FUZZ_S seconds for each of eight readers"
	@echo "make format   let the linter mend what it can"
	@echo "make lock     resolve requirements*.lock again from pyproject.toml"
	@echo "make clean    remove the virtual environment and caches (never ./data)"

install: $(VENV)/.runtime

demo: install
	@$(BIN)/python examples/demo.py

serve: install
	@exec $(BIN)/python -m app

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

chaos: $(VENV)/.dev
	@rm -f build/faults.jsonl
	NPT_CHAOS=1 $(BIN)/python -m pytest tests/faults $(PYTEST_ARGS); failed=$$?; \
	  NPT_CHAOS=1 $(BIN)/python -m tests.faults.record build/faults.jsonl && exit $$failed

hostile: $(VENV)/.dev
	@rm -f build/hostile.jsonl
	NPT_HOSTILE=1 $(BIN)/python -m pytest tests/security/test_corpus.py tests/security/test_slow.py $(PYTEST_ARGS)
	$(BIN)/python -m tests.security.record build/hostile.jsonl

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/audit_lock.py $(if $(CI),--strict)

# --strict: what cannot be asked about is a failure. Without it nothing is asked where the index has no such answers, and
# nothing is said to be found.
audit: $(VENV)/.dev
	$(BIN)/python tools/audit_lock.py --strict
	@$(BIN)/uv tool run --from pip-audit==2.10.1 pip-audit --strict --require-hashes --disable-pip --requirement requirements-dev.lock || \
	  { echo "make audit: not passed. Either a fault is listed above, or known faults could not be asked for: that takes a network that" \
	    "reaches the package index and its JSON answers, which mirrors often lack." >&2; exit 1; }

FUZZ_S ?= 600
fuzz: $(VENV)/.dev
	NPT_FUZZ_S=$(FUZZ_S) NPT_SCHEMA_EXAMPLES=200 $(BIN)/python -m pytest tests/security/test_fuzz.py tests/security/test_schema.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.dev
	$(BIN)/uv pip compile pyproject.toml --extra service --extra onnx --extra s3 --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --quiet --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra service --extra dev --extra heif --extra onnx --extra s3 --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --quiet --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "NPT Service needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Say which one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python cannot make virtual environments here; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/.python
	@echo "Installing the locked dependencies into $(VENV): about 5 GB on Linux (PyTorch with CUDA), once; a few minutes."
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@
