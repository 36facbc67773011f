# Every target makes its own environment first: a fresh clone needs nothing but Python >= 3.11 and make.
PY ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
JOBS ?= 2

# What Python compiles is kept: the suite starts many interpreters, and each would compile torch again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check docs audit lock

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -x $(RUN) || $(PY) -m venv $(VENV)
	$(RUN) -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[test,docs]"
	@touch $@

demo: $(VENV)/.ready ## train, sample, evaluate and draw on embedded data: out/demo/index.html
	$(RUN) -m apps demo

test: $(VENV)/.ready ## the fast suite (add ARGS=--slow for all of it)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(JOBS) --dist loadfile $(ARGS)

check: $(VENV)/.ready ## ruff (laws and form) and pyright
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

docs: $(VENV)/.ready ## the pages of docs/ as a site: out/docs/index.html
	$(RUN) -m mkdocs build --quiet --strict

audit: ## what public advisories say of the pinned versions (asks pypi.org; informs, never fails)
	@test -x $(VENV)-audit/bin/pip-audit || ($(PY) -m venv $(VENV)-audit && $(VENV)-audit/bin/python -m pip install --quiet pip-audit)
	-$(VENV)-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

lock: ## write constraints.txt from a fresh environment
	rm -rf $(VENV)-lock && $(PY) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --no-compile "torch==$$(sed -n 's/^torch==//p' constraints.txt)" -e ".[test,docs]"
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	rm -rf $(VENV)-lock
