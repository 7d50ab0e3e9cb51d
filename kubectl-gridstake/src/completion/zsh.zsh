_kubectl_gridstake() {
    local -a found
    found=("${(@f)$(kubectl-gridstake __complete "${(@)words[2,CURRENT]}" 2>/dev/null | grep -v '^:' | sed 's/:/\\:/g' | tr '\t' ':')}")
    _describe kubectl-gridstake found
}
compdef _kubectl_gridstake kubectl-gridstake
