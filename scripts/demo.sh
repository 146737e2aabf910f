#!/bin/sh
# Makes the environment, installs weightkit and shows a small recovery.
. "$(dirname "$0")/environment.sh"
install ""
clone=$(pwd)
cd "$came_from"
exec "$clone/.venv/bin/weightkit" demo
