# Makes .venv beside setup.cfg and installs weightkit into it; sourced by demo.sh and test.sh.
# Needs Python 3.11 or later: the one in $PYTHON, else the first that is found. A second run installs nothing again.
set -eu
cd "$(dirname "$0")/.."

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.11 or later was found; install one, or name it: PYTHON=/path/to/python sh $0" >&2
    exit 1
}

# install EXTRAS: weightkit, in place, with these extras ("" for none)
install() {
    wanted="$1 $(cksum <setup.cfg) $(cksum <constraints.txt) $(pwd)"
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys' 2>/dev/null; then
        rm -rf .venv
        "$(find_python)" -m venv .venv
    fi
    if ! grep -qxF "$wanted" .venv/weightkit-installed 2>/dev/null; then
        echo "installing weightkit$1 into .venv" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$1" >&2
        echo "$wanted" >>.venv/weightkit-installed
    fi
}
