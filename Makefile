# `make demo` and `make test` are all a newcomer needs; both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo
SPLITS := train val test
MODES := uniform grounding oracle
JOBS ?= 2
# Of the demo; tests give less of each, and other settings.
DEMO_VIDEOS ?= 220
DEMO_QUESTIONS ?= 12
DEMO_SHARDS ?= 16
DEMO_SETS ?=

.PHONY: setup demo test test-slow test-cluster test-examples bench docs check format clean

setup: $(STAMP)

# Byte code for all packages at once, in parallel: each of Ray's processes would else compile what
# it imports for itself, at every start where the environment forbids writing byte code.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[dev]"
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > $(VENV)/compile.log || true
	touch $@

# Every stage keeps what it finds finished, so an interrupted demo goes on where it was.
demo: setup
	$(BIN)/gcg sample-data $(DEMO)/corpus --videos $(DEMO_VIDEOS) --questions-per-video $(DEMO_QUESTIONS)
	$(BIN)/gcg pack $(SPLITS:%=$(DEMO)/corpus/%.jsonl) $(DEMO)/shards --min-shards $(DEMO_SHARDS)
	$(BIN)/gcg label $(SPLITS:%=$(DEMO)/shards/%) --config examples/demo.yaml
	for mode in $(MODES); do \
	  $(BIN)/gcg train examples/demo.yaml --set run.name=$$mode --set model.mode=$$mode $(DEMO_SETS) || exit $$?; \
	done
	$(BIN)/gcg eval $(MODES:%=$(DEMO)/%) --split test --out $(DEMO)/results.json
	@echo "clips $(DEMO)/corpus, shards $(DEMO)/shards, runs $(MODES:%=$(DEMO)/%)"
	@echo "results $(DEMO)/results.json; curves: $(BIN)/tensorboard --logdir $(DEMO)"

# Two files of tests at a time, each in order in a process of its own.
test: setup
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Submitted to a Ray cluster of three nodes, disturbed, stopped, resumed; some minutes.
test-cluster: setup
	$(BIN)/python -m pytest -s -m slow tests/cluster/test_end_to_end.py

# The scripts of examples/ as they stand, on real clips, and the commands of the pages; some minutes.
test-examples: setup
	$(BIN)/python -m pytest -s -m slow tests/examples/test_scripts.py tests/docs/test_commands_run.py

# Every figure of docs/performance.md, in build/bench; an hour or so on two cores without other work.
bench: setup
	$(BIN)/python -m benchmarks

# The pages as a site, in build/site.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_arrows.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(DEMO)
