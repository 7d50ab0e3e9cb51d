complete -c kubectl-gridstake -f -a '(kubectl-gridstake __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null | string match -rv "^:")'
