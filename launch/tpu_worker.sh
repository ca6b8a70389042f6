#!/usr/bin/env bash
# Run by tpu_vm.sh on each worker of a TPU, in the folder that contains the project.
#   setup [SERVER:/SHARE]   installs the project and mounts the share at /mnt/smcd
#   start OPTIONS           starts training, detached, unless it is running; writes run.log, and at the end run.status
#   status                  prints status=running, status=N after the end of a run, or status=none
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"

running() {
  [[ -s run.pid ]] && kill -0 "$(<run.pid)" 2>/dev/null
}

setup() {
  if ! command -v python3.11 >/dev/null; then
    sudo apt-get update -q
    sudo apt-get install -y -q python3.11-venv
  fi
  if [[ ${1:-} ]] && ! mountpoint -q /mnt/smcd; then
    sudo apt-get install -y -q nfs-common
    sudo mkdir -p /mnt/smcd
    sudo mount "$1" /mnt/smcd
  fi
  launch/install.sh tpu,data
}

start() {
  ! running || return 0
  rm -f run.status
  # One compile cache for all workers, which outlives them; only the first process writes to it.
  ! mountpoint -q /mnt/smcd || export SMCD_CACHE_DIR=${SMCD_CACHE_DIR:-/mnt/smcd/cache}
  # The shell around the run writes the status at the end; it keeps running when the connection closes.
  # shellcheck disable=SC2016  # the inner shell expands $@ and $status
  nohup setsid bash -c 'status=0; launch/train_again.sh "$@" || status=$?; echo $status >run.status' start "$@" \
    >>run.log 2>&1 </dev/null &
  echo $! >run.pid
}

status() {
  if running; then
    echo status=running
  elif [[ -s run.status ]]; then
    echo "status=$(<run.status)"
  else
    echo status=none
  fi
}

case ${1:-} in
  setup | start | status) "$@" ;;
  *) fail "usage: launch/tpu_worker.sh setup|start|status" ;;
esac
