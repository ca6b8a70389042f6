#!/usr/bin/env bash
# Downloads into .wheels/ the packages that launch/gpu.sh needs besides jax, torch and flax. Run it on a machine with a
# network, and copy the folder together with the repository. The wheels are for Python 3.12 on Linux, x86-64.
# Usage: launch/gpu_wheels.sh [PACKAGE==VERSION ...]     (default: those below)
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
WHEELS=$ROOT/.wheels
MOST_WHEELS=8000000   # bytes
MOST_TRAVELS=60000000 # bytes: what git tracks, golden selection included, and the wheels
PACKAGES=(ml_collections==1.1.0 ftfy==6.3.1 wcwidth==0.2.13 diffusers==0.42.1 importlib_metadata==8.7.0)

fail() {
  printf 'gpu_wheels.sh: %s\n' "$*" >&2
  exit 1
}

(($# == 0)) || PACKAGES=(ml_collections==1.1.0 ftfy==6.3.1 wcwidth==0.2.13 diffusers==0.42.1 importlib_metadata==8.7.0)
rm -rf "$WHEELS"
mkdir -p "$WHEELS"
platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${platform}_x86_64")
done
"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp "${platforms[@]}" --dest "$WHEELS" "${PACKAGES[@]}" || fail "pip could not download the wheels; check the network"

wheels=$(cat "$WHEELS"/*.whl | wc -c)
tracked=$(cd "$ROOT" && git ls-files -z | xargs -0 cat | wc -c)
travels=$((wheels + tracked))
printf '%s\n' "$WHEELS"/*.whl
printf 'wheels %d bytes (at most %d), with the repository %d bytes (at most %d)\n' \
  "$wheels" "$MOST_WHEELS" "$travels" "$MOST_TRAVELS"
((wheels <= MOST_WHEELS)) || fail "the wheels must be at most $MOST_WHEELS bytes, got $wheels"
((travels <= MOST_TRAVELS)) || fail "wheels and repository must be at most $MOST_TRAVELS bytes, got $travels"
