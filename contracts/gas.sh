#!/usr/bin/env bash
# Measures what settling costs, from the receipts of a local chain. Prints a table and then one line a batch size.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
"$here/setup.sh"
exec python3 "$here/gas/measure.py" "$@"
