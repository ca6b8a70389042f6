#!/usr/bin/env bash
# The README's table from nothing: 64 held-out sprite clips, a list of them, `smcd evaluate` of the model that ships.
# Stopped at any moment, the same command goes on from there. Arguments go to `smcd evaluate`, such as --weights DIR.
# What lacks its weights is listed under the table. For another model: MODEL=FOLDER launch/evaluate_tiny.sh
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package data
install_package eval
cd "$ROOT"
smcd=$VENV/bin/smcd
folder=outputs/evaluate_tiny
model=${MODEL:-tiny}
weights=$model/checksums.json
[[ $model == tiny ]] && weights=smcd_jax/assets/models/tiny/checksums.json
[[ -f $weights ]] || fail "$model is no model folder: $weights is missing"
read -r hash _ < <(cksum "$weights") # clips of another model are not mixed with these

"$smcd" prepare sprites --output $folder/records --splits test --workers 1 --option test_clips=64 \
  "${TINY_WORLD[@]}"
status=0 # 2: a clip could not be used, or a measure asked for by name did not run; the others are in the table
"$smcd" evaluate --model "$model" --data $folder/records --list $folder/list.json --make_list 64 \
  --output "$folder/$hash" --num_inference_steps 10 --guidance_scale 2 --box_guidance_scale 2 --batch_size 8 "$@" ||
  status=$?
[[ ! -f $folder/$hash/metrics.json ]] || "$VENV/bin/python" launch/evaluation_table.py "$folder/$hash"
exit "$status"
