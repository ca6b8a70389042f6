#!/usr/bin/env bash
# Trains the small model that ships with the package from scratch: sprites, autoencoder, base, and both stages of SMCD.
# Takes about 90 minutes on 2 CPU cores. Rerunning the command resumes it. Arguments are passed on to every `smcd train`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package data
cd "$ROOT"
smcd=$VENV/bin/smcd
runs=runs/tiny

# stage NAME CONFIG OPTIONS...: trains until finished and writes NAME/model.
stage() {
  local name=$1 config=$2
  shift 2
  [[ -f $runs/$name/model/model.json ]] && return
  launch/train_again.sh --config "$config" --workdir "$runs/$name" "$@"
  "$smcd" export --workdir "$runs/$name" --output "$runs/$name/model" --license Apache-2.0
}

"$smcd" prepare sprites --output $runs/records --option train_clips=6000 --option val_clips=200 \
  --option test_clips=400 "${TINY_WORLD[@]}"
stage autoencoder configs/tiny/autoencoder.py "$@"
"$smcd" prepare --features $runs/autoencoder/model --output $runs/records --splits train,val
stage base_pictures configs/tiny/base.py:pictures "$@"
stage base_clips configs/tiny/base.py:clips "$@"
stage object configs/tiny/stage1_object.py "$@"
stage scene configs/tiny/stage2_scene.py "$@"
[[ -f $runs/model/model.json ]] ||
  "$smcd" export --workdir $runs/scene --output $runs/model --dtype bfloat16 --license Apache-2.0
echo "The model is $ROOT/$runs/model"
