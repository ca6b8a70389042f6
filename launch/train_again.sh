#!/usr/bin/env bash
# Runs `smcd train` in .venv and starts it again for as long as it asks for that (exit status 42: told to stop, saved).
# A run that a signal or a lost peer has ended (status above 128) is started again too, at most $CRASHES times in a row
# (3) with $PAUSE seconds (10) between. Any other status is a mistake that starting again would repeat: it is handed on.
# SIGTERM and SIGINT reach the run, which saves; then this ends with its status. Arguments go to `smcd train`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SMCD=${SMCD:-$VENV/bin/smcd}
CRASHES=${CRASHES:-3}
PAUSE=${PAUSE:-10}
[[ -x $SMCD ]] || fail "$SMCD is not there: install first, as in launch/install.sh cuda,data"
cd "$ROOT"

stopping='' signalled='' child=''
# A SIGINT of the terminal reaches the run by itself, and a second one would end it without saving: so always SIGTERM.
pass_on() {
  stopping=1 signalled=1
  [[ ! $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap pass_on TERM INT

# Sets $status to the child's; a signal to this script ends a `wait`, not the child.
wait_for_child() {
  local code=0
  wait "$child" || code=$?
  status=$code
  while [[ $signalled ]]; do
    signalled='' code=0
    wait "$child" || code=$?
    [[ $code == 127 ]] || status=$code # 127: the status is known already
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
    echo "smcd train has saved and asks to go on; starting it again." >&2
  elif ((status > 128 && crashes < CRASHES)); then
    crashes=$((crashes + 1))
    echo "smcd train ended with status $status; starting it again in $PAUSE s ($crashes of $CRASHES)." >&2
    sleep "$PAUSE" &
    wait $! || true
    [[ ! $stopping ]] || exit "$status"
  else
    exit "$status"
  fi
done
