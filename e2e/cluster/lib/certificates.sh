# shellcheck shell=bash
# The cluster's certificates, made anew at each start. All files are in $dir/pki; keys are readable by root only.

: "${dir:?}" "${gateway:?}"
certificate_days=30

make_authority() { # the CA that signs everything below, and the key of the service account tokens
  (
    umask 077
    cd "$dir/pki" || exit
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -subj /CN=gridstake-test-cluster -days "$certificate_days" -out ca.crt
    openssl ecparam -name prime256v1 -genkey -noout -out service-accounts.key
  ) 2>/dev/null
}

make_certificate() { # NAME SUBJECT SUBJECT_ALT_NAMES
  (
    umask 077
    cd "$dir/pki" || exit
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3" >"$1.ext"
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 8)" \
      -days "$certificate_days" -extfile "$1.ext" -out "$1.crt"
    rm "$1.ext" "$1.csr"
  ) 2>/dev/null
}

make_identity() { # NAME SUBJECT SUBJECT_ALT_NAMES: a certificate and a kubeconfig, $dir/pki/NAME.kubeconfig
  make_certificate "$@"
  (
    umask 077
    cat >"$dir/pki/$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters:
  - name: gridstake
    cluster:
      server: https://$gateway:6443
      certificate-authority-data: $(base64 -w0 <"$dir/pki/ca.crt")
users:
  - name: $1
    user:
      client-certificate-data: $(base64 -w0 <"$dir/pki/$1.crt")
      client-key-data: $(base64 -w0 <"$dir/pki/$1.key")
contexts:
  - name: gridstake
    context: {cluster: gridstake, user: $1}
current-context: gridstake
YAML
  )
}
