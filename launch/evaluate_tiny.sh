#!/usr/bin/env bash
# Evaluates the model that ships on 200 held-out sprite clips, and with changed inputs on 64 of them. Writes
# docs/figures/tiny.json and the tables of README and model card. Takes about 12 minutes on 2 CPU cores; rerunning it
# resumes. Arguments are passed on to the first `smcd evaluate`, as in launch/evaluate_tiny.sh --weights DIR.
# MODEL=FOLDER launch/evaluate_tiny.sh evaluates another model and does not change JSON or tables.
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
[[ -f $weights ]] || fail "$model is not a model folder: $weights not found"
read -r hash _ < <(cksum "$weights") # one folder of clips per model
results=$folder/$hash

sampling=(--num_inference_steps 10 --guidance_scale 2 --batch_size 8)
guided=(--model "$model" "${sampling[@]}" --box_guidance_scale 2)
subset=(--count 64 --metrics "grounding,psnr-first" --trackers sprites)

evaluate() {
  local name=$1
  shift
  "$smcd" evaluate --data $folder/records --list $folder/list.json --output "$results/$name" "$@"
}

"$smcd" prepare sprites --output $folder/records --splits test --workers 1 --option test_clips=200 \
  "${TINY_WORLD[@]}"
status=0 # 2: a clip could not be used, or a metric requested by name did not run
evaluate all "${guided[@]}" --make_list 200 --metrics grounding,motion,psnr,psnr-first,ssim,psnr-autoencoder "$@" ||
  status=$?
evaluate first_64 --videos "$results/all/clips" "${subset[@]}"
evaluate guidance_off --model "$model" "${sampling[@]}" "${subset[@]}"
evaluate mirrored_boxes "${guided[@]}" "${subset[@]}" --intervention mirrored_boxes
evaluate swapped_labels "${guided[@]}" "${subset[@]}" --intervention swapped_labels \
  --difference_from "$results/all/clips"
[[ $model != tiny ]] || "$VENV/bin/python" launch/figures.py --collect tiny "$results"
exit "$status"
