# Makes .venv beside setup.cfg and installs weightkit into it; sourced by demo.sh and test.sh.
# Needs Python 3.11 or later: the one in $PYTHON, else the first that is found. A second run installs nothing again.
# torch comes as its CPU build; WEIGHTKIT_TORCH=cuda takes what the registry has instead, CUDA packages and all.
set -eu
cd "$(dirname "$0")/.."

CPU_INDEX=https://download.pytorch.org/whl/cpu

say() {
    echo "$*" >&2
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "no Python 3.11 or later was found; install one, or name it: PYTHON=/path/to/python sh $0"
    exit 1
}

pip() {
    .venv/bin/python -m pip --disable-pip-version-check "$@" >&2
}

# index_answers: whether PyTorch's CPU index does, within eight seconds
index_answers() {
    .venv/bin/python - "$CPU_INDEX/torch/" <<'END'
import os, sys, threading, urllib.request
def ask():
    try:
        urllib.request.urlopen(sys.argv[1], timeout=5).close()
    except Exception:
        os._exit(1)
    os._exit(0)
threading.Thread(target=ask, daemon=True).start()
threading.Event().wait(8)
os._exit(1)
END
}

# cpu_build_known VERSION: whether pip, as it is configured here, knows a CPU build of it
cpu_build_known() {
    .venv/bin/python -m pip --disable-pip-version-check index versions torch 2>/dev/null | grep -qF "$1+cpu"
}

# install_torch: torch as constraints.txt pins it, never a build with CUDA that nobody asked for
install_torch() {
    pinned=$(sed -n 's/^torch==//p' constraints.txt)
    if .venv/bin/python -c 'import torch' 2>/dev/null; then
        return
    fi
    if [ "${WEIGHTKIT_TORCH:-cpu}" = cuda ]; then
        say "installing weightkit into .venv: about 5.5 GB with torch's CUDA build (3 GB to download)"
        set -- "torch==$pinned"
    elif [ "$(uname -s)" = Darwin ]; then
        say "installing weightkit into .venv: about 1 GB with torch (100 MB to download)"
        set -- "torch==$pinned"
    elif cpu_build_known "$pinned"; then
        say "installing weightkit into .venv: about 1 GB with torch's CPU build (200 MB to download)"
        set -- "torch==$pinned+cpu"
    elif index_answers; then
        say "installing weightkit into .venv: about 1 GB with torch's CPU build (200 MB to download)"
        set -- --extra-index-url "$CPU_INDEX" "torch==$pinned+cpu"
    else
        say "torch's CPU build cannot be had here ($CPU_INDEX does not answer), and its CUDA build takes 5.5 GB:" \
            "either let pip find a CPU build, PIP_EXTRA_INDEX_URL=<mirror of that index> sh $0," \
            "or take the CUDA build, WEIGHTKIT_TORCH=cuda sh $0"
        exit 1
    fi
    say "step 1 of 2: torch $pinned (to unpack it takes a minute)"
    pip install -c constraints.txt "$@"
}

# install EXTRAS: weightkit, in place, with these extras ("" for none)
install() {
    wanted="$1 $(cksum <setup.cfg) $(cksum <constraints.txt) $(pwd)"
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys' 2>/dev/null; then
        rm -rf .venv
        python=$(find_python)
        say "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    if ! grep -qxF "$wanted" .venv/weightkit-installed 2>/dev/null; then
        install_torch
        say "step 2 of 2: weightkit$1 and what else it needs"
        pip install -c constraints.txt -e ".$1"
        echo "$wanted" >>.venv/weightkit-installed
        say "weightkit is in .venv; to use it in this shell: . .venv/bin/activate"
    fi
}
