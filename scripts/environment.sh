# Makes .venv beside setup.cfg and installs weightkit into it; sourced by demo.sh and test.sh.
# Needs Python 3.11 to 3.14: the one in $PYTHON, else the first that is found. A second run installs nothing again.
# torch comes as its CPU build; WEIGHTKIT_TORCH=cuda takes what the registry has instead, CUDA packages and all.
set -eu
came_from=$(pwd)
CDPATH='' cd "$(dirname "$0")/.."

CPU_INDEX=https://download.pytorch.org/whl/cpu

say() {
    echo "$*" >&2
}

stop() {
    say "$*"
    exit 1
}

# fits PYTHON: whether it runs, and is of a version that constraints.txt has packages for
fits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11 python
    fi
    found=
    for candidate; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
        if version=$("$candidate" --version 2>/dev/null); then
            found="$found${found:+, }$candidate is $version"
        fi
    done
    stop "Python 3.11 to 3.14 is needed, and there is ${found:-no $*}:" \
        "install one of them, or name it: PYTHON=/path/to/python3.12 sh $0"
}

pip() {
    .venv/bin/python -m pip --disable-pip-version-check "$@" >&2
}

# works: whether .venv has a Python with pip, and lies where it was made (its programs name that place)
works() {
    .venv/bin/python -c 'import pip' 2>/dev/null || return 1
    [ ! -f .venv/weightkit-place ] || [ "$(cat .venv/weightkit-place)" = "$(pwd -P)" ]
}

make_venv() {
    if works; then
        fits .venv/bin/python || stop ".venv is of $(.venv/bin/python --version), and 3.11 to 3.14 is needed:" \
            "remove it (rm -r .venv), then sh $0"
        return
    fi
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    if ! "$python" -m venv .venv >&2; then
        rm -rf .venv
        stop "$python cannot make .venv: install what it lacks (Debian, Ubuntu: apt install python3-venv), then sh $0"
    fi
    pwd -P >.venv/weightkit-place
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

# torch_is VERSION: whether that torch, of whatever build, is there and loads
torch_is() {
    .venv/bin/python -c 'import sys, torch; sys.exit(torch.__version__.split("+")[0] != sys.argv[1])' "$1" 2>/dev/null
}

# install_torch: torch as constraints.txt pins it, never a build with CUDA that nobody asked for
install_torch() {
    pinned=$(sed -n 's/^torch==//p' constraints.txt)
    if torch_is "$pinned"; then
        return
    fi
    size="about 1 GB with torch's CPU build (200 MB to download)"
    if [ "${WEIGHTKIT_TORCH:-cpu}" = cuda ]; then
        size="about 5.5 GB with torch's CUDA build (3 GB to download)"
        set -- "torch==$pinned"
    elif [ "$(uname -s)" = Darwin ]; then
        size="about 1 GB with torch (100 MB to download)"
        set -- "torch==$pinned"
    elif cpu_build_known "$pinned"; then
        set -- "torch==$pinned+cpu"
    elif index_answers; then
        set -- --extra-index-url "$CPU_INDEX" "torch==$pinned+cpu"
    else
        stop "torch's CPU build cannot be had here ($CPU_INDEX does not answer), and its CUDA build takes 5.5 GB:" \
            "either let pip find a CPU build, PIP_EXTRA_INDEX_URL=<mirror of that index> sh $0," \
            "or take the CUDA build, WEIGHTKIT_TORCH=cuda sh $0"
    fi
    say "installing weightkit into .venv: $size"
    say "step 1 of 2: torch $pinned (to unpack it takes a minute)"
    pip install -c constraints.txt "$@"
}

# refuse_what_cannot_work: machines and wishes that end in an error of pip's otherwise
refuse_what_cannot_work() {
    case "${WEIGHTKIT_TORCH:-cpu}" in
    cpu | cuda) ;;
    *) stop "WEIGHTKIT_TORCH is $WEIGHTKIT_TORCH: say cpu, which is the default, or cuda" ;;
    esac
    case "$(uname -s) $(uname -m)" in
    MINGW* | MSYS* | CYGWIN*) stop "weightkit needs Linux or macOS: on Windows, run this in WSL" ;;
    "Darwin x86_64") stop "PyTorch has no build for Intel Macs after 2.2. With Python 3.11 or 3.12:" \
        "python3.12 -m venv .venv && .venv/bin/pip install -e '.[old-torch]'" ;;
    esac
}

# install EXTRAS: weightkit, in place, with these extras ("" for none)
install() {
    refuse_what_cannot_work
    make_venv
    wanted="$1 $(cksum <setup.cfg) $(cksum <constraints.txt) $(pwd)"
    if ! grep -qxF "$wanted" .venv/weightkit-installed 2>/dev/null; then
        install_torch
        say "step 2 of 2: weightkit$1 and what else it needs"
        pip install -c constraints.txt -e ".$1"
        echo "$wanted" >>.venv/weightkit-installed
        if [ "$came_from" = "$(pwd)" ]; then activate=.venv/bin/activate; else activate="'$(pwd)/.venv/bin/activate'"; fi
        say "weightkit is in .venv; to use it in this shell: . $activate"
    fi
}
