# vmferry. `make` prints this help.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STUBS := src/client/vmferry/api/v1
MESSAGE_ONLY := types params errors

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types imports fmt proto proto-check proto-lint clean

help: ## what you can make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## a virtual environment with vmferry and all that its tests need

$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "vmferry needs Python 3.11 or newer; name it with: make PYTHON=python3 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[daemon,dev]'
	@touch $@

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

fmt: $(VENV)/.ready ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
