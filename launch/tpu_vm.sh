#!/usr/bin/env bash
# Trains on a Cloud TPU VM or pod: requests it as a queued resource, installs the project on all workers, trains, and
# requests another TPU when this one is taken away. Rerunning the command attaches to a run that is already in progress.
#   launch/tpu_vm.sh --name smcd --zone us-west4-a --type v5litepod-8 --spot --mount 10.0.0.2:/runs -- \
#     --config configs/smcd/stage2_scene.py --workdir /mnt/smcd/stage2 --config.init.model=/mnt/smcd/models/stage1 \
#     --config.data.records=/mnt/smcd/records/got10k --config.mesh.fsdp=8
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh --name NAME --zone ZONE --type TYPE [options] -- FLAGS OF smcd train
  --name NAME            name of the TPU and of its queued resource
  --zone ZONE            zone, such as us-west4-a
  --type TYPE            accelerator type, such as v5litepod-8, v5p-16, v6e-64
  --version VERSION      runtime version (default: the one for JAX on that type)
  --project PROJECT      Google Cloud project (default: that of gcloud)
  --spot                 request a spot TPU, which is cheaper and may be taken away at any time
  --mount SERVER:/SHARE  NFS share (Filestore) to mount at /mnt/smcd on every worker; holds work folder and records
  --poll_seconds N       seconds between two checks of the run (default: 60)
  --delete               delete the TPU and exit
  --delete_when_done     delete the TPU when training is finished
  --dry_run              print the commands instead of running them
TEXT
}

name='' zone='' type='' version='' project='' mount='' poll=60 spot='' only_delete='' delete_when_done='' dry_run=''
while [[ $# -gt 0 ]]; do
  case $1 in
    --name | --zone | --type | --version | --project | --mount | --poll_seconds)
      [[ $# -gt 1 ]] || fail "$1 needs a value; see launch/tpu_vm.sh --help"
      case $1 in
        --name) name=$2 ;;
        --zone) zone=$2 ;;
        --type) type=$2 ;;
        --version) version=$2 ;;
        --project) project=$2 ;;
        --mount) mount=$2 ;;
        --poll_seconds) poll=$2 ;;
      esac
      shift 2
      ;;
    --spot) spot=1 && shift ;;
    --delete) only_delete=1 && shift ;;
    --delete_when_done) delete_when_done=1 && shift ;;
    --dry_run) dry_run=1 && shift ;;
    --help) usage && exit ;;
    --) shift && break ;;
    *) fail "unknown option $1; options of smcd train come after --; see launch/tpu_vm.sh --help" ;;
  esac
done
[[ $name && $zone ]] || fail "missing --name or --zone; see launch/tpu_vm.sh --help"
if [[ ! $only_delete ]]; then
  [[ $type ]] || fail "missing --type, such as v5litepod-8; see launch/tpu_vm.sh --help"
  [[ $# -gt 0 ]] || fail "missing options of smcd train; add them after --, as in -- --config FILE --workdir DIR"
fi
if [[ ! $version ]]; then
  case $type in
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    v4-*) version=tpu-ubuntu2204-base ;;
    '') ;;
    *) fail "no runtime version is known for --type $type; pass one with --version" ;;
  esac
fi
[[ $dry_run ]] || command -v gcloud >/dev/null || fail "gcloud not found; install the Google Cloud CLI and log in"

place=(--zone="$zone")
[[ ! $project ]] || place+=(--project="$project")

run() {
  if [[ $dry_run ]]; then
    printf '%s' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
  else
    "$@"
  fi
}

on_all_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all --command="$1"
}

# Prints the states of the queued resource and of its TPU: "ACTIVE READY" if it can be used, nothing if it does not exist.
tpu_state() {
  local queued node
  if ! queued=$(gcloud compute tpus queued-resources describe "$name" "${place[@]}" --format='value(state.state)' 2>&1); then
    [[ $queued == *NOT_FOUND* ]] || printf 'unknown: %s\n' "${queued##*$'\n'}"
    return
  fi
  node=$(gcloud compute tpus tpu-vm describe "$name" "${place[@]}" --format='value(state)' 2>/dev/null) || node=''
  printf '%s %s\n' "$queued" "$node"
}

request_tpu() {
  local flags=(--node-id="$name" --accelerator-type="$type" --runtime-version="$version")
  [[ ! $spot ]] || flags+=(--spot)
  run gcloud compute tpus queued-resources create "$name" "${place[@]}" "${flags[@]}"
}

delete_tpu() {
  run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
}

# Returns when the TPU is ready; requests it if it does not exist, and requests another one if it was taken away.
wait_for_tpu() {
  local state
  if [[ $dry_run ]]; then
    request_tpu
    return
  fi
  while true; do
    state=$(tpu_state)
    case $state in
      'ACTIVE READY') return ;;
      '') request_tpu ;;
      SUSPEND* | FAILED* | *PREEMPTED | *TERMINATED)
        echo "The TPU was taken away ($state); requesting another one." >&2
        delete_tpu
        ;;
      *)
        echo "Waiting for the TPU ($state)." >&2
        sleep "$poll"
        ;;
    esac
  done
}

# Copies the project to all workers and starts training there, detached, so that a lost connection does not stop it.
start_training() {
  local folder=/tmp failed=''
  [[ $dry_run ]] || folder=$(mktemp -d)
  # One chain of &&: bash ignores `set -e` in a function whose status the caller tests.
  run tar --create --gzip --file="$folder/smcd.tar.gz" --directory="$ROOT" \
    --exclude=./.git --exclude=./.venv --exclude=./outputs --exclude=./runs . &&
    run gcloud compute tpus tpu-vm scp "$folder/smcd.tar.gz" "$name:" "${place[@]}" --worker=all &&
    on_all_workers "mkdir -p smcd && tar --extract --gzip --file=smcd.tar.gz --directory=smcd" &&
    on_all_workers "bash smcd/launch/tpu_worker.sh setup${mount:+ $(printf %q "$mount")}" &&
    on_all_workers "bash smcd/launch/tpu_worker.sh start$(printf ' %q' "$@")" || failed=1
  [[ $dry_run ]] || rm -rf "$folder"
  [[ ! $failed ]]
}

# Prints the distinct statuses of the workers, as in "status=running status=42 "; nothing if a worker cannot be reached.
run_status() {
  on_all_workers 'bash smcd/launch/tpu_worker.sh status 2>/dev/null || echo status=none' |
    grep -o 'status=[a-z0-9]*' | sort -u | tr '\n' ' '
}

if [[ $only_delete ]]; then
  delete_tpu
  exit
fi

if [[ $dry_run ]]; then
  wait_for_tpu
  start_training "$@"
  [[ ! $delete_when_done ]] || delete_tpu
  exit
fi

ours='' # set once this process has started the run or seen it running; only then does its exit status count
while true; do
  wait_for_tpu
  found=$(run_status 2>/dev/null) || found=''
  case $ours:$found in
    *:) ;; # a worker cannot be reached at the moment
    *:*status=running*) ours=1 ;;
    *:*status=none* | :*)
      echo "Starting smcd train on all workers." >&2
      if start_training "$@"; then ours=1; else echo "A worker could not be set up; trying again." >&2; fi
      ;;
    '1:status=0 ')
      echo "Training is finished." >&2
      [[ ! $delete_when_done ]] || delete_tpu
      exit
      ;;
    *)
      echo "smcd train failed ($found). Its log: gcloud compute tpus tpu-vm ssh $name ${place[*]} --command='tail smcd/run.log'" >&2
      exit 1
      ;;
  esac
  sleep "$poll"
done
