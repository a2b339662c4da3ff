#!/bin/sh
# Fetch one commit into /workspace: `mmfs-checkout [FOLDER]`, with MMFS_REPOSITORY (any git address) and MMFS_REVISION (branch, tag or sha).
set -eu
: "${MMFS_REPOSITORY:?the git address of the repository}" "${MMFS_REVISION:?a branch, tag or sha}"
folder=${1:-/workspace}
git init --quiet "$folder"
git -C "$folder" fetch --quiet --depth 1 "$MMFS_REPOSITORY" "$MMFS_REVISION"
git -C "$folder" checkout --quiet --detach FETCH_HEAD
git -C "$folder" log -1 --format='checked out %H'
