# shellcheck shell=bash
# The cluster's cgroups, on hosts with cgroup version 1 (one tree per controller) and version 2 (one tree).
#
#   $id/control-plane   etcd, API server, ..., and process 1 of the cluster
#   $id/NODE/system     containerd, kubelet, kube-proxy of a node, and its process 1
#   $id/NODE/kubepods   made by that node's kubelet
#
# Processes sit in leaves only: version 2 demands it. Every process of the cluster, containers included, is below
# $id, so that nothing is ever looked for by name or by a pid that a file remembers.
# cgroup_create, cgroup_enter and cgroup_remove take paths below the root of the trees.

cgroup_root=/sys/fs/cgroup

cgroup_version() { if [ -e "$cgroup_root/cgroup.controllers" ]; then echo 2; else echo 1; fi; }

cgroup_trees() { # prints the directory of every tree
  local tree
  if [ "$(cgroup_version)" = 2 ]; then
    echo "$cgroup_root"
    return
  fi
  for tree in "$cgroup_root"/*; do
    # Links are second names of one tree (cpu -> cpu,cpuacct).
    if [ ! -L "$tree" ] && [ -e "$tree/cgroup.procs" ]; then echo "$tree"; fi
  done
}

cgroup_create() { # PATH inner|leaf
  local tree path kind=$2 controller file
  for tree in $(cgroup_trees); do
    path=$tree/$1
    mkdir -p "$path"
    # Version 1: a new cpuset is empty, and nothing can run in it.
    if [ -e "$path/cpuset.cpus" ] && [ "$(cgroup_version)" = 1 ]; then
      for file in cpuset.cpus cpuset.mems; do cat "$(dirname "$path")/$file" >"$path/$file"; done
    fi
  done
  if [ "$(cgroup_version)" = 2 ]; then
    cgroup_delegate "$cgroup_root"
    if [ "$kind" = inner ]; then cgroup_delegate "$cgroup_root/$1"; fi
    for controller in cpu memory pids; do
      if ! grep -qw "$controller" "$cgroup_root/$1/cgroup.controllers"; then
        echo "the cgroup controller '$controller' cannot be used below $cgroup_root: this host or container keeps it" >&2
        return 1
      fi
    done
  fi
}

cgroup_delegate() { # DIRECTORY (version 2): lets its children use all of its controllers
  local dir=$1 controller pid
  # In a container with a cgroup namespace the visible root is no real root, and may not have processes as well as
  # children with controllers. They move one level down, as in kind's and Docker-in-Docker's own start scripts.
  if [ "$dir" = "$cgroup_root" ] && [ -e "$dir/cgroup.type" ] && [ -s "$dir/cgroup.procs" ]; then
    mkdir -p "$dir/init"
    while read -r pid; do echo "$pid" >"$dir/init/cgroup.procs" || true; done <"$dir/cgroup.procs" 2>/dev/null
  fi
  # shellcheck disable=SC2013 # one line of words
  for controller in $(cat "$dir/cgroup.controllers"); do
    grep -qw "$controller" "$dir/cgroup.subtree_control" ||
      { echo "+$controller" >"$dir/cgroup.subtree_control"; } 2>/dev/null || true
  done
}

cgroup_enter() { # PATH PID
  local tree
  for tree in $(cgroup_trees); do echo "$2" >"$tree/$1/cgroup.procs"; done
}

cgroup_pids() { # PATH: prints every process in it and below
  local tree
  for tree in $(cgroup_trees); do
    if [ -d "$tree/$1" ]; then find "$tree/$1" -name cgroup.procs -exec cat {} + 2>/dev/null || true; fi
  done | sort -un
}

cgroup_remove() { # PATH: succeeds once it is gone from every tree
  local tree
  for tree in $(cgroup_trees); do
    if [ -d "$tree/$1" ]; then find "$tree/$1" -depth -type d -exec rmdir {} + 2>/dev/null || true; fi
    [ ! -e "$tree/$1" ] || return 1
  done
}

first_process() { # PATH DEPTH: prints the process in exactly this cgroup that is number 1 of the DEPTH-th PID namespace
  local tree pid
  tree=$(cgroup_trees | head -n 1)
  if [ ! -d "$tree/$1" ]; then return 1; fi
  while read -r pid; do
    grep -H ^NSpid: "/proc/$pid/status" 2>/dev/null || true # it may have ended by now
  done <"$tree/$1/cgroup.procs" |
    # /proc/PID/status:NSpid: PID ... 1, one number per namespace
    awk -v depth="$2" -F '[/:\t ]+' '!found && NF == 6 + depth && $NF == 1 { print $3; found = 1 } END { exit !found }'
}
