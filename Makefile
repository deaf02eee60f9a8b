# Every target makes .venv from nothing when it is missing; constraints.txt pins every version.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test gpu docs lint format clean

demo: $(STAMP)
	$(BIN)/spikecredit demo

# one process per core, each with one thread: most tests are small
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=4 --cov=spikecredit --cov-report=term-missing:skip-covered --cov-fail-under=90

# With the machine's own Python if it has torch: a machine with CUDA has its own build, and often no network.
gpu:
	if $(PYTHON) -c "import torch, numpy" 2>/dev/null; then \
		PYTHONPATH=. $(PYTHON) -m benchmarks.gpu; \
	else \
		$(MAKE) $(STAMP) && $(BIN)/python -m benchmarks.gpu; \
	fi

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first and by itself: its pinned version is the CPU build, and nothing installed later may pull another.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[plot,vision,brian,snntorch,nir,tensorboard,docs,dev]'
	# for the tests of the CUDA kernels in its interpreter; its torch is the one that is there
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps 'triton; sys_platform == "linux"'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info docs/_build .pytest_cache .ruff_cache .mypy_cache .hypothesis
