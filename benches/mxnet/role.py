"""One process of an MXNet 1.9.1 cluster, as `stepbox-peer` starts it: `python role.py [options of a worker]`.

The role and the cluster stand in MXNet's own DMLC_* variables. A scheduler and a server need no options: they serve until
they are killed. A worker speaks with whoever started it as Stepbox's worker does: a line {"event":"ready"} on standard
output when its gradient is filled, a line on standard input to start the round, {"event":"done"} with nanoseconds when the
new weights are there, and {"event":"finished"} at the end. Each of them ends when its standard input does.
"""

import argparse
import json
import os
import queue
import sys
import threading
import time

LINES = queue.Queue()


def read_standard_input():
    """In a thread of its own, so that no process outlives the driver, wherever in MXNet it waits."""
    for line in sys.stdin:
        LINES.put(line)
    os._exit(1)


threading.Thread(target=read_standard_input, daemon=True).start()

import mxnet as mx  # noqa: E402: in a scheduler or server this import is the whole program, and does not return
import numpy as np  # noqa: E402

KEY = 3


def pattern(elements):
    """Element i of the first weights: the same bits as `pattern` in src/work.rs."""
    index = np.arange(elements, dtype=np.uint32)
    mixed = (index * np.uint32(0x9E3779B9)) >> np.uint32(8)
    magnitude = np.float32(0.5) + (mixed >> np.uint32(1)).astype(np.float32) / np.float32(1 << 23)
    return np.where(mixed & np.uint32(1) == 1, -magnitude, magnitude)


def scale(rank, round_):
    """What the pattern is multiplied by for a gradient: eighths from 1 to 15/8, exact in f32."""
    return 1.0 + (3 * round_ + 5 * rank) % 8 / 8.0


def say(**what):
    print(json.dumps(what), flush=True)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parameters", type=int, required=True)
    arguments.add_argument("--rounds", type=int, required=True)
    arguments.add_argument("--learning-rate", type=float, required=True)
    arguments.add_argument("--weights", required=True, help="rank 0 writes the last weights there")
    arguments.add_argument("--separate", action="store_true", help="push and then pull, in place of pushpull")
    options = arguments.parse_args()

    store = mx.kv.create("dist_sync")
    rank, workers = store.rank, store.num_workers
    store.set_optimizer(
        mx.optimizer.Adam(
            learning_rate=options.learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8, wd=0.0, rescale_grad=1.0 / workers
        )
    )
    first = mx.nd.array(pattern(options.parameters))
    store.init(KEY, first)
    weights, gradient = mx.nd.zeros(first.shape), mx.nd.zeros(first.shape)

    for round_ in range(1, options.rounds + 1):
        # Also because `pull` writes over the array last given to `push`.
        mx.nd.broadcast_mul(first, mx.nd.array([scale(rank, round_)]), out=gradient)
        gradient.wait_to_read()
        say(event="ready")
        LINES.get()
        since = time.monotonic_ns()
        if options.separate:
            store.push(KEY, gradient)
            store.pull(KEY, out=weights)
        else:
            store.pushpull(KEY, gradient, out=weights)
        weights.wait_to_read()
        say(event="done", nanoseconds=time.monotonic_ns() - since)
    if rank == 0:
        weights.asnumpy().astype("<f4").tofile(options.weights)
    say(event="finished")
    # The driver ends all of the cluster; MXNet's own way out would wait for the others.
    LINES.get()


if __name__ == "__main__":
    main()
