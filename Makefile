# make quickstart   from a fresh clone to an MPO-trained tiny model, on a CPU
# make test         the whole test suite
# make units        of it what needs no other processes, Slurm or browser: a third of the time
# make clients      lmdeploy, vLLM, VLMEvalKit in environments of their own, and our checkpoints in them
# make gpu          on a machine with a GPU: what docs/gpu.md says has to be shown there
# make screenshots  the pictures of the pages in docs/images, by the tests that measure these pages in Chromium
# make docs         the documentation as a site, in work_dirs/site
# make checks       lint, types, import of every module
# The newest Python here of those that the pins are made for.
PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(if $(shell $(name) -c "import sys; print(sys.version_info >= (3, 11) or str())" 2>/dev/null),$(name))) python3.11)
VENV := .venv
BIN := $(VENV)/bin
CLIENTS ?= $(CURDIR)/work_dirs/clients

.PHONY: install quickstart test units clients gpu screenshots docs checks
install: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-run.txt requirements-docs.txt pyproject.toml
	command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: name a Python of at least 3.11, make PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

quickstart: install
	PYTHON=$(BIN)/python bash shell/quickstart.sh

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(if $(MARK),-m "$(MARK)")

units: MARK := not integration
units: test

clients: install
	PYTHON="$(CURDIR)/$(BIN)/python" bash tests/clients/install.sh "$(CLIENTS)"
	CLIENTS="$(CLIENTS)" $(BIN)/python -m pytest tests/clients

gpu: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu -rs
	$(BIN)/python benchmarks/bench_gpu.py
	$(BIN)/python benchmarks/bench_training.py --device cuda --size 2B
	$(BIN)/python benchmarks/bench_training.py --device cuda --size 8B --dtype bfloat16 --forms ours_cached_reference

screenshots: install
	SCREENSHOTS=1 $(BIN)/python -m pytest -m integration -k chromium tests/tools/test_report.py tests/tools/test_demo.py \
		tests/tools/test_view_pairs.py tests/tools/test_validate_parts.py tests/tools/critic_benchmark/test_page.py tests/docs/test_site.py

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "$(CURDIR)/work_dirs/site/index.html"

checks: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py
