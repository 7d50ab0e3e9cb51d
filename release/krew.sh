#!/usr/bin/env bash
# Writes the plugin's krew manifest on standard output.
#
#   krew.sh VERSION HOMEPAGE DOWNLOADS FOLDER
#
#   VERSION     of the release, with its v: v0.1.0
#   HOMEPAGE    where the project is
#   DOWNLOADS   the URL below which the release's files are
#   FOLDER      kubectl-gridstake-linux-amd64.tar.gz and -arm64.tar.gz are in it
set -euo pipefail

if (($# != 4)); then
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
version=$1 homepage=$2 downloads=$3 folder=$4
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || { echo "krew.sh: the version is '$version'; it must be like v0.1.0" >&2 && exit 1; }

sum() { # ARCHITECTURE
  sha256sum <"$folder/kubectl-gridstake-linux-$1.tar.gz" | cut -d' ' -f1
}

amd64=$(sum amd64)
arm64=$(sum arm64)
sed -e '/^#/d' -e "s|@VERSION@|$version|; s|@HOMEPAGE@|$homepage|; s|@DOWNLOADS@|$downloads|; s|@SHA256_AMD64@|$amd64|; s|@SHA256_ARM64@|$arm64|" \
  "$(dirname "$(readlink -f "$0")")/krew.yaml"
