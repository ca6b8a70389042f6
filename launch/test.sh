#!/usr/bin/env bash
# Runs the tests in .venv, made and filled on the first run; arguments go to pytest: launch/test.sh -k tokenizer
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package test
cd "$ROOT"
# Stealing keeps neighbours together, and with them what the tests of a file share.
exec "$VENV/bin/python" -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
