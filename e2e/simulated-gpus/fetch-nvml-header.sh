#!/usr/bin/env bash
# Puts NVIDIA's published nvml.h into .build/nvml-header/ and prints its path. Tests compare the NVML double with it.
# The header comes from the wheel nvidia-nvml-dev of PyPI; nothing is installed.
set -euo pipefail

version=13.5.37
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$root/.build/nvml-header
header=$folder/nvml-$version.h

if [[ -f $header ]]; then
  echo "$header"
  exit 0
fi
python=$(command -v python3) || { echo "python3 is missing: install it (apt-get install python3 python3-pip)" >&2; exit 1; }
"$python" -m pip --version > /dev/null 2>&1 || { echo "pip is missing: install it (apt-get install python3-pip)" >&2; exit 1; }

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --no-deps --only-binary :all: --platform manylinux2014_x86_64 \
  --dest "$work" "nvidia-nvml-dev==$version" >&2
"$python" - "$work" <<'PYTHON'
import glob, sys, zipfile
work = sys.argv[1]
(wheel,) = glob.glob(work + "/*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = [name for name in archive.namelist() if name.endswith("/nvml.h")]
    open(work + "/nvml.h", "wb").write(archive.read(name))
PYTHON
mv "$work/nvml.h" "$header"
echo "$header"
