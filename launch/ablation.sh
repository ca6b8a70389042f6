#!/usr/bin/env bash
# The paper's ablation at small scale, with the same number of frames for every variant:
#   bash launch/ablation.sh tiny    32 x 32, boxes and picture, six variants, two seeds; after launch/train_tiny.sh
#   bash launch/ablation.sh small   64 x 64, ways to the picture, six variants, one seed; after launch/train_small.sh
# Writes docs/figures/ablation_SIZE.json and the table of docs/ablation.md. Takes hours on 2 CPU cores; rerunning it
# resumes. Other arguments are passed on to every `smcd train`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

size=${1:-}
case $size in
  tiny) start=runs/tiny/object/model seeds=(0 1) variants=(zc_gca zc gca joint object image) ;;
  small) start=runs/small_64/object/model seeds=(0) variants=(zc_gca zc controlnet gca object image) ;;
  *) fail "the first argument must be tiny or small, got '$size'" ;;
esac
shift
make_venv
install_package data
install_package eval
cd "$ROOT"
smcd=$VENV/bin/smcd
runs=runs/ablation_$size
results=$runs/evaluations
[[ -f $start/model.json ]] || fail "$start not found; run launch/train_$size.sh first, whose stage 1 the variants start from"

# train VARIANT SEED FOLDER FLAGS... trains and exports a variant
train() {
  local variant=$1 seed=$2 folder=$3
  shift 3
  [[ -f $folder/model/model.json ]] && return
  launch/train_again.sh --config "configs/$size/ablation.py:$variant" --workdir "$folder" "--config.seed=$seed" "$@"
  "$smcd" export --workdir "$folder" --output "$folder/model" --overwrite
}

# evaluate NAME MODEL FLAGS...
evaluate() {
  local name=$1 model=$2
  shift 2
  "$smcd" evaluate "${clips[@]}" --output "$results/$name" --model "$model" --num_inference_steps 10 \
    --guidance_scale 2 --batch_size 8 --metrics grounding,psnr-first --trackers sprites "$@"
}

if [[ $size == tiny ]]; then
  clips=(--data "$runs/records" --list "$runs/list.json" --make_list 64)
  "$smcd" prepare sprites --output "$runs/records" --splits test --workers 1 --option test_clips=64 "${TINY_WORLD[@]}"
else
  clips=(--data runs/small_64/held_out --list runs/small_64/held_out.json --count 48)
  factor=$("$VENV/bin/python" -c 'import json, sys
print(json.load(open(sys.argv[1]))["components"]["autoencoder"]["scaling_factor"])' $start/model.json)
  set -- "--config.model.autoencoder.scaling_factor=$factor" "$@"
  train start 0 "$runs/start" "$@"
fi
for seed in "${seeds[@]}"; do
  for variant in "${variants[@]}"; do
    run=${variant}_$seed
    [[ -f $results/${run}_guidance_off/metrics.json ]] && continue
    train "$variant" "$seed" "$runs/$run" "$@"
    boxes=()
    [[ $variant == image ]] && boxes=(--intervention no_boxes) # this variant is trained without boxes
    evaluate "$run" "$runs/$run/model" --box_guidance_scale 2 "${boxes[@]}"
    evaluate "${run}_guidance_off" "$runs/$run/model" "${boxes[@]}"
  done
done
"$VENV/bin/python" launch/figures.py --collect "ablation_$size" "$results"
