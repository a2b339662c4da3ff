#!/usr/bin/env bash
# Create the one environment: infra/setup.sh VENV. Run by `make setup`; does nothing when requirements.lock is as installed.
set -euo pipefail

venv=$1
python=${PYTHON:-python3}
log="$venv/setup.log"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

fail() {
    echo "setup: $1" >&2
    exit 1
}

check_machine() {
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "Linux on x86-64 is needed, this is $(uname -s) on $(uname -m); use infra/docker elsewhere"
    command -v git >/dev/null || fail "git is missing; install it, for example: apt-get install git"
    command -v "$python" >/dev/null || fail "$python is missing; install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed, $python is $("$python" -V 2>&1); name another one: make setup PYTHON=python3.11"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv module; install it, for example: apt-get install python3-venv"
    [ -e .git ] || fail "this folder is no git clone, and runs are recorded by commit; use git clone, or git init and commit"
}

# $1: what is being installed, $2: how many packages, rest: arguments of pip install
install() {
    local what=$1 count=$2
    shift 2
    "$venv/bin/python" -m pip install --no-compile "$@" 2>&1 | tee -a "$log" |
        awk -v what="$what" -v count="$count" -v terminal="$([ -t 1 ] && echo 1 || echo 0)" '
            /^(Collecting|Requirement already satisfied|Obtaining|Processing) ?/ { if (++n <= count && terminal) { printf "\rsetup: %s, %d of %d", what, n, count; fflush() } }
            END { printf "%ssetup: %s, %d packages\n", terminal ? "\r" : "", what, count }' ||
        { tail -n 15 "$log" >&2; fail "pip could not install $what; the whole log is $log, and the same command goes on"; }
}

install_packages() {
    echo "setup: installing the pinned packages into $venv (2 to 4 minutes, once)"
    "$python" -m venv --clear "$venv"
    grep -E '^(setuptools|wheel)==' requirements.lock >"$venv/build.txt"
    grep -E '^[A-Za-z]' requirements.lock | grep -v '^deepspeed==' >"$venv/packages.txt"
    grep -E '^torch==' requirements.lock >"$venv/torch.txt"
    grep -E '^deepspeed==' requirements.lock >"$venv/deepspeed.txt"
    install "build tools" 2 --no-deps -r "$venv/build.txt"
    install "libraries" "$(wc -l <"$venv/packages.txt")" --no-deps --no-build-isolation -r "$venv/packages.txt"
    # Torch's own dependencies are resolved: on the default index they are the CUDA libraries, and which ones is torch's business.
    install "what torch needs" 1 -c "$venv/packages.txt" -r "$venv/torch.txt"
    DS_BUILD_OPS=0 DS_ACCELERATOR=cpu install "DeepSpeed without compiled operators" 1 --no-deps --no-build-isolation -r "$venv/deepspeed.txt"
    echo "setup: compiling to bytecode"
    "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >>"$log" 2>&1 || true # some packages ship files of other Python versions
}

check_machine
packages=$("$python" -V; pwd; cat requirements.lock "$0")
packages=$(sha256sum <<<"$packages")
project=$(sha256sum pyproject.toml)
if [ "$(cat "$venv/packages.stamp" 2>/dev/null)" != "$packages" ]; then
    install_packages
    echo "$packages" >"$venv/packages.stamp"
fi
if [ "$(cat "$venv/project.stamp" 2>/dev/null)" != "$project" ]; then
    install "mmfs itself" 1 --no-deps --no-build-isolation -e .
    "$venv/bin/python" -m pip check >>"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "the installed packages contradict each other; see $log"; }
    echo "$project" >"$venv/project.stamp"
fi
