_kubectl_gridstake() {
    local IFS=$'\n'
    COMPREPLY=($(kubectl-gridstake __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | grep -v '^:' | cut -f1))
}
complete -F _kubectl_gridstake kubectl-gridstake
