# Everything runs in an environment outside the checkout (scripts/bootstrap.py), made when it is first needed.
# ARGS is handed on: make test ARGS='tests/test_config.py -k home'. PYTHON chooses the interpreter.

PYTHON ?= python3
ARGS ?=
IN_VENV := $(PYTHON) -m scripts.bootstrap run

help:
	@echo 'make demo    the real thing in front of you: no account, no key, no root'
	@echo "make test    every test; make test ARGS='-k name' some of them"
	@echo 'make check   formatting, lint, types, architecture'
	@echo 'make bench   benchmarks beside their peers, with a report'
	@echo 'make lab     build tailscaled and the control server of the tests'
	@echo 'make venv    make the Python environment and print where it is'
	@echo 'make clean   remove the environment and the caches of this checkout'

demo:
	@$(IN_VENV) --lab -- python -m tests.demo $(ARGS)

test:
	@$(IN_VENV) --lab -- sh scripts/test $(ARGS)

check:
	@$(IN_VENV) -- sh scripts/check

bench:
	@$(IN_VENV) --lab -- python -m benchmarks $(ARGS)

lab:
	@$(IN_VENV) -- python -m tests.lab.build

venv:
	@$(PYTHON) -m scripts.bootstrap venv

clean:
	@$(PYTHON) -m scripts.bootstrap clean

.PHONY: help demo test check bench lab venv clean
