# A machine with Python 3.11 or newer and make is enough; uv is installed by pip into .venv.
PYTHON ?= python3
UV = .venv/bin/uv
# Compiled modules are kept even where the environment forbids it: importing PyTorch takes twice as
# long without, and the tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: demo test test-kernels check docs benchmarks clean

# DEMO="--images 100" makes it shorter
demo: .venv/ready
	.venv/bin/advlens demo $(DEMO)

# What the tests of a file share is made once if one process has the whole file. Files go out in the
# order of their collection, which is random: sorted by their number of tests, the longest are last.
# One process more than there are cores works while others wait for processes that they started.
test: .venv/ready-test
	.venv/bin/pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile --no-loadscope-reorder

# KERNELS=default:SSE41:1 runs that setting alone; all of them by default
test-kernels: .venv/ready-test
	tests/kernels.sh $(KERNELS)

check: .venv/ready-test
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: .venv/ready-docs
	.venv/bin/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build

benchmarks: .venv/ready-test
	.venv/bin/python benchmarks/attacks.py
	.venv/bin/python benchmarks/neurons.py
	.venv/bin/python benchmarks/training.py
	.venv/bin/python benchmarks/dissection.py
	.venv/bin/python benchmarks/attribution.py
	.venv/bin/python benchmarks/synthesis.py
	.venv/bin/python benchmarks/fid.py
	.venv/bin/python benchmarks/loading.py
	.venv/bin/python benchmarks/passes.py
	.venv/bin/python benchmarks/scale.py
	.venv/bin/python benchmarks/intervals.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet 'uv>=0.9,<1'
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/ready-test: .venv/ready
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip install --quiet --constraint constraints.txt --group test --group check
	touch $@

.venv/ready-docs: .venv/ready
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip install --quiet --constraint constraints.txt --group docs
	touch $@

clean:
	rm -rf .venv runs dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
