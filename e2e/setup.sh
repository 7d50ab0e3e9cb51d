#!/usr/bin/env bash
# Installs and builds what the demo and the tests need. What is there already is left alone, so it can run any time.
#
#   setup.sh            for the world that e2e/cluster/world.sh chooses (E2E_CLUSTER decides by hand)
#
# Programs go to .build/bin; Debian packages are installed when apt-get and root are there, and named otherwise.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/..")
bin=$checkout/.build/bin
# shellcheck source=e2e/steps.sh
. "$here/steps.sh"

helm_version=v3.22.0
kubeconform_version=v0.8.0
actionlint_version=v1.7.12
krew_version=v0.4.4

fail() {
  echo "setup.sh: $*" >&2
  exit 1
}

has() { type -P "$1" >/dev/null; }

need_debian_packages() { # PACKAGE...
  if (($# == 0)); then return; fi
  has apt-get || fail "not installed: $* (these are Debian's names). Install your system's packages of them"
  [ "$(id -u)" = 0 ] || fail "not installed: $*. Run as root: apt-get install $*"
  step "apt-get install $*" install_debian_packages "$@"
}

install_debian_packages() {
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

debian_packages() { # prints the missing ones
  local world=$1
  has python3 || echo python3
  python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
  has strip || echo binutils
  has cc || echo gcc libc6-dev # Rust links with it
  [ -s /etc/ssl/certs/ca-certificates.crt ] || [ -s /etc/pki/tls/certs/ca-bundle.crt ] || echo ca-certificates
  if ! has busybox || ldd "$(type -P busybox)" >/dev/null 2>&1; then echo busybox-static; fi
  # Of the linters, the one that e2e/linters.txt has only for x86_64.
  [ "$(uname -m)" = x86_64 ] || has shellcheck || echo shellcheck
  if [ "$world" = native ]; then
    { has containerd && has ctr; } || echo containerd
    has runc || echo runc
    [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || [ -x /usr/libexec/cni/bridge ] || echo containernetworking-plugins
    has ip || echo iproute2
    has nft || echo nftables
    has openssl || echo openssl
    { has unshare && has nsenter; } || echo util-linux
    has pkill || echo procps
  fi
}

check_rust() {
  has cargo || fail "no cargo. Install Rust: https://rustup.rs (rust-toolchain.toml then chooses the version)"
  (cd "$checkout" && cargo --version) || fail "cargo does not run; with rustup: rustup toolchain install"
}

check_node() {
  has npm || fail "no npm. Install Node.js 20 or newer: https://nodejs.org (it installs the contracts' compiler, forge and anvil)"
}

check_go() {
  local minor
  has go || fail "no go. Install Go 1.26 or newer: https://go.dev/doc/install (it builds Kubernetes, helm, kubeconform and actionlint)"
  # From 1.21 on, go fetches the version that a module asks for by itself.
  minor=$(go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
  [ -n "$minor" ] || return 0 # a development version
  ((minor >= 21)) || fail "go is $(go env GOVERSION). Install Go 1.26 or newer: https://go.dev/doc/install"
}

kubernetes_version() { sed -n 's/^\tk8s.io\/kubernetes //p' "$here/cluster/go.mod"; }

build_kubernetes() { # PROGRAM PACKAGE: builds it unless the sources are those of the last build
  local program=$1 package=$2 version minor flags stamp
  version=$(kubernetes_version)
  stamp=$(cd "$here/cluster" && { cat go.mod go.sum main.go kubectl/main.go && go env GOVERSION GOARCH; } | sha256sum)
  if [ -x "$bin/$program" ] && [ "$(cat "$bin/.$program.stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
  minor=$(cut -d. -f2 <<<"$version")
  # The version is what `kubectl get nodes` shows and what a chart's kubeVersion is held to.
  flags="-s -w"
  for variable in gitVersion="$version" gitMajor=1 gitMinor="$minor" gitTreeState=clean; do
    flags+=" -X k8s.io/component-base/version.$variable -X k8s.io/client-go/pkg/version.$variable"
  done
  rm -f "$bin/$program" # kubectl may be a link to kube-all
  step "build $program of Kubernetes $version (the first time about 5 min on 2 cores)" \
    env -C "$here/cluster" CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$bin/$program" "$package"
  echo "$stamp" >"$bin/.$program.stamp"
}

build_cluster_programs() { # WORLD
  local name
  if [ "$1" != native ]; then
    if [ ! -x "$bin/kube-all" ]; then build_kubernetes kubectl ./kubectl; fi
    return
  fi
  build_kubernetes kube-all .
  for name in $("$bin/kube-all" --list); do ln -sfn kube-all "$bin/$name"; done
}

install_go_program() { # NAME PACKAGE VERSION [LINKER_FLAGS]
  local stamp="$2@$3 ${4:-}"
  if [ -x "$bin/$1" ] && [ "$(cat "$bin/.$1.stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
  step "install $1 $3" env GOBIN="$bin" CGO_ENABLED=0 GOFLAGS=-trimpath go install -ldflags "-s -w ${4:-}" "$2@$3"
  echo "$stamp" >"$bin/.$1.stamp"
}

install_helm() {
  local minor helm=helm.sh/helm/v3
  minor=$(kubernetes_version | cut -d. -f2)
  # As in helm's own Makefile. Without them `helm template` and `helm lint` take Kubernetes for version 1.20.
  install_go_program helm "$helm/cmd/helm" "$helm_version" "-X $helm/internal/version.version=$helm_version \
-X $helm/pkg/lint/rules.k8sVersionMajor=1 -X $helm/pkg/lint/rules.k8sVersionMinor=$minor \
-X $helm/pkg/chartutil.k8sVersionMajor=1 -X $helm/pkg/chartutil.k8sVersionMinor=$minor"
}

# Prometheus and its promtool: what checks alerts and the queries of dashboards, and what scrapes in a story. They are taken out of
# Debian's package, which is not installed: that would start a server.
link_prometheus() {
  local program
  if [ -x "$bin/prometheus" ] && [ -x "$bin/promtool" ]; then return; fi
  if has prometheus && has promtool; then
    for program in prometheus promtool; do ln -sfn "$(type -P "$program")" "$bin/$program"; done
    return
  fi
  { has apt-get && has dpkg-deb; } || fail "no prometheus and promtool. Install your system's package of Prometheus"
  step "prometheus and promtool from Debian's package" unpack_prometheus
}

unpack_prometheus() {
  local folder
  folder=$(mktemp -d)
  if [ "$(id -u)" = 0 ]; then apt-get update; fi # the lists must name a version that is still there
  (cd "$folder" && apt-get --option APT::Sandbox::User= download prometheus)
  dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$folder" ./usr/bin/prometheus ./usr/bin/promtool
  mv "$folder"/usr/bin/{prometheus,promtool} "$bin"
  rm -r "$folder"
}

make_schemas() { # what kubeconform checks manifests against; it has no network in a test
  local stamp
  stamp="$(kubernetes_version) $(sha256sum <"$here/schemas.py")"
  if [ "$(cat "$checkout/.build/schemas/.stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
  step "JSON schemas of Kubernetes $(kubernetes_version)" write_schemas
  echo "$stamp" >"$checkout/.build/schemas/.stamp"
}

write_schemas() {
  local module
  (cd "$here/cluster" && go mod download k8s.io/kubernetes)
  module=$(cd "$here/cluster" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)
  python3 "$here/schemas.py" "$module/api/openapi-spec/swagger.json" "$checkout/.build/schemas"
}

mkdir -p "$bin"
world=$("$here/cluster/world.sh" which)
say "set up for E2E_CLUSTER=$world"
# shellcheck disable=SC2046 # one argument per package
need_debian_packages $(debian_packages "$world")
check_rust
check_go
check_node
build_cluster_programs "$world"
install_helm
install_go_program kubeconform github.com/yannh/kubeconform/cmd/kubeconform "$kubeconform_version"
install_go_program actionlint github.com/rhysd/actionlint/cmd/actionlint "$actionlint_version"
install_go_program validate-krew-manifest sigs.k8s.io/krew/cmd/validate-krew-manifest "$krew_version"
step "hadolint, shellcheck and cargo-deny" "$here/linters.sh"
make_schemas
link_prometheus
step "the contracts' compiler, forge, cast and anvil" "$checkout/contracts/setup.sh"
say "everything is in place: $bin"
