#!/usr/bin/env bash
# Measures sampling on a machine with a GPU in at most 9 minutes: launch/gpu.sh --run A --output DIR
# Measures training at full size and settings of the sampler in at most 9 minutes: launch/gpu.sh --run B --output DIR
# Trains and evaluates the small model of 128 x 128 pixels in at most 9 minutes: launch/gpu.sh --run C --output DIR
# Rehearsal without a GPU: launch/gpu.sh --run A --device cpu --preset tiny --output DIR
# Uses the Python in $PYTHON (default: python3), which needs jax and flax. Wheels in .wheels/ are installed into a
# temporary folder; launch/gpu_wheels.sh downloads them on a machine with a network.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
SITE=

if compgen -G "$ROOT/.wheels/*.whl" >/dev/null; then
  SITE=$(mktemp -d)
  trap 'rm -rf "$SITE"' EXIT
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$SITE" \
    "$ROOT"/.wheels/*.whl || echo "gpu.sh: the wheels in .wheels could not be installed; continuing without them" >&2
fi
PYTHONPATH=$SITE${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" "$ROOT/launch/gpu/run.py" "$@"
