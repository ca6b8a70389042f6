#!/usr/bin/env bash
# Runs `smcd train` in .venv and restarts it whenever it exits with status 42 (stopped on request, saved). After a crash
# (status above 128: killed by a signal, or a peer was lost) it restarts at most $CRASHES times in a row (default: 3), after
# $PAUSE seconds (default: 10). Any other status is returned, because a restart would fail in the same way. SIGTERM and
# SIGINT are forwarded to the run, which saves; the script then exits with its status. Arguments go to `smcd train`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SMCD=${SMCD:-$VENV/bin/smcd}
CRASHES=${CRASHES:-3}
PAUSE=${PAUSE:-10}
[[ -x $SMCD ]] || fail "$SMCD not found; install the project first, as in launch/install.sh cuda,data"
cd "$ROOT"

stopping='' signalled='' child=''
# The terminal sends SIGINT to the run as well, and a second SIGINT would stop it without saving, so forward SIGTERM.
forward() {
  stopping=1 signalled=1
  [[ ! $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap forward TERM INT

# Sets $status to the exit status of the child; a signal interrupts `wait`, not the child.
wait_for_child() {
  local code=0
  wait "$child" || code=$?
  status=$code
  while [[ $signalled ]]; do
    signalled='' code=0
    wait "$child" || code=$?
    [[ $code == 127 ]] || status=$code # 127: the status was already collected
  done
}

crashes=0
while true; do
  "$SMCD" train "$@" &
  child=$!
  wait_for_child
  child=''
  [[ ! $stopping ]] || exit "$status"
  if [[ $status == 42 ]]; then
    crashes=0
    echo "smcd train saved and asked to be restarted; restarting it." >&2
  elif ((status > 128 && crashes < CRASHES)); then
    crashes=$((crashes + 1))
    echo "smcd train ended with status $status; restarting it in $PAUSE s ($crashes of $CRASHES)." >&2
    sleep "$PAUSE" &
    wait $! || true
    [[ ! $stopping ]] || exit "$status"
  else
    exit "$status"
  fi
done
