#!/usr/bin/env bash
# The paper's ablation at small scale: six variants, two seeds, the same number of frames each. Writes
# docs/figures/ablation.json and the table of docs/ablation.md. Run launch/train_tiny.sh first.
# Takes hours on 2 CPU cores; rerunning it resumes. Arguments are passed on to every `smcd train`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package data
install_package eval
cd "$ROOT"
smcd=$VENV/bin/smcd
runs=runs/ablation
results=$runs/evaluations
[[ -f runs/tiny/object/model/model.json ]] || fail "runs/tiny/object/model not found; run launch/train_tiny.sh first, whose stage 1 the variants start from"

# evaluate NAME VARIANT_SEED FLAGS...
evaluate() {
  local name=$1 model=$runs/$2/model
  shift 2
  "$smcd" evaluate --data $runs/records --list $runs/list.json --make_list 64 --output "$results/$name" \
    --model "$model" --num_inference_steps 10 --guidance_scale 2 --batch_size 8 --metrics grounding,psnr-first \
    --trackers sprites "$@"
}

"$smcd" prepare sprites --output $runs/records --splits test --workers 1 --option test_clips=64 "${TINY_WORLD[@]}"
for seed in 0 1; do
  for variant in zc_gca zc gca joint object image; do
    run=${variant}_$seed
    [[ -f $results/${run}_guidance_off/metrics.json ]] && continue
    launch/train_again.sh --config "configs/tiny/ablation.py:$variant" --workdir "$runs/$run" "--config.seed=$seed" "$@"
    "$smcd" export --workdir "$runs/$run" --output "$runs/$run/model" --overwrite
    boxes=()
    [[ $variant == image ]] && boxes=(--intervention no_boxes) # this variant is trained without boxes
    evaluate "$run" "$run" --box_guidance_scale 2 "${boxes[@]}"
    evaluate "${run}_guidance_off" "$run" "${boxes[@]}"
  done
done
"$VENV/bin/python" launch/figures.py --collect ablation "$results"
