#!/usr/bin/env bash
# Trains the small model within a given time: sprites, autoencoder, SMCD, distillation to 4 steps, evaluation.
#   bash launch/train_small.sh --minutes 200             64 x 64, from the shipped model tiny, for 2 CPU cores
#   bash launch/train_small.sh --minutes 30 --size 128   128 x 128, from scratch with base and both stages, for a GPU
# Rerunning the command resumes it. The first run creates .venv and installs the project there; with PYTHON set to a
# Python that has jax and flax, for example on a machine without a network, the script uses that Python unchanged.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

python=${PYTHON:-}
if [[ -z $python ]]; then
  make_venv
  install_package data
  install_package eval
  python=$VENV/bin/python
fi
exec env PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$python" "$ROOT/launch/train_small.py" "$@"
