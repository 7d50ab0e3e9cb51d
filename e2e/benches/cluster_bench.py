#!/usr/bin/env python3
"""Measures an installed Gridstake on the native cluster and prints a table in Markdown.

Called by e2e/bench.sh in the cluster's network, where kubectl reaches the API server and pods have addresses.
Each line gives the number, the target it is held against and their ratio; nothing here fails because of a time.
Needs only Python's standard library.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request

NAMESPACE = "gridstake-system"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

JOB = """
apiVersion: gridstake.dev/v1alpha1
kind: ComputeJob
metadata: {name: NAME}
spec:
  gpu: {count: 1}
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: "localhost/busybox:1", command: [sleep, "1"]}]
"""


def kubectl(*arguments: str, text: str | None = None) -> str:
    """Runs kubectl and gives what it prints."""
    return subprocess.run(["kubectl", *arguments], check=True, capture_output=True, text=True, input=text).stdout


class Node:
    """A node of the cluster, reached through world.sh."""

    def __init__(self, world: str, name: str) -> None:
        self.world, self.name = world, name

    def shell(self, script: str) -> str:
        """Runs a script on the node, as root, and gives what it prints."""
        command = [self.world, "on-node", self.name, "bash", "-c", script]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def process_of(self, pod_uid: str, program: str) -> int:
        """Gives the PID, on the node, of a pod's process of this program; 0 if it does not run."""
        # The program's name is cut to 15 characters in `comm`; its file name in the image is whole.
        script = f"""for p in /proc/[0-9]*; do
            if [ "$(readlink $p/exe)" = /usr/bin/{program} ] && grep -q {pod_uid} $p/cgroup; then echo ${{p#/proc/}}; fi
        done 2>/dev/null | head -n 1"""
        return int(self.shell(script).strip() or 0)

    def resident_mib(self, pid: int) -> float:
        """Gives the resident memory of a process in MiB."""
        return int(self.shell(f"grep VmRSS: /proc/{pid}/status").split()[1]) / 1024

    def stat(self, pid: int) -> list[str]:
        """Gives the fields of /proc/PID/stat from the third on (the second, a name, may hold spaces)."""
        return self.shell(f"cat /proc/{pid}/stat").rsplit(")", 1)[1].split()

    def cpu_seconds(self, pid: int) -> float:
        """Gives the CPU time that a process has used, user and system."""
        fields = self.stat(pid)
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def started(self, pid: int) -> float:
        """Gives the start of a process in seconds since boot."""
        return int(self.stat(pid)[19]) / TICKS_PER_SECOND


class Report:
    """The table's lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, what: str, value: float, unit: str, target: float) -> None:
        """Adds a number whose target is an upper bound."""
        ratio = f"{value / target:.2f}" if target else "-"
        line = f"| {what} | {value:.3g} {unit} | {target:g} {unit} | {ratio} |"
        print(line, flush=True)
        self.lines.append(line)


def pods(component: str) -> list[dict]:
    """Gives the pods of one part of Gridstake."""
    selector = f"app.kubernetes.io/name=gridstake,app.kubernetes.io/component={component}"
    return json.loads(kubectl("get", "pods", "-n", NAMESPACE, "-l", selector, "-o", "json"))["items"]


def is_ready(address: str) -> bool:
    """Says whether the operator at this address answers /readyz with 200."""
    try:
        with urllib.request.urlopen(f"http://{address}:8080/readyz", timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def wait_until(condition, seconds: float, what: str) -> None:
    """Waits for a condition, looking every 10 ms."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"timed out after {seconds} s: {what}")
        time.sleep(0.01)


def operator_ready_seconds(world: str) -> float:
    """Kills an operator's process and gives the time from the start of the next one until it is ready."""
    pod = pods("operator")[0]
    node, uid, address = Node(world, pod["spec"]["nodeName"]), pod["metadata"]["uid"], pod["status"]["podIP"]
    node.shell(f"kill -9 {node.process_of(uid, 'gridstake-operator')}")
    wait_until(lambda: not is_ready(address), 10, "the killed operator goes away")
    wait_until(lambda: is_ready(address), 60, "the operator is ready again")
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    return now - node.started(node.process_of(uid, "gridstake-operator"))


def objects(stream):
    """Gives one JSON object after the other of what `kubectl get --watch -o json` prints."""
    decoder, text = json.JSONDecoder(), ""
    for line in stream:
        text += line
        if line == "}\n":
            item, text = decoder.decode(text), ""
            yield item


class Watch:
    """Notes when pods of ComputeJobs begin to run, and when the jobs were created, as a watcher sees them."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], float] = {}
        self.watchers: list[subprocess.Popen] = []
        for kind, selector in (("computejobs", []), ("pods", ["-l", "gridstake.dev/job"])):
            command = ["kubectl", "get", kind, "--watch", "-o", "json", *selector]
            watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self.watchers.append(watcher)
            threading.Thread(target=self.read, args=(kind, watcher), daemon=True).start()

    def stop(self) -> None:
        """Ends the watches: a kubectl that is left behind keeps this program's output open."""
        for watcher in self.watchers:
            watcher.kill()

    def read(self, kind: str, watcher: subprocess.Popen) -> None:
        """Reads what a watch tells."""
        for item in objects(watcher.stdout):
            now = time.monotonic()
            if kind == "computejobs":
                self.seen.setdefault(("created", item["metadata"]["name"]), now)
            elif item["status"].get("phase") in ("Running", "Succeeded"):
                self.seen.setdefault(("running", item["metadata"]["labels"]["gridstake.dev/job"]), now)


def job_start_seconds(count: int) -> list[float]:
    """Starts jobs one after the other and gives the time from each one's creation until its pod runs."""
    watch, times = Watch(), []
    for number in range(count):
        name = f"bench-{number}"
        kubectl("create", "-f", "-", text=JOB.replace("NAME", name))
        wait_until(lambda name=name: ("running", name) in watch.seen, 60, f"job {name} runs")
        times.append(watch.seen["running", name] - watch.seen["created", name])
        kubectl("wait", "--for=condition=Complete", f"computejob/{name}", "--timeout=60s")
    watch.stop()
    kubectl("delete", "computejobs", "--all", "--timeout=60s")
    return times


def operator_resident_mib(world: str) -> float:
    """Gives the resident memory of the larger of the operator's replicas in MiB."""
    found = [(Node(world, pod["spec"]["nodeName"]), pod["metadata"]["uid"]) for pod in pods("operator")]
    return max(node.resident_mib(node.process_of(uid, "gridstake-operator")) for node, uid in found)


def is_at_rest() -> bool:
    """Tells whether every GpuNode shows all its GPUs free: the last write that jobs cause, up to 5 s after them."""
    nodes = json.loads(kubectl("get", "gpunodes", "-o", "json"))["items"]
    return all(node["status"]["free"] == node["status"]["capacity"] for node in nodes)


def writes_by_gridstake(audit_log: pathlib.Path, since: str) -> dict[str, int]:
    """Counts the API writes of Gridstake's parts since a time, by resource."""
    counts: dict[str, int] = {}
    for line in audit_log.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["stageTimestamp"] >= since and event["user"]["username"].startswith(f"system:serviceaccount:{NAMESPACE}:"):
            resource = event.get("objectRef", {}).get("resource", "other")
            counts[resource] = counts.get(resource, 0) + 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", required=True, help="path of world.sh")
    parser.add_argument("--images", required=True, type=pathlib.Path)
    parser.add_argument("--audit-log", required=True, type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--idle-seconds", type=int, default=600)
    parser.add_argument("--profile", default="release")
    options = parser.parse_args()

    print(f"\n{datetime.date.today()}, {os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, "
          f"profile {options.profile}\n\n| what | measured | at most | ratio |\n|---|---|---|---|", flush=True)
    report = Report()
    for image in ("operator", "device-agent", "simulated-gpus"):
        report.add(f"image {image}", (options.images / f"{image}.tar").stat().st_size / 1e6, "MB", 30)
    report.add("operator ready after its start", operator_ready_seconds(options.world), "s", 2)

    times = job_start_seconds(options.jobs)
    report.add(f"job created to pod running, median of {options.jobs}", statistics.median(times), "s", 2)
    report.add(f"job created to pod running, slowest of {options.jobs}", max(times), "s", 2)

    wait_until(is_at_rest, 60, "the cluster is at rest")
    since = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    agents = [(Node(options.world, pod["spec"]["nodeName"]), pod["metadata"]["uid"]) for pod in pods("device-agent")]
    agents = [(node, node.process_of(uid, "gridstake-device-agent")) for node, uid in agents]
    before, begin = [node.cpu_seconds(pid) for node, pid in agents], time.monotonic()
    time.sleep(options.idle_seconds)  # the length of the measurement
    used = [node.cpu_seconds(pid) - start for (node, pid), start in zip(agents, before)]
    report.add("agent CPU, of one core, at idle", max(used) / (time.monotonic() - begin) * 100, "%", 1)
    report.add("agent resident memory", max(node.resident_mib(pid) for node, pid in agents), "MiB", 20)
    report.add("operator resident memory", operator_resident_mib(options.world), "MiB", 50)
    writes = writes_by_gridstake(options.audit_log, since)
    leases = writes.pop("leases", 0)
    report.add(f"API writes in {options.idle_seconds} s of idling, Leases apart", sum(writes.values()), "writes", 0)
    print(f"\nLease renewals meanwhile: {leases}. Other writes: {writes or 'none'}.")


if __name__ == "__main__":
    main()
