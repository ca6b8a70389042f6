# shellcheck shell=bash
# Sourced by test.sh and demo.sh: the project's own Python environment in .venv, and what is installed in it.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
# Options of `smcd prepare sprites`: the world that the small model is trained and measured in.
# shellcheck disable=SC2034  # for those that source this
TINY_WORLD=(
  --option width=32 --option height=32 --option max_objects=1 --option
  'classes=["cat","dog","panda","fox","rocket","soccer ball","car","fish","balloon","star","apple","butterfly"]'
)

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# Prints the first Python of 3.11 or later: $PYTHON where it is set, then the version the project is tested with.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or later found: install one, or name it as in PYTHON=/path/to/python3.11 $0"
}

make_venv() {
  # pip is looked for, not python: an environment whose making was broken off has the one without the other.
  [[ -x $VENV/bin/pip ]] && return
  local python
  python=$(find_python)
  "$python" -m venv "$VENV" >&2 || fail "$python cannot make .venv: install its venv module (Debian: apt install python3-venv)"
}

# install_package EXTRA installs the project with that extra, or the core alone for `core`, in the tested versions.
# pip runs only when setup.py or the constraints have changed since it last did; a stamp file in .venv tells.
install_package() {
  local extra=$1 wanted requirement stamp=$VENV/.installed-$1
  wanted=$(cat "$ROOT/setup.py" "$ROOT/launch/constraints.txt" | cksum)
  [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
  requirement=$ROOT
  [[ $extra == core ]] || requirement="${ROOT}[$extra]"
  echo "Installing smcd_jax ($extra) into .venv; the first time takes some minutes."
  "$VENV/bin/python" -m pip install --disable-pip-version-check -c "$ROOT/launch/constraints.txt" -e "$requirement" \
    >"$VENV/install.log" 2>&1 ||
    fail "pip could not install smcd_jax: check the network and the end of .venv/install.log, then run $0 again"
  # Every extra brings the core with it.
  tee "$stamp" "$VENV/.installed-core" <<<"$wanted" >/dev/null
}
