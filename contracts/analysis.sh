#!/usr/bin/env bash
# Installs what prove.sh and slither.sh run (halmos, slither and their dependencies, at the versions of
# analysis-requirements.txt) into .build/venv-contracts. What is there already is left alone.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
venv=$(readlink -f "$here/..")/.build/venv-contracts
wanted=$here/analysis-requirements.txt
stamp=$venv/requirements

# Two scripts that run at the same time wait for one installation.
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if [ -f "$stamp" ] && cmp -s "$wanted" "$stamp"; then exit; fi
rm -rf "$venv"
if ! python3 -m venv "$venv"; then
  echo "contracts/analysis.sh: no virtual environment. Install Python 3.11 or newer with venv (Debian: python3-venv)" >&2
  exit 1
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
cp "$wanted" "$stamp"
