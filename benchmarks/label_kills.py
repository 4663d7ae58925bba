"""Kill the labeling server again and again in the middle of labeling, and count what was lost.

``python benchmarks/label_kills.py --kills 50`` labels a queue of 400 chips as fast as the server answers, ends it with
SIGKILL after a random number of answers while another one is on its way, and starts it again. Lost is an answer that
was acknowledged and is not in ``labels.csv`` afterwards; damaged is a file that cannot be read.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from http.client import HTTPException
from pathlib import Path

import numpy as np

from deblora.pipeline.classify.queue import Labels, Queue, QueueChip, QueueClass, write_queue

NAMES = ("=ship", "car, red", "tree")


def toy_queue(root: Path, n_chips: int) -> Queue:
    """Write a queue of gray pictures."""
    chips = tuple(QueueChip(f"{i}.png", f"{i}.png", NAMES[i % 3], 0.5, "tail") for i in range(n_chips))
    classes = tuple(QueueClass(name, "tail", 2) for name in NAMES)
    queue = Queue(root, "0" * 16, "runs/x", "pool", classes, "random", n_chips, 0, chips)
    write_queue(queue, (np.zeros((8, 8, 3), np.uint8) for _ in chips))
    return queue


def start(root: Path) -> tuple["subprocess.Popen[str]", str]:
    """Start the server; return the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deblora", "label", str(root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    found = re.search(r"http\S+", process.stdout.readline())
    assert found is not None
    return process, found.group()


def give(address: str, row: int, label: str) -> bool:
    """Ask for an answer to be saved; return whether that was acknowledged."""
    body = json.dumps({"row": row, "label": label, "state": "labeled"}).encode()
    asked = urllib.request.Request(f"{address}label", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return bool(json.load(answer)["saved"] == row)
    except (OSError, HTTPException, ValueError):
        return False


def kill_often(root: Path, n_kills: int, *, seed: int = 0, n_chips: int = 400) -> dict[str, int]:
    """Return how many answers were acknowledged, and how many of them were lost, over all kills."""
    rng = np.random.default_rng(seed)
    queue = toy_queue(root, n_chips)
    known: dict[int, str] = {}
    n_acknowledged = n_lost = n_cut = 0
    for _ in range(n_kills):
        process, address = start(root)
        timer = threading.Timer(float(rng.uniform(0.005, 0.25)), process.kill)
        timer.start()
        pending: tuple[int, str] | None = None
        while True:
            row, label = int(rng.integers(n_chips)), NAMES[rng.integers(3)]
            if not give(address, row, label):
                pending = (row, label)
                break
            known[row], n_acknowledged = label, n_acknowledged + 1
        timer.join()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        saved = {int(key.removesuffix(".png")): own.label for key, own in Labels(queue).answers.items()}
        if saved != known:  # the answer on its way may be saved or not
            n_cut += 1
            known[pending[0]] = pending[1]
            n_lost += sum(saved.get(row) != label for row, label in known.items())
            known = saved
    return {"kills": n_kills, "acknowledged": n_acknowledged, "lost": n_lost, "saved_unacknowledged": n_cut}


def main() -> None:
    """Print the counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(kill_often(Path(folder) / "queue", options.kills, seed=options.seed), indent=1))


if __name__ == "__main__":
    main()
