# shellcheck shell=bash
# Sourced by the other scripts: creates the project's Python environment in .venv and installs the project there.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
# Options of `smcd prepare sprites` for the small model: the world that it is trained and evaluated in.
# shellcheck disable=SC2034  # used by scripts that source this file
TINY_WORLD=(
  --option width=32 --option height=32 --option max_objects=1 --option
  'classes=["cat","dog","panda","fox","rocket","soccer ball","car","fish","balloon","star","apple","butterfly"]'
)

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# Prints the first Python of version 3.11 or later: $PYTHON if it is set, then the tested version, then others.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or later found; install one, or set PYTHON, as in PYTHON=/path/to/python3.11 $0"
}

make_venv() {
  # Checks for pip rather than python: an interrupted venv may contain python without pip.
  [[ -x $VENV/bin/pip ]] && return
  local python
  python=$(find_python)
  "$python" -m venv "$VENV" >&2 || fail "$python cannot create .venv; install its venv module (Debian: apt install python3-venv)"
}

# install_package EXTRA installs the project with that extra (`core` for none) in the tested versions. pip runs only if
# setup.py or the constraints have changed since the last installation, which a stamp file in .venv records.
install_package() {
  local extra=$1 wanted requirement stamp=$VENV/.installed-$1
  wanted=$(cat "$ROOT/setup.py" "$ROOT/launch/constraints.txt" | cksum)
  [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
  requirement=$ROOT
  [[ $extra == core ]] || requirement="${ROOT}[$extra]"
  echo "Installing smcd_jax ($extra) into .venv; this takes a few minutes the first time."
  # Most modules of the dependencies are never imported, so Python compiles the others when it first imports them.
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile -c "$ROOT/launch/constraints.txt" -e "$requirement" \
    >"$VENV/install.log" 2>&1 ||
    fail "pip could not install smcd_jax; check the network and the end of .venv/install.log, then run $0 again"
  # Every extra includes the core.
  tee "$stamp" "$VENV/.installed-core" <<<"$wanted" >/dev/null
}
