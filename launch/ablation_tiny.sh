#!/usr/bin/env bash
# The paper's ablation at small scale: six variants, two seeds, the same number of frames each; then a table.
# Takes hours on 2 cores, after launch/train_tiny.sh. Stopped at any moment, the same command goes on from there.
# Arguments go to every `smcd train`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package data
install_package eval
cd "$ROOT"
smcd=$VENV/bin/smcd
runs=runs/ablation
[[ -f runs/tiny/object/model/model.json ]] || fail "run launch/train_tiny.sh first: the variants start from its stage 1"

for seed in 0 1; do
  for variant in zc_gca zc gca joint object image; do
    folder=$runs/${variant}_$seed
    figures=$runs/figures/${variant}_$seed.json
    [[ -f $figures ]] && continue
    launch/train_again.sh --config "configs/tiny/ablation.py:$variant" --workdir "$folder" "--config.seed=$seed" "$@"
    "$smcd" export --workdir "$folder" --output "$folder/model" --overwrite
    boxes=()
    [[ $variant == image ]] && boxes=(--no_boxes)  # it never saw any
    "$VENV/bin/python" launch/tiny_figures.py --model "$folder/model" --clips 64 --extra_clips 16 "${boxes[@]}" \
      --output "$figures"
  done
done
"$VENV/bin/python" launch/ablation_table.py "$runs/figures"
