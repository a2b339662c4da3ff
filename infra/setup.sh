#!/usr/bin/env bash
# Create the one environment: infra/setup.sh VENV. Run by `make setup`; does nothing when requirements.lock is as installed.
set -euo pipefail

venv=$1
python=${PYTHON:-python3}

fail() {
    echo "setup: $1" >&2
    exit 1
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "Linux on x86-64 is needed, this is $(uname -s) on $(uname -m); use infra/docker elsewhere"
command -v git >/dev/null || fail "git is missing; install it, for example: apt-get install git"
git rev-parse HEAD >/dev/null 2>&1 || fail "this folder is no git clone with a commit, and runs are recorded by commit; use git clone"
command -v "$python" >/dev/null || fail "$python is missing; install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, $python is $("$python" -V 2>&1); name another one: make setup PYTHON=python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python cannot make virtual environments; install that, for example: apt-get install python3-venv"

packages=$("$python" -V; pwd; cat requirements.lock infra/install.sh)
packages=$(sha256sum <<<"$packages")
project=$(sha256sum <pyproject.toml)
if [ "$(cat "$venv/packages.stamp" 2>/dev/null)" != "$packages" ]; then
    echo "setup: installing the pinned packages into $venv (2 to 4 minutes, once)"
    "$python" -m venv --clear "$venv"
    infra/install.sh "$venv"
    echo "$packages" >"$venv/packages.stamp"
fi
if [ "$(cat "$venv/project.stamp" 2>/dev/null)" != "$project" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    "$venv/bin/python" -m pip check || fail "pyproject.toml and requirements.lock contradict each other, see above"
    echo "$project" >"$venv/project.stamp"
fi
