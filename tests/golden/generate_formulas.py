"""Golden trajectories for variants that neither optax nor MXNet computes: `python generate_formulas.py [optimizer ...]`
in the environment of requirements-optax.txt.

They come from formulas.py in f64; only the parameters at the checkpoints are rounded to f32.
"""

import sys

import numpy as np

import formulas
from golden import EMBEDDING, MODEL, Case, generate


def run(optimizer, case, follows, hyperparameters, rate, tiny_rate=None, **rest):
    """`follows` names the paper or the code whose documented formula this is."""
    formula = getattr(formulas, optimizer.replace("-", "_"))

    def start(chosen, _rates, parameters):
        parameters = [p.astype(np.float64) for p in parameters]
        state = {}

        def step(round_, rate, gradients, rows):
            more = [rows] if rows else []
            gradients = [g.astype(np.float64) for g in gradients]
            formula(chosen, rate, round_, parameters, gradients, state, *more)
            return parameters

        return {"arguments": chosen}, step

    reference = {"package": "formulas.py", "version": f"numpy {np.__version__}", "function": follows}
    case = Case(optimizer, case, hyperparameters, reference, rate, tiny_rate, **rest)
    generate(case, start, set(sys.argv[1:]))


SMALL_DECAY = {"weight_decay": 2e-8}

ADAGRAD = {"initial_accumulator": 0.0, "epsilon": 1e-10, "epsilon_inside_root": False}
TORCH_ADAGRAD = "torch.optim.Adagrad"
run("adagrad", "", TORCH_ADAGRAD, {"learning_rate_decay": 0.0, "weight_decay": 0.0, **ADAGRAD}, 0.1)
run(
    "adagrad",
    "decay",
    TORCH_ADAGRAD,
    {"learning_rate_decay": 0.01, "weight_decay": 0.02, **ADAGRAD, "initial_accumulator": 0.1, "epsilon": 1e-8},
    0.1,
    tiny={**SMALL_DECAY, "initial_accumulator": 1e-13},
)

ADAN = {"beta1": 0.98, "beta2": 0.92, "beta3": 0.99, "epsilon": 1e-8, "weight_decay": 0.0}
run("adan", "", "sail-sg/Adan with no_prox (arXiv:2208.06677, algorithm 1)", ADAN, 0.01)

ROWWISE = {"epsilon": 1e-8, "initial_accumulator": 0.0, "weight_decay": 0.0}
FBGEMM = "FBGEMM rowwise_adagrad"
run("rowwise-adagrad", "", FBGEMM, ROWWISE, 0.1, tensors=EMBEDDING, touched_rows=5)
run(
    "rowwise-adagrad",
    "l2",
    FBGEMM,
    {"epsilon": 1e-6, "initial_accumulator": 0.1, "weight_decay": 0.02},
    0.1,
    tiny={**SMALL_DECAY, "initial_accumulator": 1e-13},
    tensors=EMBEDDING,
    touched_rows=5,
)

SHAMPOO = {"epsilon": 1e-4, "momentum": 0.0, "weight_decay": 0.0}
LOOSE = {
    "tolerance": 1e-4,
    "difference": "inverse fourth roots by Newton iterations in f32 against exact ones in f64: 1e-5 measured, and more "
    "where an iteration stops earlier",
}
GUPTA = "Gupta et al. 2018, algorithm 1 (arXiv:1802.09568), exact inverse roots"
run("shampoo", "", GUPTA, SHAMPOO, 0.1, tensors=MODEL, tiny={"epsilon": 1e-16}, **LOOSE)
run(
    "shampoo",
    "momentum",
    GUPTA,
    {"epsilon": 0.5, "momentum": 0.9, "weight_decay": 0.02},
    0.02,
    tensors=MODEL,
    tiny={"epsilon": 5e-13, **SMALL_DECAY},
    **LOOSE,
)
