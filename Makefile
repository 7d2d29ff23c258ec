# make setup   a virtual environment in .venv with the tested versions, and the pose model
# make demo    a dancer, painted: the whole chain on the models that ship
# make test    the test suite
# make check   linter, types, sizes, tests
# make soak    a live graph for MINUTES with everything that people do to one; does anything grow?
# make bench   the benches that need no GPU, into bench/results

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN    := .venv/bin

.PHONY: setup demo test check lint bench soak docs clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	-$(BIN)/engine models pull pose
	touch $@

demo: setup
	$(BIN)/engine run demo --embedded

WORKERS ?= 2

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

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
