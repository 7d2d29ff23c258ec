# make setup   a virtual environment in .venv with the tested versions, and the pose model
# make demo    a dancer, painted: the whole chain on the models that ship
# make test    the test suite
# make check   linter, types, sizes, tests
# make soak    a live graph for MINUTES with everything that people do to one; does anything grow?
# make bench   the benches that need no GPU, into bench/results

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN    := .venv/bin

.PHONY: setup demo test check lint bench soak docs clean packages

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	-$(BIN)/engine models pull pose
	touch $@

demo: setup
	$(BIN)/engine run demo --embedded

WORKERS ?= 2
NPM     := $(shell command -v npm)

# A test that not even its own time limit ends says where it stands, and takes its worker with it.
STUCK   := -o faulthandler_timeout=450 -o faulthandler_exit_on_timeout=true

# What the tests of the JavaScript client import. Once, before the tests: workers that install into one folder get in each other's way.
packages:
ifneq ($(NPM),)
	-test -e bindings/javascript/node_modules/zeromq || (cd bindings/javascript && npm install --silent --no-audit --no-fund \
	  --no-package-lock --prefer-offline --fetch-timeout=20000 --fetch-retries=1 </dev/null)
endif

test: setup packages
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 1 $(STUCK)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python bench/sizes.py

check: lint test

bench: setup
	for b in cpu_publish cpu_hop cpu_pipeline cpu_transcode cpu_overhead govern_sim embedded_quality cpu_outputs control_latency cpu_record; do \
	  $(BIN)/python bench/$$b.py --json bench/results/$$b.json || exit 1; done

MINUTES ?= 5

soak: setup
	$(BIN)/python bench/soak.py --minutes $(MINUTES)

docs: setup
	$(BIN)/engine ops --markdown > docs/reference.md
	$(BIN)/engine schema > graphs/schema.json

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
