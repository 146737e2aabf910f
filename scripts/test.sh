#!/bin/sh
# Makes the environment, installs weightkit with what the tests need, checks style and types, runs every test.
# Two processes share the tests, a file at a time. Words after it go to pytest: sh scripts/test.sh -m "not slow" -n 4
. "$(dirname "$0")/environment.sh"
install "[test,lint,docs]"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
