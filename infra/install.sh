#!/usr/bin/env bash
# Install the pinned packages into an existing virtual environment: infra/install.sh VENV. Used by infra/setup.sh and by the images.
set -euo pipefail

venv=$1
log="$venv/install.log"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# $1: what is installed, $2: of how many packages, rest: arguments of pip install
install() {
    local what=$1 count=$2 terminal=0
    shift 2
    [ -t 1 ] && terminal=1
    "$venv/bin/python" -m pip install --no-compile "$@" 2>&1 | tee -a "$log" |
        awk -v what="$what" -v count="$count" -v terminal="$terminal" '
            terminal && /^Collecting/ && ++n <= count { printf "\rsetup: %s, %d of %d", what, n, count; fflush() }
            END { printf "%ssetup: %s, %d of %d\n", terminal ? "\r" : "", what, count, count }' || {
        tail -n 15 "$log" >&2
        echo "setup: pip could not install $what; the whole log is $log, and the same command starts over" >&2
        exit 1
    }
}

grep -E '^(setuptools|wheel)==' requirements.lock >"$venv/build.txt"
grep -E '^[A-Za-z]' requirements.lock | grep -v -E '^(deepspeed|triton)==' >"$venv/packages.txt"
grep -E '^torch==' requirements.lock >"$venv/torch.txt"
grep -E '^deepspeed==' requirements.lock >"$venv/deepspeed.txt"
grep -E '^triton==' requirements.lock >"$venv/triton.txt"
install "build tools" 2 --no-deps -r "$venv/build.txt"
install "pinned packages" "$(wc -l <"$venv/packages.txt")" --no-deps --no-build-isolation -r "$venv/packages.txt"
# Only torch's own dependencies are resolved: from PyPI they include the CUDA libraries, and which ones is torch's business.
install "what torch brings" 1 -c "$venv/packages.txt" -r "$venv/torch.txt"
# Of its builds, the one for CUDA brings the Triton that it was made with.
"$venv/bin/python" -c 'from importlib.util import find_spec; raise SystemExit(find_spec("triton") is None)' ||
    install "Triton" 1 --no-deps -r "$venv/triton.txt"
DS_BUILD_OPS=0 DS_ACCELERATOR=cpu install "DeepSpeed without compiled operators" 1 --no-deps --no-build-isolation -r "$venv/deepspeed.txt"
echo "setup: compiling to bytecode"
# Neither tests nor the hundreds of architectures of which a few are imported. Some packages ship files of other Python versions.
never='/(tests?|testing|pip)/|/transformers/models/|/diffusers/pipelines/|/torch/_inductor/'
"$venv/bin/python" -m compileall -q -j 0 -x "$never" "$venv/lib" >>"$log" 2>&1 || true
