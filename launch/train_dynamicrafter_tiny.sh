#!/usr/bin/env bash
# Trains the small DynamiCrafter on sprites from the networks of the shipped model: loops and interpolation, then boxes.
# Measures both on held-out clips. Takes about two hours on 2 CPU cores; rerunning it resumes. Arguments are passed on to
# every `smcd train`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package data
install_package eval
cd "$ROOT"
smcd=$VENV/bin/smcd
runs=runs/dynamicrafter_tiny
# Unlike the clips of the shipped model's world, many of these end where they begin, so that training includes loops.
motions='[["slide",0.2],["approach",0.05],["recede",0.05],["grow",0.05],["shrink",0.05],["leave",0.05],["bounce",0.05],["circle",0.05],["swing",0.4],["stay",0.05]]'

"$smcd" prepare sprites --output $runs/records --option train_clips=4000 --option val_clips=32 \
  --option test_clips=64 "${TINY_WORLD[@]}" --option "motions=$motions"
for part in interp boxes; do
  [[ -f $runs/$part/model/model.json ]] && continue
  launch/train_again.sh --config "configs/dynamicrafter/tiny.py:$part" --workdir "$runs/$part" "$@"
  "$smcd" export --workdir "$runs/$part" --output "$runs/$part/model"
done
"$VENV/bin/python" launch/measure_ends.py $runs/interp/model $runs/records --output $runs/ends.json
"$smcd" evaluate --model $runs/boxes/model --data $runs/records --split test --list $runs/list.json --make_list 64 \
  --num_inference_steps 10 --guidance_scale 2 --box_guidance_scale 2 --batch_size 8 --metrics grounding,psnr-first \
  --trackers sprites --output $runs/evaluation
