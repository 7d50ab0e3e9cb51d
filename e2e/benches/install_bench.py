#!/usr/bin/env python3
"""Measures how long it takes to install Gridstake with Helm, on a cluster whose nodes have the images, and prints a table in
Markdown. It is installed as every story's world is, by e2e/install.sh, API types first; it stays installed.

Called by e2e/bench.sh in the cluster's network. Needs only Python's standard library.
"""

import argparse
import json
import statistics
import subprocess
import time

NAMESPACE = "gridstake-system"
TARGET_SECONDS = 20


def run(*command: str) -> str:
    """Runs a command and gives what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def uninstall() -> None:
    """Removes both releases, the API types with all objects, and what the parts wrote."""
    if not run("kubectl", "get", "namespace", NAMESPACE, "--ignore-not-found"):
        return
    for release in ("gridstake", "gridstake-crds"):
        run("helm", "uninstall", release, "--namespace", NAMESPACE, "--wait", "--ignore-not-found")
    run("kubectl", "delete", "crd", "--selector", "app.kubernetes.io/part-of=gridstake")
    run("kubectl", "delete", "namespace", NAMESPACE)
    # Its claim was in the namespace, and another one of that name would not be bound to it.
    run("kubectl", "delete", "persistentvolume", "gridstake-archive", "--ignore-not-found")


def install(script: str) -> tuple[float, float, int]:
    """Gives the seconds until every pod is Ready, until every node offers its GPUs, and how many pods there are."""
    begin = time.monotonic()
    run(script)
    ready = time.monotonic() - begin
    nodes = json.loads(run("kubectl", "get", "daemonset", "gridstake-device-agent", "-n", NAMESPACE, "-o", "json"))
    wanted = nodes["status"]["desiredNumberScheduled"]
    while len(run("kubectl", "get", "gpunodes", "--output", "name").split()) < wanted:
        time.sleep(0.05)
    run("kubectl", "wait", "--for=condition=Offered", "gpunodes", "--all", "--timeout=120s")
    offered = time.monotonic() - begin
    pods = json.loads(run("kubectl", "get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]
    for pod in pods:
        states = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
        restarts = sum(c["restartCount"] for c in pod["status"]["containerStatuses"])
        if states["Ready"] != "True" or restarts:
            raise SystemExit(f"{pod['metadata']['name']}: Ready {states['Ready']}, {restarts} restarts")
    return ready, offered, len(pods)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--install", required=True, help="path of e2e/install.sh")
    parser.add_argument("--times", type=int, default=3, help="how often")
    arguments = parser.parse_args()
    measured = []
    for _ in range(arguments.times):
        uninstall()
        measured.append(install(arguments.install))
    pods = measured[-1][2]
    print("| what | measured | at most | ratio |\n|---|---|---|---|")
    for column, what in enumerate((f"helm install of both charts to all {pods} pods Ready", "the same to every node's GPUs offered")):
        values = [m[column] for m in measured]
        for name, value in (("median", statistics.median(values)), ("slowest", max(values))):
            print(f"| {what}, {name} of {len(values)} | {value:.1f} s | {TARGET_SECONDS} s | {value / TARGET_SECONDS:.2f} |")


if __name__ == "__main__":
    main()
