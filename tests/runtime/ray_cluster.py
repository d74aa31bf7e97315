"""Run by test_ray_engine.py in a process of its own: a real cluster on loopback, one machine of which is killed.

Usage: ray_cluster.py MODEL FOLDER OUTPUT. Prints one JSON document: the exit of `cmt score`, and what was killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
os.environ |= {"RAY_worker_niceness": "0"}  # whatever else runs on the machine must not starve them

from ray.cluster_utils import Cluster

MEMORY = 80 << 20
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
CHILD = "import runtime.scoring; runtime.scoring.PART_SECONDS = 0; from runtime.cli import score; score()"


def main(model: str, folder: str, output: str) -> None:
    # Ray takes 127.0.0.1 for the address that other machines see; the rest of 127/8 is loopback as well.
    place = {"node_ip_address": "127.0.0.2", "object_store_memory": MEMORY}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
    cluster = Cluster(initialize_head=True, head_node_args=head | place)
    nodes = [cluster.add_node(num_cpus=1, **place) for _ in range(2)]
    options = [model, folder, "-o", output, "--logits", "--batch", "4", "--engine", "ray", "--address"]
    scoring = subprocess.Popen([sys.executable, "-c", CHILD, *options, cluster.address], stderr=subprocess.PIPE)
    parts = Path(output + ".parts")
    while scoring.poll() is None and len(list(parts.glob("part-*"))) < 20:
        time.sleep(0.01)
    in_the_middle = scoring.poll() is None
    raylet = nodes[0].all_processes["raylet"][0].process
    os.kill(raylet.pid, signal.SIGKILL)
    errors = scoring.communicate()[1].decode()
    print(json.dumps({"code": scoring.returncode, "in_the_middle": in_the_middle, "errors": errors[-2000:]}))
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
