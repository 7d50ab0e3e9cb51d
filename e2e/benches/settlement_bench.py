#!/usr/bin/env python3
"""Measures how long a sealed slice waits for its block, and what the operator needs for settling; prints lines of the table
that cluster_bench.py begins.

Called by e2e/bench.sh in the cluster's network, with a chain and a market that pays for NAMESPACE's jobs.
Needs only Python's standard library.
"""

import argparse
import statistics
import subprocess
import threading
import time

from cluster_bench import JOB, Report, kubectl, objects, operator_resident_mib, wait_until

# e2e/values-chain.yaml gathers records for a second; e2e/chain/anvil.yaml mines a block a second.
WINDOW_SECONDS, BLOCK_SECONDS = 1, 1


class Slices:
    """Notes when each UsageRecord is sealed and when a block holds its payment, as a watcher sees it."""

    def __init__(self) -> None:
        self.sealed: dict[str, float] = {}
        self.included: dict[str, float] = {}
        command = ["kubectl", "get", "usagerecords", "-n", "gridstake-system", "--watch", "-o", "json"]
        self.watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """Reads what the watch tells."""
        for item in objects(self.watcher.stdout):
            now, status, name = time.monotonic(), item.get("status", {}), item["metadata"]["name"]
            if "sealed" in status:
                self.sealed.setdefault(name, now)
            if status.get("settlement", {}).get("state") in ("Paid", "Final"):
                self.included.setdefault(name, now)

    def waits(self) -> list[float]:
        """Gives the time from each seal to the block."""
        return [self.included[name] - self.sealed[name] for name in self.sealed if name in self.included]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", required=True, help="path of world.sh")
    parser.add_argument("--namespace", required=True, help="whose jobs are paid for")
    parser.add_argument("--jobs", type=int, default=20)
    options = parser.parse_args()

    report, slices = Report(), Slices()
    for number in range(options.jobs):
        name = f"bench-{number}"
        kubectl("create", "-n", options.namespace, "-f", "-", text=JOB.replace("NAME", name).replace('"1"', '"3"'))
        kubectl("wait", "-n", options.namespace, "--for=condition=Settled", f"computejob/{name}", "--timeout=90s")
    wait_until(lambda: len(slices.waits()) >= options.jobs, 60, "every slice's payment is seen")
    slices.watcher.kill()
    waits, target = slices.waits(), WINDOW_SECONDS + 2 * BLOCK_SECONDS
    report.add(f"slice sealed to payment in a block, median of {len(waits)}", statistics.median(waits), "s", target)
    report.add(f"slice sealed to payment in a block, slowest of {len(waits)}", max(waits), "s", target)
    report.add("operator resident memory, with settlement", operator_resident_mib(options.world), "MiB", 70)


if __name__ == "__main__":
    main()
