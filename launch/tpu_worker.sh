#!/usr/bin/env bash
# What tpu_vm.sh runs on each worker of a TPU, in the folder it has put the project into.
#   setup [SERVER:/SHARE]   installs the project, and mounts the share at /mnt/smcd
#   start FLAGS             starts training, detached, where none goes on: its log is run.log, its status run.status
#   look                    prints status=running, status=N of a run that has ended, or status=none
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
  # One compile cache for all workers, which outlives them: only the first process writes it.
  ! mountpoint -q /mnt/smcd || export SMCD_CACHE_DIR=${SMCD_CACHE_DIR:-/mnt/smcd/cache}
  # The status is written last, by the shell around the run, which outlives the connection.
  # shellcheck disable=SC2016  # that shell expands it
  nohup setsid bash -c 'status=0; launch/train_again.sh "$@" || status=$?; echo $status >run.status' start "$@" \
    >>run.log 2>&1 </dev/null &
  echo $! >run.pid
}

look() {
  if running; then
    echo status=running
  elif [[ -s run.status ]]; then
    echo "status=$(<run.status)"
  else
    echo status=none
  fi
}

case ${1:-} in
  setup | start | look) "$@" ;;
  *) fail "usage: launch/tpu_worker.sh setup|start|look" ;;
esac
