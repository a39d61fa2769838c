# Bytecode is written whatever the shell says: without it every process compiles all it imports, for
# seconds.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
COMPILED := $(VENV)/compiled
NEWEST := .venv-newest
CONSTRAINTS := requirements/constraints.txt

CHECKS = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

.PHONY: demo test test-long check schema constraints newest clean

demo: $(READY)
	@$(BIN)/modkernel demo

# Three workers, two of which own a server each (see SERVED in tests/conftest.py): they wait a lot.
# Python compiles what it imports, a minute of a core for all that the tests do: once, beside the
# checks, and not in every worker. It ignores Ctrl-C, as all does that a shell runs beside something.
test: $(READY)
	@compiling=; test $(COMPILED) -nt $(READY) || \
		{ $(BIN)/python -m pytest --collect-only -q >/dev/null 2>&1 & compiling=$$!; }; \
		trap 'test -z "$$compiling" || kill $$compiling 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
		$(CHECKS) && { test -z "$$compiling" || ! wait $$compiling || touch $(COMPILED); }
	@$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

# What takes minutes, and variants that a cheaper test of `test` guards: CONTRIBUTING.md.
test-long: $(READY)
	@$(BIN)/python -m pytest -m long

check: $(READY)
	@$(CHECKS)

schema: $(READY)
	@$(BIN)/modkernel schema --output docs/spec.schema.json

# Writes down the versions of $(VENV): `make constraints VENV=.venv-newest` moves to the newest.
constraints:
	@$(BIN)/python requirements/pin.py >$(CONSTRAINTS).new
	@cmp -s $(CONSTRAINTS).new $(CONSTRAINTS) && rm $(CONSTRAINTS).new || mv $(CONSTRAINTS).new $(CONSTRAINTS)

# The newest versions that pyproject.toml admits, and whether schedules still create runs with them.
newest:
	@$(PYTHON) -m venv --clear $(NEWEST)
	@$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(NEWEST)/bin/python -m pytest requirements/test_smoke.py

# Its programs name its folder: made again where that was moved or renamed.
MADE_AS := $(shell cat $(READY) 2>/dev/null)
ifneq ($(MADE_AS),)
ifneq ($(MADE_AS),$(abspath $(VENV)))
.PHONY: $(READY)
endif
endif

# Made again when either file is newer: a half-finished install leaves no stamp behind. The pip that
# comes with an older Python reads indexes at half the speed of a new one. Python compiles a file at
# its first import; compiling all of them here would take a minute more.
$(READY): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "modkernel needs Python 3.11 or newer, and there is none: install it (Debian, Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON) (once; one or two minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "modkernel needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-compile --constraint $(CONSTRAINTS) --editable '.[dev]'
	@echo "$(abspath $(VENV))" >$@

clean:
	rm -rf $(VENV) $(NEWEST) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
