#!/usr/bin/env bash
# Keeps an archive in a bucket of a real server: S3 by Versity's gateway, which is built through the Go module proxy (about
# 3 min the first time) and serves from a folder that is thrown away. BUCKETS names others, such as gs://my-bucket/x, with
# their keys in the environment.
#
# Needs go; called by make test-long.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/../..")
bin=$checkout/.build/bin/buckets
versitygw=v1.8.0

type -P go >/dev/null || { echo "buckets.sh: no go on this machine; install Go 1.24 or newer" >&2 && exit 1; }
mkdir -p "$bin"

build() { # PROGRAM VERSION PACKAGE
  [ -x "$bin/$1-$2" ] && return
  echo "building $1 $2" >&2
  GOBIN=$bin/.new go install "$3@$2"
  mv "$bin/.new/$1" "$bin/$1-$2"
}

build versitygw "$versitygw" github.com/versity/versitygw/cmd/versitygw

work=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
until_open() { # PORT
  local end=$((SECONDS + 30))
  until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
    if ((SECONDS > end)); then
      echo "buckets.sh: nothing listens on port $1:" >&2
      tail -n 20 "$work"/*.log >&2
      exit 1
    fi
    sleep 0.1
  done
}

s3=$(free_port)
mkdir -p "$work/s3/archive" "$work/metadata"
"$bin/versitygw-$versitygw" --port "127.0.0.1:$s3" --access test --secret testing-only posix --sidecar "$work/metadata" "$work/s3" \
  >"$work/s3.log" 2>&1 &
servers+=($!)
until_open "$s3"

cd "$checkout"
if [ -z "${BUCKETS:-}" ]; then
  export AWS_ENDPOINT=http://127.0.0.1:$s3 AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=testing-only
fi
GRIDSTAKE_TEST_BUCKETS="${BUCKETS:-s3://archive/some/prefix}" \
  cargo test --quiet --workspace --locked --lib -- --ignored --nocapture archive::store::tests::a_bucket_holds ||
  { tail -n 20 "$work"/*.log >&2 && exit 1; }
