"""Golden trajectories from MXNet 1.9.1: `python generate_mxnet.py [optimizer ...]`, in the environment of
requirements-mxnet.txt (Python 3.11 with numpy 1.23.5).

Drives `mx.optimizer` directly, the learning rate set each round and `rescale_grad` 1.
"""

import sys

import mxnet as mx

from golden import EMBEDDING, Case, generate


def run(optimizer, case, kind, arguments, hyperparameters, rate, tiny_rate=None, **rest):
    """`arguments` gives MXNet's constructor arguments for our hyperparameters."""

    def start(chosen, _rates, parameters):
        given = arguments(chosen)
        updater = kind(learning_rate=rate, rescale_grad=1.0, **given)
        sparse = "touched_rows" in rest
        weights = [mx.nd.array(p) for p in parameters]
        if sparse:
            weights = [w.tostype("row_sparse") for w in weights]
        states = [updater.create_state(i, w) for i, w in enumerate(weights)]

        def step(_round, rate, gradients, rows):
            updater.set_learning_rate(rate)
            for i, (weight, state) in enumerate(zip(weights, states)):
                value = mx.nd.array(gradients[i])
                if sparse:
                    value = mx.nd.sparse.row_sparse_array((value, rows[i]), shape=weight.shape)
                updater.update(i, weight, value, state)
            return [w.asnumpy() for w in weights]

        return {"arguments": given}, step

    function = f"{kind.__module__}.{kind.__name__}".replace("optimizer.optimizer.", "optimizer.")
    reference = {"package": "mxnet", "version": mx.__version__, "function": function}
    case = Case(optimizer, case, hyperparameters, reference, rate, tiny_rate, **rest)
    generate(case, start, set(sys.argv[1:]))


def betas(h):
    return {"beta1": h["beta1"], "beta2": h["beta2"], "epsilon": h["epsilon"], "wd": h["weight_decay"]}


def nadam(h):
    return {**betas(h), "schedule_decay": h["momentum_decay"]}


def signum(h):
    return {"momentum": h["momentum"], "wd": h["weight_decay"], "wd_lh": h["decoupled_weight_decay"]}


def ftrl(h):
    return {"lamda1": h["lambda1"], "beta": h["beta"], "wd": h["weight_decay"]}


def lazy_adam(h):
    return {**betas(h), "lazy_update": True}


ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
FAST = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.02}
SMALL_DECAY = {"weight_decay": 2e-8}

NADAM = mx.optimizer.Nadam
run("nadam", "", NADAM, nadam, {**ADAM, "momentum_decay": 0.004}, 0.01)
run("nadam", "l2", NADAM, nadam, {**FAST, "momentum_decay": 0.05}, 0.01, tiny=SMALL_DECAY)

SIGNUM = {"momentum": 0.9, "weight_decay": 0.0, "decoupled_weight_decay": 0.0}
run("signum", "", mx.optimizer.Signum, signum, SIGNUM, 0.003)
DECAYS = {"momentum": 0.95, "weight_decay": 0.02, "decoupled_weight_decay": 0.3}
run("signum", "decay", mx.optimizer.Signum, signum, DECAYS, 0.003, tiny=SMALL_DECAY)

FTRL = {"lambda1": 0.01, "beta": 1.0, "weight_decay": 0.0}
SMALL_FTRL = {"lambda1": 1e-8, "beta": 1e-6}
run("ftrl", "", mx.optimizer.Ftrl, ftrl, FTRL, 0.1, tiny=SMALL_FTRL)
run(
    "ftrl",
    "l2",
    mx.optimizer.Ftrl,
    ftrl,
    {"lambda1": 2.0, "beta": 0.5, "weight_decay": 5.0},
    0.2,
    tiny={"lambda1": 2e-6, "beta": 5e-7, "weight_decay": 5e-6},
)

ROWS = {"tensors": EMBEDDING, "touched_rows": 5}
run("lazy-adam", "", mx.optimizer.Adam, lazy_adam, ADAM, 0.01, **ROWS)
run("lazy-adam", "l2", mx.optimizer.Adam, lazy_adam, FAST, 0.01, tiny=SMALL_DECAY, **ROWS)

# Epsilon is inside the root here and outside in FBGEMM: at 1e-20 it makes no difference to f32.
GROUP = mx.optimizer.contrib.GroupAdaGrad
group_adagrad = lambda h: {"eps": h["epsilon"]}
ROWWISE = {"epsilon": 1e-20, "initial_accumulator": 0.0, "weight_decay": 0.0}
run("rowwise-adagrad", "group", GROUP, group_adagrad, ROWWISE, 0.1, **ROWS)
