# Two commands for a fresh clone: `make demo` and `make test`. Everything they install goes into .venv*.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test clean

demo: $(VENV)/ready
	$(RUN)/commbench sweep quick -n 2 --launcher mpirun --set 'backend=[gloo, mpi]' --out results/demo-$(shell date -u +%Y%m%dT%H%M%SZ)
	@demo=$$(ls -td results/demo-* | head -n 1); $(RUN)/commbench plot $$demo -o $$demo/plot.png

test: $(VENV)/ready $(VENV)/dev $(VENV)-mpich/ready
	$(RUN)/ruff check . && $(RUN)/ruff format --check . && $(RUN)/mypy
	$(RUN)/python -m pytest -n 2 tests/unit tests/house
	$(RUN)/python -m pytest -n 3 --dist loadfile --durations=12 tests/real
	$(RUN)/python -m pytest --durations=12 tests/lab

$(VENV)/ready: pyproject.toml setup.py constraints.txt commbench/backends/_cloop.c
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python $(PIP) --editable '.[mpi]'
	touch $@

$(VENV)/dev: $(VENV)/ready
	$(RUN)/python $(PIP) --editable '.[mpi,dev]'
	touch $@

# The other MPI, and a machine without torch and matplotlib: only what the MPI backend needs.
$(VENV)-mpich/ready: pyproject.toml setup.py constraints.txt commbench/backends/_cloop.c
	$(PYTHON) -m venv $(VENV)-mpich
	$(VENV)-mpich/bin/python $(PIP) mpich mpi4py numpy click msgspec PyYAML rich scipy
	$(VENV)-mpich/bin/python $(PIP) --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-mpich build *.egg-info
