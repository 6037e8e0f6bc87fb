# Every target sets itself up. VENV names the virtual environment, TORCH the build to install first:
# plain `torch` would fetch CUDA libraries of several gigabytes where a CPU build was wanted.
VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin

# Where the service lives; DESTDIR is for packagers.
PREFIX ?= /opt/bros
UNITS ?= /etc/systemd/system

.PHONY: install dev check test demo clean install-service uninstall-service

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

demo: install
	$(BIN)/python examples/demo.py

install-service:
	@case "$$($(PYTHON) -c 'import sys; print(sys.base_prefix)')" in /home/*|/root/*) \
		echo "error: the service cannot see $(PYTHON), which is in somebody's home:" \
			"choose another, as PYTHON=/usr/bin/python3" >&2; exit 1;; esac
	$(PYTHON) -m venv $(DESTDIR)$(PREFIX)
	$(DESTDIR)$(PREFIX)/bin/python -m pip install --quiet $(TORCH)
	$(DESTDIR)$(PREFIX)/bin/python -m pip install --quiet .
	install -d $(DESTDIR)$(UNITS) $(DESTDIR)/etc/bros
	sed 's|/opt/bros|$(PREFIX)|' systemd/brosd.service >$(DESTDIR)$(UNITS)/brosd.service
	chmod 644 $(DESTDIR)$(UNITS)/brosd.service
	if [ -z "$(DESTDIR)" ]; then systemctl daemon-reload; fi

uninstall-service:
	if [ -z "$(DESTDIR)" ]; then systemctl disable --now brosd; fi
	rm -rf $(DESTDIR)$(PREFIX) $(DESTDIR)$(UNITS)/brosd.service
	rmdir $(DESTDIR)/etc/bros 2>/dev/null || true
	if [ -z "$(DESTDIR)" ]; then systemctl daemon-reload; fi

clean:
	rm -rf $(VENV) .demo build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
