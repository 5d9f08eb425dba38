"""What every generator of golden trajectories shares: the values, the loop over rounds and the file format.

Initial parameters, gradients and touched rows come from a hash, so that the tests compute the same ones without
Python. README.md describes the files.
"""

import dataclasses
import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent
ROUNDS = 200
DROP = ((1, 1.0), (101, 0.1))
"""From which round on the learning rate is which part of the case's."""
WARM = ((1, 0.1), (21, 1.0), (101, 0.1))
CHECKPOINTS = (1, 2, 10, 100, 101, 200)
ROW_SEED = 1 << 20
"""Base of the seeds that choose touched rows, far from those of gradients (64 * round + identity)."""
SCALES = {"": 1.0, "tiny": 1e-6}

VECTOR = [("vector", (64,))]
MODEL = [("matrix", (12, 10)), ("bias", (17,))]
WIDE_MODEL = [("matrix", (12, 10)), ("wide", (8, 24)), ("bias", (17,))]
EMBEDDING = [("embedding", (12, 6))]


def hashed(count, seed):
    """The hash of elements 0..count for a seed, in wrapping 32-bit arithmetic."""
    mask = 0xFFFFFFFF
    index = np.arange(count, dtype=np.uint64)
    hashes = (index * 0x9E3779B9 & mask) ^ (seed * 0x85EBCA6B & mask)
    return (hashes ^ (hashes >> np.uint64(15))) * 0x2C1B3C6D & mask


def values(count, seed):
    """Values in -1..1; every sixteenth is 0 and every sixteenth about 1e-20, chosen by the hash."""
    hashes = hashed(count, seed)
    plain = (hashes >> np.uint64(8)).astype(np.float32) / np.float32(2**23) - np.float32(1)
    kind = hashes % 16
    result = np.where(kind == 1, plain * np.float32(1e-20), plain)
    return np.where(kind == 0, np.float32(0), result).astype(np.float32)


def initial(shape, identity):
    return values(int(np.prod(shape)), 1000 + identity).reshape(shape)


def gradient(shape, identity, round_, scale):
    return (np.float32(scale) * values(int(np.prod(shape)), 64 * round_ + identity)).reshape(shape)


def touched(rows, identity, round_, count):
    """The row ids touched in a round: the `count` rows of smallest hash, ascending."""
    hashes = hashed(rows, ROW_SEED + 64 * round_ + identity)
    return sorted(np.argsort(hashes, kind="stable")[:count].tolist())


@dataclasses.dataclass
class Case:
    """One optimizer with one set of hyperparameters and the reference that computes it."""

    optimizer: str
    case: str
    hyperparameters: dict
    reference: dict
    rate: float
    tiny_rate: float | None = None
    """Learning rate for gradients of 1e-6, where the optimizer's step is in proportion to the gradient."""
    tiny: dict = dataclasses.field(default_factory=dict)
    """Hyperparameters that differ for gradients of 1e-6, for the same reason."""
    tensors: list = dataclasses.field(default_factory=lambda: VECTOR)
    schedule: tuple = DROP
    touched_rows: int | None = None
    tolerance: float = 2e-5
    difference: str | None = None


def text(value):
    """A hyperparameter as `configure` reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def rates(case, scale):
    """The learning rates as (round from which on, rate)."""
    rate = case.tiny_rate if scale != 1.0 and case.tiny_rate is not None else case.rate
    return [(since, float(f"{rate * part:.9g}")) for since, part in case.schedule]


def generate(case, start, only=None):
    """Runs a case at each gradient scale and writes its files.

    `start(hyperparameters, rates, parameters)` begins a trajectory of the reference. It returns a function
    `step(round, rate, gradients, rows)` giving all parameters after the round, or those and the evaluation weights.
    """
    if only and case.optimizer not in only:
        return
    for label, scale in SCALES.items():
        hyperparameters = {**case.hyperparameters, **(case.tiny if scale != 1.0 else {})}
        schedule = rates(case, scale)
        identities = range(1, len(case.tensors) + 1)
        shapes = [shape for _, shape in case.tensors]
        first = [initial(shape, identity) for shape, identity in zip(shapes, identities)]
        reference, step = start(hyperparameters, schedule, [p.copy() for p in first])
        checkpoints, rows_of_rounds = [], []
        for round_ in range(1, ROUNDS + 1):
            gradients, rows = [], []
            for shape, identity in zip(shapes, identities):
                whole = gradient(shape, identity, round_, scale)
                if case.touched_rows:
                    rows.append(touched(shape[0], identity, round_, case.touched_rows))
                    whole = whole[rows[-1]]
                gradients.append(whole)
            rows_of_rounds.append(rows)
            rate = [rate for since, rate in schedule if since <= round_][-1]
            result = step(round_, rate, gradients, rows or None)
            parameters, evaluation = result if isinstance(result, tuple) else (result, None)
            if round_ in CHECKPOINTS:
                checkpoint = {"round": round_, "parameters": [np.array(p, np.float32) for p in parameters]}
                if evaluation is not None:
                    checkpoint["evaluation"] = [np.array(p, np.float32) for p in evaluation]
                checkpoints.append(checkpoint)
        name = "-".join(part for part in (case.optimizer, case.case, label) if part)
        moved = [float(np.abs(np.asarray(p) - f).max()) for p, f in zip(checkpoints[-1]["parameters"], first)]
        if not all(np.isfinite(p).all() for c in checkpoints for p in c["parameters"]) or min(moved) < 0.02:
            raise SystemExit(f"{name}: not finite, or moved too little to say anything: {moved}")
        document = {
            "optimizer": case.optimizer,
            "case": "-".join(part for part in (case.case, label) if part) or "default",
            "reference": {**case.reference, **reference},
            "hyperparameters": {key: text(value) for key, value in hyperparameters.items()},
            "learning_rate": schedule,
            "gradient_scale": scale,
            "tensors": [
                {"name": tensor, "shape": list(shape), "identity": identity}
                for (tensor, shape), identity in zip(case.tensors, identities)
            ],
        }
        if case.touched_rows:
            document["rows"] = rows_of_rounds
        document |= {"tolerance": case.tolerance, "difference": case.difference, "checkpoints": checkpoints}
        (FOLDER / f"{name}.json").write_text(render(document))
        print(f"{name}: moved by {', '.join(f'{m:.3g}' for m in moved)}")


def render(document):
    """JSON with one line for each head entry and each checkpoint, f32 in the fewest digits that read back alike."""

    def compact(value):
        if isinstance(value, np.ndarray):
            return "[" + ",".join(digits(x) for x in value.ravel()) + "]"
        if isinstance(value, dict):
            return "{" + ",".join(f"{json.dumps(k)}:{compact(v)}" for k, v in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ",".join(compact(v) for v in value) + "]"
        return json.dumps(value)

    lines = []
    for key, value in document.items():
        if key == "checkpoints":
            value = "[\n" + ",\n".join(compact(c) for c in value) + "\n]"
        else:
            value = compact(value)
        lines.append(f"{json.dumps(key)}:{value}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def digits(x):
    shown = str(np.float32(x))
    return shown[:-2] if shown.endswith(".0") else shown
