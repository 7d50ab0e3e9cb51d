#!/usr/bin/env bash
# Puts Debian's real libnvidia-ml.so.1 (package libnvidia-ml1, section non-free) into .build/real-nvml/ and prints its
# path. On a machine without the driver it answers NVML_ERROR_DRIVER_NOT_LOADED: tests load it.
# apt gets a configuration of its own: the system's sources and lists are left alone, nothing is installed.
set -euo pipefail

suite=bookworm
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$root/.build/real-nvml
library=$folder/libnvidia-ml.so.1

if [[ -e $library ]]; then
  echo "$library"
  exit 0
fi
for tool in apt-get dpkg-deb; do
  command -v "$tool" > /dev/null || { echo "$tool is missing: this needs a Debian or Ubuntu machine" >&2; exit 1; }
done
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -f $keyring ]] || { echo "$keyring is missing: install it (apt-get install debian-archive-keyring)" >&2; exit 1; }

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt drops root's rights to download; the folder must be open to its user.
chmod 755 "$work"
mkdir -p "$work"/{lists/partial,cache/archives/partial,parts,unpacked}
touch "$work/status"
echo "deb [arch=amd64 signed-by=$keyring] http://deb.debian.org/debian $suite main contrib non-free" > "$work/sources.list"
options=(
  -o "Dir::Etc::SourceList=$work/sources.list"
  -o "Dir::Etc::SourceParts=$work/parts"
  -o "Dir::State::Lists=$work/lists"
  -o "Dir::State::Status=$work/status"
  -o "Dir::Cache=$work/cache"
  -o "APT::Architecture=amd64"
  -o "APT::Sandbox::User=root"
  -o "Acquire::Languages=none"
)
apt-get "${options[@]}" -qq update >&2
(cd "$work" && apt-get "${options[@]}" -qq download libnvidia-ml1 >&2)
dpkg-deb --extract "$work"/libnvidia-ml1_*.deb "$work/unpacked"
real=$(find "$work/unpacked" -type f -name 'libnvidia-ml.so.*' | head -n 1)
[[ -n $real ]] || { echo "the package libnvidia-ml1 holds no libnvidia-ml.so" >&2; exit 1; }
cp "$real" "$folder/.library"
mv "$folder/.library" "$library"
echo "$library"
