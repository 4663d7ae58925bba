# Two commands for a newcomer: `make demo` and `make test`. Each sets everything up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test kill fuzz check format lint types arch docs map counts wheel clean
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,docs,geo,sd]'
	touch $@

demo: .venv/.installed  ## the whole method on simulated SAR chips, offline
	$(BIN)/deblora demo --out runs/demo --overwrite

test: .venv/.installed  ## all tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

kill: .venv/.installed  ## commands killed at every file operation, and what came of it; about an hour
	$(BIN)/python scripts/kill.py

fuzz: .venv/.installed  ## damaged and hostile files for every reader, recipe, artifact and adapter; a few minutes
	test -f runs/demo/eval/choice.json || $(BIN)/deblora demo --out runs/demo --overwrite
	$(BIN)/python scripts/fuzz.py --n 5000 --run runs/demo

lint: .venv/.installed
	$(BIN)/ruff check src tests scripts benchmarks examples
	$(BIN)/ruff format --check src tests scripts benchmarks examples

types: .venv/.installed
	$(BIN)/mypy

arch: .venv/.installed
	$(BIN)/lint-imports

map:  ## every module with what it is for
	$(PYTHON) scripts/house.py

counts:  ## modules, lines, tests beside their modules
	$(PYTHON) scripts/house.py --counts

docs: .venv/.installed  ## the site in site/, strict: a dead link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

wheel: .venv/.installed  ## wheel and sdist in dist/, tried in an empty environment
	rm -rf dist && $(BIN)/python -m build
	$(PYTHON) -m venv --clear build/empty
	build/empty/bin/python -m pip install -q -c constraints.txt dist/*.whl
	cd build/empty && env -u PYTHONPATH HF_HUB_OFFLINE=1 bin/deblora demo --out demo --quiet

check: lint types arch docs test  ## what CI runs

format: .venv/.installed
	$(BIN)/ruff format src tests scripts benchmarks examples
	$(BIN)/ruff check --fix src tests scripts benchmarks examples

clean:
	rm -rf .venv runs build dist
