# make demo: set up, then run the whole pipeline on the built-in data set.   make test: set up, then run the tests.
PYTHON ?= python3
BIN := .venv/bin
# dvc calls `bmnas`, and bmnas may call `ffmpeg`: the environment's own come first.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo test setup check docs manual kill lock gpu

demo: setup
	$(RUN) dvc repro
	@$(RUN) bmnas report

test: setup
	$(RUN) pytest -n 2

check: setup manual
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages that are made from the code; tests hold them to it.
docs: setup
	$(RUN) bmnas params schema > docs/params.schema.json
	$(RUN) bmnas params table > docs/params.md
	$(RUN) python -m pipeline.cli.reference > docs/commands.md

# The pages as a site, in site/. Whatever leads nowhere is an error.
manual: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@echo "installing some 7 GB into .venv, which takes minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Needs a finished work/ (make demo). SIGKILLs the stages half way, three times each, and compares the caches.
kill: setup
	$(RUN) python -m tests.soak.kill_stages

# Every package that bmnas was tested with, by the hashes of its files. Installed with --no-deps: facenet-pytorch's own pins
# on torch, numpy and pillow are outdated; its code runs. Needs network and `pip install uv`.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --override requirements-overrides.txt \
		--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --output-file requirements.lock

# What holds and how fast it is on a GPU, in eight minutes (docs/gpu.md); on a machine without one a dry run, in small.
gpu: setup
	$(RUN) python -m benchmarks.gpu $(ARGS)

bench-%: setup
	$(RUN) python -m benchmarks.$* $(ARGS)

# The long tests: minutes (crash, damage, dvc_versions, fuzz, memory, million, sweep_kill) to hours (fakeavceleb, planted).
# ARGS="--share 0.02": options of the module, of benchmarks, too.
soak-%: setup
	$(RUN) python -m tests.soak.$* $(ARGS)
