#!/usr/bin/env bash
# Animates an example with `small`, a model of 64 x 64 pixels that makes a video in 4 steps. The first run creates .venv and installs the project there.
# Arguments are passed on to `smcd animate`, as in launch/demo.sh --seed 7
# With --studio as the first argument it opens the studio instead and passes further arguments to `smcd studio`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
if [[ ${1:-} == --studio ]]; then
  install_package studio
  cd "$ROOT"
  exec "$VENV/bin/smcd" studio "${@:2}"
fi
install_package core
cd "$ROOT"
example=smcd_jax/assets/examples/crossing
"$VENV/bin/smcd" animate --model small --image "$example/img.png" --tracks "$example/tracks.json" --output outputs/demo \
  --overwrite "$@"
