# Everything starts from nothing but python3 and make: each target sets up the virtual environment that it needs.

PYTHON ?= python3
BIN := .venv/bin
BENCH_BIN := .venv-bench/bin
EXTRAS := dev,minari,minatar,minigrid,mujoco,ray,video
INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := veldt tests bench docs
BENCHMARKS := replay learner env_stepping pong actors impala server time_to_score

.DEFAULT_GOAL := help
.PHONY: help train test check format learn bench clean

help:  ## what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

train: .venv/ready  ## train DQN on CartPole, about a minute, and leave a run folder
	$(BIN)/veldt train dqn CartPole-v1 --steps 50000 --seed 1 --out runs/cartpole --overwrite

test: .venv/ready  ## run all tests
	$(BIN)/python -m pytest

check: .venv/ready  ## lint, formatting, types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: .venv/ready  ## put files into the form that check asks for
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

learn: .venv/ready  ## train on small problems and compare with the scores to reach
	$(BIN)/python bench/learn.py

bench: .venv-bench/ready  ## measure speed, beside other libraries where there is something to compare
	set -e; for name in $(BENCHMARKS); do echo "== bench/$$name.py"; $(BENCH_BIN)/python bench/$$name.py; done

clean:  ## remove virtual environments and caches; runs stay
	rm -rf .venv .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

# The build backend comes from constraints.txt too; hence no isolated build with a newer one.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Veldt needs Python 3.11 or newer: make PYTHON=python3.x ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) setuptools
	$(BIN)/python $(INSTALL) --no-build-isolation -e '.[$(EXTRAS)]'
	touch $@

.venv-bench/ready: pyproject.toml constraints.txt bench/constraints.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH_BIN)/python $(INSTALL) setuptools
	$(BENCH_BIN)/python $(INSTALL) --no-build-isolation -c bench/constraints.txt -e '.[$(EXTRAS)]' cpprb stable-baselines3 torchrl
	touch $@
