# make demo | test | test-peers | test-tpu | setup | lint | bench: everything from python3 >= 3.11 and the package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

.PHONY: demo test test-slow test-peers test-tpu setup lint format bench clean

demo: $(VENV)/.installed
	$(BIN)/python train.py configs/demo.py --workdir runs/demo

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow

test-peers: $(VENV)-peers/.installed
	$(VENV)-peers/bin/python -m pytest tests/interop/test_transformers.py

# The compiler of TPUs, which needs none, beside the environment: inside of it JAX would look for TPUs.
test-tpu: $(VENV)-tpu/.installed
	PYTHONPATH=$(VENV)-tpu $(BIN)/python -m pytest tests/planning -k tpu

setup: $(VENV)/.installed-dev

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/sampler.py

clean:
	rm -rf $(VENV) $(VENV)-peers $(VENV)-tpu .jax_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected python3 >= 3.11, got " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)-tpu/.installed: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target $(VENV)-tpu \
		"$$($(BIN)/python -c 'from importlib.metadata import requires; print(*(r.split(";")[0] for r in requires("jax") if r.startswith("libtpu")))')"
	touch $@

$(VENV)-peers/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,peers]'
	touch $@
