#!/usr/bin/env bash
# Installs the project in .venv, as tested, with the extras named: launch/install.sh cuda,data
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

make_venv
install_package "${1:-core}"
