#!/usr/bin/env bash
# Measures what docs/benchmarks.md records of the device agent: `make bench-agent`.
#
#   bench.sh
#
# Environment:
#   DURATION   for how many seconds CPU and memory are watched (default: 120; the soak of `make test-long`: 1800)
#   PROFILE    bench (default) or dev
# No cluster is needed: the agent is the program itself, with NVML's double, a kubelet and an API server beside it.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
cd "$here/.."
cargo test --quiet --profile "${PROFILE:-bench}" --workspace --locked --test agent -- --ignored --nocapture load::
