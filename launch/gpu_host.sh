#!/usr/bin/env bash
# Trains on all GPUs of this host and restarts the run when `smcd train` requests it (exit status 42). The first call
# creates .venv. Arguments are passed on to `smcd train`:
#   launch/gpu_host.sh --config configs/smcd/stage2_scene.py --workdir runs/stage2 \
#   --config.init.model=models/stage1 --config.data.records=records/got10k
# One process drives all GPUs; CUDA_VISIBLE_DEVICES=0,1 selects some of them. --dry_run prints the commands instead.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DRY_RUN=
if [[ ${1:-} == --dry_run ]]; then
  DRY_RUN=1
  shift
fi
[[ $# -gt 0 ]] || fail "usage: launch/gpu_host.sh [--dry_run] --config FILE --workdir DIR [more options of smcd train]"

drivers=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) ||
  fail "nvidia-smi finds no GPU; install the NVIDIA driver, or train on the CPU with launch/train_again.sh"
driver=${drivers%%$'\n'*} # one line per GPU
major=${driver%%.*}
[[ $major =~ ^[0-9]+$ ]] || fail "nvidia-smi must print a driver version, got: $driver"
((major >= 525)) || fail "the NVIDIA driver must be version 525 or newer for JAX, got $driver"
extra=cuda
((major >= 580)) || extra=cuda12

if [[ $DRY_RUN ]]; then
  printf '%s\n' "launch/install.sh $extra,data" "launch/train_again.sh$(printf ' %q' "$@")"
  exit
fi
make_venv
install_package "$extra,data"
exec "$ROOT/launch/train_again.sh" "$@"
