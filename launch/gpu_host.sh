#!/usr/bin/env bash
# Trains on all GPUs of this host, in .venv, made and filled on the first run; starts again when it is asked to.
# Arguments go to `smcd train`: launch/gpu_host.sh --config configs/smcd/stage2_scene.py --workdir runs/stage2 \
#   --config.init.model=models/stage1 --config.data.records=records/got10k
# One process drives all GPUs. CUDA_VISIBLE_DEVICES=0,1 takes some of them. --dry_run shows what would be done.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DRY_RUN=
if [[ ${1:-} == --dry_run ]]; then
  DRY_RUN=1
  shift
fi
[[ $# -gt 0 ]] || fail "usage: launch/gpu_host.sh [--dry_run] --config FILE --workdir DIR [more flags of smcd train]"

drivers=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) ||
  fail "nvidia-smi finds no GPU here: install the NVIDIA driver, or train on the CPU with launch/train_again.sh"
driver=${drivers%%$'\n'*} # a line for each GPU
major=${driver%%.*}
[[ $major =~ ^[0-9]+$ ]] || fail "nvidia-smi names no driver version (it says: $driver)"
((major >= 525)) || fail "NVIDIA driver $driver is too old for JAX: 525 or newer is needed"
extra=cuda
((major >= 580)) || extra=cuda12

if [[ $DRY_RUN ]]; then
  printf '%s\n' "launch/install.sh $extra,data" "launch/train_again.sh$(printf ' %q' "$@")"
  exit
fi
make_venv
install_package "$extra,data"
exec "$ROOT/launch/train_again.sh" "$@"
