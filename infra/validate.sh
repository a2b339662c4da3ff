#!/usr/bin/env bash
# Build each overlay and check every object strictly against the Kubernetes schemas. The same on a laptop and in CI: `make lint` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

if command -v kubectl >/dev/null; then
    build=(kubectl kustomize)
elif command -v kustomize >/dev/null; then
    build=(kustomize build)
else
    echo "infra: overlays are not built here, neither kubectl nor kustomize is installed; checking the files as written" >&2
    for file in $(find infra/k8s -name '*.yaml' ! -name kustomization.yaml); do
        "$(dirname "$python")/kubernetes-validate" --strict --quiet "$file"
    done
    exit 0
fi
built=$(mktemp)
trap 'rm -f "$built"' EXIT
for overlay in infra/k8s/overlays/*; do
    "${build[@]}" "$overlay" >"$built"
    "$(dirname "$python")/kubernetes-validate" --strict --quiet "$built"
    echo "infra: $overlay is valid, $(grep -c '^kind:' "$built") objects"
done
