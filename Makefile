# `make demo` and `make test` are all a newcomer needs; both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo
SPLITS := train val test
MODES := uniform grounding oracle

.PHONY: setup demo test test-slow check format clean

setup: $(STAMP)

# --no-compile: byte code is written when a module is first imported, not for all of them at once.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[dev]"
	touch $@

# Every stage keeps what it finds finished, so an interrupted demo goes on where it was.
demo: setup
	$(BIN)/gcg sample-data $(DEMO)/corpus --videos 220 --questions-per-video 16
	$(BIN)/gcg pack $(SPLITS:%=$(DEMO)/corpus/%.jsonl) $(DEMO)/shards --shard-mb 1
	$(BIN)/gcg label $(SPLITS:%=$(DEMO)/shards/%) --config examples/demo.yaml
	for mode in $(MODES); do \
	  $(BIN)/gcg train examples/demo.yaml --set run.name=$$mode --set model.mode=$$mode || exit $$?; \
	done
	$(BIN)/gcg eval $(MODES:%=$(DEMO)/%) --split test --out $(DEMO)/results.json
	@echo "clips $(DEMO)/corpus, shards $(DEMO)/shards, runs $(MODES:%=$(DEMO)/%)"
	@echo "results $(DEMO)/results.json; curves: $(BIN)/tensorboard --logdir $(DEMO)"

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest -m slow

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
