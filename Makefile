# Every target sets itself up. VENV names the virtual environment, TORCH the build to install first:
# plain `torch` would fetch CUDA libraries of several gigabytes where a CPU build was wanted.
VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

# Where the service lives; DESTDIR is for packagers.
PREFIX ?= /opt/bros
UNITS ?= /etc/systemd/system

.PHONY: help install dev fmt check test test-fast docs dist demo install-service uninstall-service \
	clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## the programs, in .venv

dev: $(VENV)/.installed-dev .types/bros ## the same, with all that tests and checks need

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# Type checkers know no package whose parts lie apart, so they get one put together from links.
.types/bros: Makefile
	mkdir -p $@
	ln -sfn $(addprefix ../../,src/bros/__init__.py src/bros/py.typed brosd cli kv workers) $@
	touch $@

fmt: dev ## format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: dev ## formatting, lint, types, and the links of the documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MKDOCS)

test: check ## check, then all tests: what CI runs
	$(BIN)/python -m pytest -n 2

test-fast: dev ## the tests that take seconds
	$(BIN)/python -m pytest -n 2 -m "not slow"

docs: dev ## the documentation as a web site, in build/site
	$(MKDOCS)

dist: dev ## what is uploaded for a release, in dist
	rm -rf dist
	$(BIN)/python -m build --outdir dist

demo: install ## a batch and a chat at the same time
	$(BIN)/python examples/demo.py

install-service: ## the systemd service, as root (systemd/README.md)
	@case "$$($(PYTHON) -c 'import sys; print(sys.base_prefix)')" in /home/*|/root/*) \
		echo "error: the service cannot see $(PYTHON), which is in somebody's home:" \
			"choose another, as PYTHON=/usr/bin/python3" >&2; exit 1;; esac
	rm -rf build/lib build/bdist.*  # modules of an older build would be installed too
	$(PYTHON) -m venv $(DESTDIR)$(PREFIX)
	$(DESTDIR)$(PREFIX)/bin/python -m pip install --quiet $(TORCH)
	$(DESTDIR)$(PREFIX)/bin/python -m pip install --quiet .
	install -d $(DESTDIR)$(UNITS) $(DESTDIR)/etc/bros
	sed 's|/opt/bros|$(PREFIX)|' systemd/brosd.service >$(DESTDIR)$(UNITS)/brosd.service
	chmod 644 $(DESTDIR)$(UNITS)/brosd.service
	if [ -z "$(DESTDIR)" ]; then systemctl daemon-reload; fi

uninstall-service: ## remove the service; its jobs and models stay
	if [ -z "$(DESTDIR)" ]; then systemctl disable --now brosd; fi
	rm -rf $(DESTDIR)$(PREFIX) $(DESTDIR)$(UNITS)/brosd.service
	rmdir $(DESTDIR)/etc/bros 2>/dev/null || true
	if [ -z "$(DESTDIR)" ]; then systemctl daemon-reload; fi

clean: ## remove all that make has made here
	rm -rf $(VENV) .types .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis
