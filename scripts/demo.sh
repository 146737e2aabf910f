#!/bin/sh
# Makes the environment, installs weightkit and shows a small recovery.
. "$(dirname "$0")/environment.sh"
install ""
exec .venv/bin/weightkit demo
