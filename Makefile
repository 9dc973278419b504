# The same scripts serve people and CI. Everything is set up on the way: `make run` on a fresh machine is enough.
SHELL = /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup run doctor test test-vllm lint format bench clean audit
export DEMO MODEL PORT PYTHON

help:
	@echo "make run [MODEL=name-or-path] [PORT=6006]     set up what is missing, then serve the chat and the APIs"
	@echo "make run DEMO=1                              a clean page for an audience, with locked settings"
	@echo "make doctor                                  what stands in the way, and the cure for it"
	@echo "make test                                    set up, then every check and test"
	@echo "make test-vllm                               exported checkpoints in a real vLLM (installs 3.5 GB apart)"
	@echo "make setup [PYTHON=/path/to/python]          only set up .venv"
	@echo "make audit                                   ask PyPI for known faults of what is installed (needs a network)"
	@echo "make lint | format | bench [ARGS=...] | clean"

setup:
	@scripts/setup

run:
	@scripts/run

doctor:
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m bluelm.doctor; else python3 -m bluelm.doctor; fi

test:
	@scripts/test

test-vllm:
	@scripts/test-vllm

lint:
	@scripts/check

format:
	@scripts/format

audit:
	@scripts/audit

bench:
	@scripts/setup --dev && .venv/bin/python -m bench.cpu $(ARGS)

clean:
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/output
	@find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
	@echo "Caches removed. The packages in .venv stay; for a set-up from scratch remove that folder too."
