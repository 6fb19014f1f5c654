# The door of the house: `make` lists what it opens. On a fresh machine each command sets up what it needs.

PYTHON ?= python3
SEEDS ?= 10000
TESTS ?= tests
VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(VENV)/.tools
EXTENSION := $(VENV)/.extension
RUST_VERSION := 1.85

export PYTHON
# One interpreter for every build, so that none invalidates what another built.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Directories too: a file that was added or removed changes nothing but its directory.
ENGINE := $(addprefix crates/,psmr-core psmr-node psmr-services psmr-python)
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find $(ENGINE) -name tests -prune -o \
	\( -type d -o -name '*.rs' -o -name Cargo.toml \) -print)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: system
system: ## Install the system packages that are missing (Debian); nothing if none is
	@scripts/system

.PHONY: venv
venv: $(EXTENSION) ## Make .venv, with the release build of psmr installed; nothing if nothing changed

.PHONY: demo
demo: venv ## See three replicas lose one under load, and lose no write (about half a minute)
	@$(BIN)/psmr demo

.PHONY: test
test: check rust pytest docs-check ## Every check and test

.PHONY: check
check: venv components ## Formats, lints and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/stubtest --ignore-missing-stub --mypy-config-file pyproject.toml psmr._psmr
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: rust
rust: venv ## Tests of the engine
	cargo test --workspace --exclude psmr-python --release --locked
	cargo test --package psmr-core --release --locked --features shuttle --test shuttle

.PHONY: pytest
pytest: venv system ## Tests of the package, end-to-end tests with real clients among them (TESTS=path for some)
	$(BIN)/pytest -n 2 --dist worksteal $(TESTS)

SUITES ?=

.PHONY: clients
clients: venv system ## Smoke tests with go-redis, node-redis, Jedis and Python frameworks, and redis-py's own tests (SUITES="go-redis jedis" for some)
	@$(BIN)/python tests/clients/run.py $(SUITES)

FREE_THREADED ?= $(CURDIR)/build/free-threaded/python/bin/python3.13t
FREE_VENV := build/free-threaded/venv

.PHONY: free-threaded
free-threaded: rustc system ## Services in Python without the global lock: builds CPython 3.13t, then tests and measures on it (FREE_THREADED=path: takes that one)
	@[ -x "$(FREE_THREADED)" ] || scripts/free-threaded
	"$(FREE_THREADED)" -m venv $(FREE_VENV)
	$(FREE_VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements-free-threaded.txt
	PYO3_PYTHON=$(CURDIR)/$(FREE_VENV)/bin/python CARGO_TARGET_DIR=build/free-threaded/target \
		$(FREE_VENV)/bin/maturin build --profile dist --locked --interpreter $(FREE_VENV)/bin/python --out build/free-threaded/wheels
	$(FREE_VENV)/bin/python -m pip install --quiet --force-reinstall --no-deps build/free-threaded/wheels/psmr-*t-*.whl
	$(FREE_VENV)/bin/python -c 'import psmr, sys; sys.exit(sys._is_gil_enabled())'
	$(FREE_VENV)/bin/pytest -n 2 tests/test_service.py tests/test_codec.py tests/test_map.py tests/e2e/test_python_service.py tests/test_examples.py
	$(FREE_VENV)/bin/psmr bench python --work compute --workers 2

.PHONY: wheel
wheel: $(TOOLS) | rustc ## Build wheels in dist/: of the stable ABI, for CPython 3.10 and newer; of CPython 3.13t if `make free-threaded` has built that
	rm -rf dist
	$(BIN)/maturin build --profile dist --locked --out dist
	@if [ -x $(FREE_VENV)/bin/maturin ]; then PYO3_PYTHON=$(CURDIR)/$(FREE_VENV)/bin/python CARGO_TARGET_DIR=build/free-threaded/target \
		$(FREE_VENV)/bin/maturin build --profile dist --locked --interpreter $(FREE_VENV)/bin/python --out dist; fi
	$(PYTHON) -m venv --clear build/wheel
	build/wheel/bin/python -m pip install --quiet dist/psmr-*abi3*.whl
	cd build/wheel && bin/psmr explain kv --format json >/dev/null && bin/psmr --version

DOCS_VENV := build/docs-venv

.PHONY: docs
docs: $(DOCS_VENV)/.tools ## Build the documents' site in build/site; a warning fails it (needs Python 3.11; no build of psmr)
	@$(DOCS_VENV)/bin/python scripts/docs_site.py
	@echo "to read it, with search: $(PYTHON) -m http.server --bind 127.0.0.1 --directory build/site"

.PHONY: docs-check
docs-check:
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then $(MAKE) --no-print-directory docs; \
		else echo "the site is not built: its generator needs Python 3.11 or newer"; fi

$(DOCS_VENV)/.tools: requirements-docs.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11, which the site's generator needs: make docs PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --require-hashes --requirement requirements-docs.txt
	@touch $@

.PHONY: soak
soak: rustc ## Simulate SEEDS=n histories with faults (10000 unless said)
	cargo run --package psmr-sim --release --locked -- run --seeds 0..$(SEEDS) --jobs $$(nproc)

.PHONY: requirements
requirements: $(TOOLS) ## Pin the newest tools in every requirements file
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --upgrade \
		--custom-compile-command 'make requirements' --output-file requirements-dev.txt requirements-dev.in
	$(BIN)/uv pip compile --quiet --python-version 3.13 --generate-hashes --upgrade --custom-compile-command 'make requirements' \
		--output-file requirements-free-threaded.txt requirements-free-threaded.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
		--custom-compile-command 'make requirements' --output-file requirements-docs.txt requirements-docs.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --upgrade --custom-compile-command 'make requirements' \
		--output-file tests/clients/frameworks/requirements.txt tests/clients/frameworks/requirements.in

.PHONY: clean
clean: ## Remove everything that was made
	rm -rf build dist target $(VENV) .mypy_cache .pytest_cache .ruff_cache python/psmr/*.so
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: rustc
rustc:
	@command -v cargo >/dev/null || \
		{ echo "cargo is missing: install Rust $(RUST_VERSION) or newer, see https://rustup.rs" >&2; exit 2; }
	@command -v cc >/dev/null || { echo "cc is missing: install a C compiler (Debian: apt install gcc)" >&2; exit 2; }

.PHONY: components
components: rustc
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || \
		{ echo "rustfmt or clippy is missing: rustup component add rustfmt clippy" >&2; exit 2; }

$(TOOLS): requirements-dev.txt | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than 3.10: name a newer one, as in: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-dev.txt
	@touch $@

$(EXTENSION): $(TOOLS) $(SOURCES) | rustc
	$(BIN)/maturin develop --profile dist --locked --extras plot
	@touch $@
