#!/usr/bin/env bash
# Runs the tests. The first run creates .venv and installs the project there with its test requirements.
# Arguments are passed on to pytest, as in launch/test.sh -k tokenizer
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package test
cd "$ROOT"
# Work stealing keeps the tests of a file on one worker where possible, so that they share fixtures.
exec "$VENV/bin/python" -m pytest -n auto --maxprocesses 4 --dist worksteal "$@"
