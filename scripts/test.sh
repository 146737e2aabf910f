#!/bin/sh
# Makes the environment, installs weightkit with what the tests need, checks style and types, runs every test.
# Words after it go to pytest: sh scripts/test.sh -m "not slow"
. "$(dirname "$0")/environment.sh"
install "[test,lint,docs]"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest "$@"
