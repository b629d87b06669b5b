# titans_mini: two commands do all the set-up.  `make lab` to learn, `make test` to check everything.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8888
JOBS   ?= 2
ONLY   ?=
ARGS   ?=

BIN := $(VENV)/bin
# What is installed: the notebooks' needs, and the test tools on top of them.
NOTEBOOKS := $(VENV)/.notebooks
TESTS     := $(VENV)/.tests
# Jupyter looks for kernels in your home first; this makes it look in our own environment first.
export JUPYTER_PREFER_ENV_PATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

FAST := tests/memory tests/models tests/test_minimal.py tests/test_source.py

.DEFAULT_GOAL := help
.PHONY: help install lab test test-fast test-long notebooks results stamp lint clean distclean

help:
	@echo "titans_mini: learning to memorize at test time"
	@echo
	@echo "  make lab        open your copy of the course in JupyterLab, at 00     PORT=$(PORT)"
	@echo "  make test       run every test: library, notebooks, browser         ARGS='-k gates'"
	@echo "  make test-fast  the library's own tests, without the slow ones"
	@echo "  make test-long  every test, also those that take minutes: runs killed many times, other versions"
	@echo "  make notebooks  run the notebooks again and rewrite their outputs   ONLY=01"
	@echo "  make results    train again what notebook 12 shows; only what is missing  ARGS='--only needle --fresh'"
	@echo "  make stamp      write the address that Colab installs from into the notebooks  REPOSITORY=https://…"
	@echo "  make lint       check the style of code and notebooks"
	@echo "  make clean      remove caches (make distclean: the environment too)"
	@echo
	@echo "The first command you run installs what it needs into $(VENV): a minute or two, about 2 GB."
	@echo "PYTHON=python3.12 chooses the Python that does it; 3.10 is the oldest that will do."

lab: $(NOTEBOOKS)
	@$(BIN)/python tools/lab.py --port $(PORT) $(ARGS)

test: $(TESTS)
	@$(BIN)/python tools/browser.py --install
	TITANS_FAST=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-long: $(TESTS)
	@$(BIN)/python tools/browser.py --install
	TITANS_FAST=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "" $(ARGS)

test-fast: $(TESTS)
	TITANS_FAST=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(FAST) $(ARGS)

notebooks: $(TESTS)
	@$(BIN)/python tools/notebooks.py run --only "$(ONLY)"

results: $(TESTS)
	OMP_NUM_THREADS=1 $(BIN)/python -m titans_mini.train.record --jobs $(JOBS) $(ARGS)

stamp: $(NOTEBOOKS)
	@$(BIN)/python tools/notebooks.py stamp $(if $(filter undefined,$(origin REPOSITORY)),,"$(REPOSITORY)")

lint: $(TESTS)
	$(BIN)/python -m ruff check .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +

distclean: clean
	test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)

install: $(TESTS)

# Debian ships Python without ensurepip unless python3-venv is there; then the pip that is there fills the environment.
$(NOTEBOOKS): pyproject.toml requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "titans_mini needs Python 3.10 or newer; got $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 …"; exit 1; }
	@test ! -e $(VENV) -o -f $(VENV)/pyvenv.cfg || { echo "$(VENV) is there, but is no Python environment"; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
	    echo "creating $(VENV)"; \
	    $(PYTHON) -m venv --clear $(VENV) > /dev/null 2>&1 || \
	    { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip -q --python $(BIN)/python install pip; } > /dev/null 2>&1 || \
	    { echo "could not create $(VENV): this Python has no venv module. On Debian or Ubuntu: apt-get install python3-venv"; \
	      rm -rf $(VENV); exit 1; }; }
	@echo "installing into $(VENV) (the first time: a minute or two, about 2 GB)"
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[notebooks]'
	@touch $@

$(TESTS): $(NOTEBOOKS)
	@echo "installing the test tools into $(VENV)"
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	@touch $@
