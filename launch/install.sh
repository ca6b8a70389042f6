#!/usr/bin/env bash
# Installs the project with extras into .venv, in the tested versions, as in launch/install.sh cuda,data
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package "${1:-core}"
