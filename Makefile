# Two commands: `make demo` segments a photo, `make test` checks everything. `make help` lists the rest.

PYTHON ?= python3
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

DEMO := .venv/bin
DEV := .venv-dev/bin
PIP := -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find src/anymask -name '*.py' -o -path '*/assets/*' -type f)
PHOTO := examples/photo.jpg
CLICK := 300,140

BENCHES := cold_start.py nano_speed.py automatic_speed.py+$(PHOTO) contact_sheet.py+--out+demo/clicks.png verdicts.py \
	decoder.py encoder.py families.py automatic.py eval_memory.py auto_kill.py
BENCHES_ON_DATA := click_table.py automatic_quality.py edges_sanity.py
BENCHES_ON_TRAIN := pseudo_labels.py ablation.py+weights/nano_v1.safetensors+weights/nano_v2.safetensors

define bench_on
@for words in $(1); do words=$${words//+/ }; if test -n "$($(2))"; then echo "== benchmarks/$$words"; $(DEV)/python benchmarks/$$words --data "$($(2))"; else echo "== benchmarks/$$words: left out, give $(2)=folder"; fi; done
endef

define NO_REGISTRY
echo "anymask: the packages it needs could not be installed (see the lines above)." >&2; \
echo "  Is this machine offline? Set-up needs a package index once; afterwards everything works offline." >&2; \
echo "  With the packages in a folder: PIP_NO_INDEX=1 PIP_FIND_LINKS=/that/folder make $(or $(MAKECMDGOALS),demo)" >&2; exit 1
endef

define CHECK_PYTHON
@command -v $(PYTHON) >/dev/null || { echo "anymask: $(PYTHON) was not found; try: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "anymask: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
endef

.PHONY: help demo test lint format bench docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.installed ## install without torch, segment the example photo with one click, say where the picture is
	@echo "anymask segment $(PHOTO) --point $(CLICK) --out demo"
	@$(DEMO)/anymask segment $(PHOTO) --point $(CLICK) --out demo
	@echo "The picture to look at: demo/photo_overlay.png"

test: lint ## install what the tests need, check style, types and layers, run every test
	$(DEV)/python -m pytest

lint: .venv-dev/.installed ## style, types and layers only
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	$(DEV)/mypy
	$(DEV)/lint-imports

format: .venv-dev/.installed ## put the style right
	$(DEV)/ruff check --fix .
	$(DEV)/ruff format .

bench: .venv-dev/.installed ## run the benchmarks, some hours; DATA and TRAIN: folders of shards, for those that need them
	@for words in $(BENCHES); do words=$${words//+/ }; echo "== benchmarks/$$words"; $(DEV)/python benchmarks/$$words; done
	$(call bench_on,$(BENCHES_ON_DATA),DATA)
	$(call bench_on,$(BENCHES_ON_TRAIN),TRAIN)

docs: .venv-dev/.installed ## print the generated pages anew
	$(DEV)/python -m anymask.limits > docs/limits.md
	$(DEV)/python -m anymask.cli.reference > docs/reference/cli.md

clean: ## remove both environments, caches and results
	rm -rf .venv .venv-dev out demo build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt $(SOURCES)
	$(CHECK_PYTHON)
	@test -x $(DEMO)/python || $(PYTHON) -m venv .venv
	@echo "installing anymask into .venv (once, a minute or so) ..."
	@$(DEMO)/python $(PIP) install -c constraints.txt . || { $(NO_REGISTRY); }
	@touch $@

.venv-dev/.installed: pyproject.toml constraints.txt
	$(CHECK_PYTHON)
	@test -x $(DEV)/python || $(PYTHON) -m venv .venv-dev
	@echo "installing anymask and what its tests need into .venv-dev (once, some minutes) ..."
	@$(DEV)/python $(PIP) install -c constraints.txt -e '.[dev]' || { $(NO_REGISTRY); }
	@touch $@
