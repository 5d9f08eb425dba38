"""Compares every committed trajectory with the formulas: `python verify.py [--sensitivity] [optimizer ...]`.

The difference of a value is |ours - theirs| / max(|theirs|, moved), `moved` being how far the tensor's values have come
from their start at most; a file's difference is the largest over all values and checkpoints, with the formulas in f64
and in f32. The second figure divides by `moved` alone at the last checkpoint, which is the sharper where parameters
have moved little. Exits with 1 if a file's difference exceeds its tolerance.

With --sensitivity: changes each hyperparameter by a tenth (a switch is turned, a zero becomes 0.01) and the drop of the
learning rate away, and says which changes no file of the optimizer would notice.
"""

import json
import sys

import numpy as np

import formulas
from golden import FOLDER, gradient, initial

WORDS = {"true": True, "false": False}


def parsed(text):
    return WORDS[text] if text in WORDS else float(text)


def replay(document, precision, hyperparameters, rates):
    formula = getattr(formulas, document["optimizer"].replace("-", "_"))
    tensors = [(tuple(t["shape"]), t["identity"]) for t in document["tensors"]]
    parameters = [initial(shape, identity).astype(precision) for shape, identity in tensors]
    checkpoints = {c["round"]: c for c in document["checkpoints"]}
    state, worst, last = {}, 0.0, 0.0
    for round_ in range(1, max(checkpoints) + 1):
        rate = [rate for since, rate in rates if since <= round_][-1]
        gradients = [gradient(shape, i, round_, document["gradient_scale"]).astype(precision) for shape, i in tensors]
        arguments = [hyperparameters, rate, round_, parameters, gradients, state]
        if "rows" in document:
            rows = document["rows"][round_ - 1]
            arguments[4] = [g[touched] for g, touched in zip(gradients, rows)]
            arguments.append(rows)
        formula(*arguments)
        if round_ not in checkpoints:
            continue
        checkpoint = checkpoints[round_]
        pairs = list(zip(parameters, checkpoint["parameters"], tensors))
        if "evaluation" in checkpoint:
            pairs += zip(state["evaluation"], checkpoint["evaluation"], tensors)
        last = 0.0
        for ours, theirs, (shape, identity) in pairs:
            assert ours.dtype == precision
            theirs = np.array(theirs).reshape(shape)
            difference = np.abs(ours - theirs)
            moved = np.abs(theirs - initial(shape, identity)).max()
            relative = (difference / np.maximum(np.abs(theirs), moved)).max()
            worst = max(worst, float(relative) if np.isfinite(relative) else np.inf)
            last = max(last, difference.max() / moved)
    return worst, last


def changes(document, hyperparameters):
    for name, value in hyperparameters.items():
        if "steps" in name or "size" in name:
            changed = value + 1
        elif isinstance(value, bool):
            changed = not value
        else:
            changed = value * 1.1 if value and value * 1.1 != 1.0 else 0.01
        if name.startswith("beta") and isinstance(changed, float) and changed >= 1.0:
            changed = 1.0 - 1.1 * (1.0 - value)
        yield name, {**hyperparameters, name: changed}, document["learning_rate"]
    yield "the drop of the learning rate", hyperparameters, document["learning_rate"][:1]


def main():
    chosen = [word for word in sys.argv[1:] if not word.startswith("-")]
    failed, noticed = False, {}
    print(f"{'file':40} {'f64':>9} {'moved':>9} {'f32':>9} {'moved':>9}  tolerance")
    for path in sorted(FOLDER.glob("*.json")):
        document = json.loads(path.read_text())
        if chosen and document["optimizer"] not in chosen:
            continue
        given = {key: parsed(text) for key, text in document["hyperparameters"].items()}
        if "newton_schulz_steps" in given:
            given["newton_schulz_steps"] = int(given["newton_schulz_steps"])
        rates, tolerance = document["learning_rate"], document["tolerance"]
        (double, double_moved), (single, single_moved) = (
            replay(document, p, given, rates) for p in (np.float64, np.float32)
        )
        over = max(double, single) > tolerance
        failed |= over
        numbers = f"{double:9.1e} {double_moved:9.1e} {single:9.1e} {single_moved:9.1e}"
        print(f"{path.stem:40} {numbers}  {tolerance:g}{' EXCEEDED' if over else ''}")
        if "--sensitivity" in sys.argv:
            for name, hyperparameters, changed_rates in changes(document, given):
                with np.errstate(all="ignore"):
                    seen = replay(document, np.float64, hyperparameters, changed_rates)[0] > 2 * tolerance
                key = document["optimizer"], name
                noticed[key] = noticed.get(key, False) or seen
    for (optimizer, name), seen in noticed.items():
        if not seen:
            print(f"{optimizer}: no file notices a change of {name}")
    sys.exit(failed)


main()
