#!/usr/bin/env bash
# Trains the small motion model from scratch on the world of winds: fields and renderer,
# autoencoder of fields, cache of latents, and diffusion; then measures it on held-out clips. Takes under two hours on one
# CPU core, 57 minutes of them for diffusion. Rerunning the command resumes it. Arguments are passed on to every `smcd train`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package data
cd "$ROOT"
smcd=$VENV/bin/smcd
python=$VENV/bin/python
runs=runs/lvmm_tiny

# stage NAME FOLDER OPTIONS...: trains until finished and writes the model folder NAME/FOLDER.
stage() {
  local name=$1 folder=$runs/$1/$2
  shift 2
  [[ -f $folder/model.json ]] && return
  launch/train_again.sh --config "configs/tiny/lvmm.py:$name" --workdir "$runs/$name" "$@"
  "$smcd" export --workdir "$runs/$name" --output "$folder" --license Apache-2.0
}

# scale NAME MODEL: prints a scale that motion_measures.py measures with a model folder.
scale() {
  local file=$2.scales.json
  if [[ ! -f $file ]]; then
    "$python" launch/motion_measures.py scales "$2" $runs/records >"$file.partial"
    mv "$file.partial" "$file"
  fi
  "$python" -c "import json, sys; print(round(json.load(open(sys.argv[1]))[sys.argv[2]], 5))" "$file" "$1"
}

"$smcd" prepare winds --output $runs/records --option train_clips=3000 --option val_clips=64 --option test_clips=200
stage motion model "$@"
scales=(--config.model.field_scale="$(scale field_scale $runs/motion/model)")
stage motion_vae unscaled "${scales[@]}" "$@"
factor=$(scale scaling_factor $runs/motion_vae/unscaled)
scales+=(--config.model.motion_vae.scaling_factor="$factor")
[[ -f $runs/motion_vae/model/model.json ]] ||
  "$smcd" export --workdir $runs/motion_vae --output $runs/motion_vae/model --license Apache-2.0 \
    --scaling_factor "$factor"
"$smcd" prepare --features $runs/motion_vae/model --output $runs/records --splits train,val \
  --max_clip_error 300 # the renderer alone exceeds the paper's 50 for most moving clips
stage diffusion model "${scales[@]}" "$@"
"$python" launch/motion_measures.py measure $runs/diffusion/model $runs/records $runs/measures.json --clips 48 --steps 25
echo "The model is $ROOT/$runs/diffusion/model"
