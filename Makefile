# vmferry. `make` prints this help.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
BUF := node_modules/.bin/buf
STUBS := src/client/vmferry/api/v1
MESSAGE_ONLY := types params errors

.DEFAULT_GOAL := help
# Every start of a daemon or of the client would compile all of its modules again.
unexport PYTHONDONTWRITEBYTECODE

COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.PHONY: help bench setup demo containers test contract crash data-plane unit simulate nights packages check lint types imports fmt proto proto-check proto-lint proof sync man first-ten-minutes docs clean

help: ## what you can make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## a virtual environment with vmferry and all that its tests need

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "vmferry needs Python 3.11 or newer; name it: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: vmferry needs Python 3.11 or newer; name it: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[daemon,dev]'
	@touch $@

packages: # QEMU for tests and demo, where the distribution's package manager can be used
	@scripts/system-packages

demo: $(VENV)/.ready packages ## two daemons on this machine, a guest that checks itself, there and back
	@PYTHONPATH=tests PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m support.demo

containers: ## the same between two hosts in containers; needs Docker and its Compose
	$(COMPOSE) up -d --build
	$(COMPOSE) run --rm client demo
	@echo "The hosts and their guest go on. To end them: $(COMPOSE) down -v"

test: $(VENV)/.ready packages $(BUF) ## every test, or TESTS=tests/unit; what cannot run here is skipped, with its reason
	$(BIN)/python -m pytest $(TESTS)

contract: $(VENV)/.ready packages ## the drivers' contract on a newer QEMU than the system's, where one can be had
	PYTHONPATH=tests VMFERRY_TEST_EMULATOR="$$(PYTHONPATH=tests $(BIN)/python -m support.emulators)" \
	  $(BIN)/python -m pytest tests/contract -m qemu

bench: $(VENV)/.ready packages ## vmferry beside raw QEMU: times, pauses, ratios; half an hour and more, BENCH=--quick half a minute
	PYTHONPATH=tests:. $(BIN)/python -m bench $(BENCH)

unit: $(VENV)/.ready ## the tests that need no QEMU, and no patience
	$(BIN)/python -m pytest -m "not qemu and not slow"

simulate: $(VENV)/.ready ## the whole system under ten thousand seeds, half of them of today; COUNT=5000 of each
	PYTHONPATH=tests $(BIN)/python -m simulation --count $(or $(COUNT),5000)

nights: $(VENV)/.ready ## today's own seeds for MINUTES (480)
	PYTHONPATH=tests $(BIN)/python -m simulation --minutes $(or $(MINUTES),480)

crash: $(VENV)/.ready packages ## every failure of docs/failures.md, on real guests; needs root, takes an hour or two; CELLS=--missing-failures goes on with it
	$(BIN)/python -m pytest tests/crash $(or $(CELLS),--every-failure) --failures docs/failures.jsonl
	$(BIN)/python docs/generate.py

data-plane: $(VENV)/.ready packages ## every cell of docs/data-plane.md, on real guests; takes a quarter of an hour
	VMFERRY_DATA_PLANE=1 $(BIN)/python -m pytest tests/e2e/test_data_plane.py -k test_feature
	$(BIN)/python docs/generate.py

check: lint types imports proto-lint proto-check ## everything that is checked without running it

lint: $(VENV)/.ready ## style
	@! git grep -nE '^(<<<<<<<|>>>>>>>) ' -- . || { echo "An unfinished merge."; exit 1; }
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.ready ## mypy --strict
	$(BIN)/mypy

imports: $(VENV)/.ready ## which room may know which
	$(BIN)/lint-imports

proto-lint: $(BUF) ## buf's standard rules for proto/
	@if test -x $(BUF); then cd proto && ../$(BUF) lint && echo "proto: no findings"; else echo "proto: not linted, because there is no npm here"; fi

$(BUF): package.json
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund; touch $(BUF); else echo "There is no npm here: buf is not installed."; fi

proto: $(VENV)/.ready ## generate the stubs from proto/
	rm -rf $(STUBS)
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=src/client --grpc_python_out=src/client \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --mypy_out=quiet:src/client --mypy_grpc_out=quiet:src/client proto/vmferry/api/v1/*.proto
	for name in $(MESSAGE_ONLY); do rm -f $(STUBS)/$${name}_pb2_grpc.py $(STUBS)/$${name}_pb2_grpc.pyi; done
	@printf '"""Generated from proto/; never edited. See `make proto`."""\n' > src/client/vmferry/api/__init__.py
	@cp src/client/vmferry/api/__init__.py $(STUBS)/__init__.py

proto-check: ## fail when the committed stubs differ from what proto/ gives
	$(MAKE) --no-print-directory proto
	git diff --exit-code -- src/client/vmferry/api
	@test -z "$$(git status --porcelain -- src/client/vmferry/api)" || { git status --short -- src/client/vmferry/api; exit 1; }

proof: $(VENV)/.ready ## explore every interleaving of the job tables, and write the figures to docs/proof.md
	PYTHONPATH=tests $(BIN)/python -m explorer --write

sync: $(VENV)/.ready ## write the synchronous face of the client library anew, from the asynchronous one
	$(BIN)/python scripts/generate_sync.py

first-ten-minutes: $(VENV)/.ready packages ## play what a first-time user does, as root, and write it to docs/; takes some minutes
	$(BIN)/python scripts/generate_first_ten_minutes.py

man: $(VENV)/.ready ## manual pages of the commands and of the configuration, in build/man
	$(BIN)/python scripts/generate_man.py

docs: $(VENV)/.ready ## write the tables of docs/ anew, from the code
	$(BIN)/python docs/generate.py

fmt: $(VENV)/.ready ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what was built
	rm -rf $(VENV) node_modules build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
