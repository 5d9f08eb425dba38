"""Golden trajectories from optax: `python generate_optax.py [optimizer ...]`, in the environment of
requirements-optax.txt.

Scalars that optax computes from the round (bias corrections, RAdam's rectification) are in f64 (`jax_enable_x64`),
tensors in f32: in f32 the rectification alone would be wrong by percents in the first rounds.
"""

import sys

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import optax
from optax import contrib

from golden import MODEL, WARM, WIDE_MODEL, Case, generate


class Record:
    """Calls optax's functions and keeps their names and arguments, for the files."""

    def __init__(self):
        self.arguments = {}

    def __call__(self, function, **arguments):
        kept = {k: v for k, v in arguments.items() if not callable(v)}
        self.arguments[function.__name__] = kept
        return function(**arguments)


def as_schedule(rates):
    """optax counts rounds from 0."""

    def rate_at(count):
        rate = rates[0][1]
        for since, later in rates[1:]:
            rate = jnp.where(count < since - 1, rate, later)
        return rate

    return rate_at


def run(optimizer, case, function, build, hyperparameters, rate, tiny_rate=None, **rest):
    """`build(call, hyperparameters, schedule)` gives the optax transformation."""

    def start(chosen, rates, parameters):
        record = Record()
        transformation = build(record, chosen, as_schedule(rates))
        parameters = [jnp.asarray(p) for p in parameters]
        held = [transformation.init(parameters), parameters]

        @jax.jit
        def update(gradients, state, parameters):
            updates, state = transformation.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state

        def step(_round, _rate, gradients, _rows):
            held[1], held[0] = update([jnp.asarray(g) for g in gradients], held[0], held[1])
            assert all(p.dtype == jnp.float32 for p in held[1])
            if optimizer == "schedule-free-adamw":
                return held[1], contrib.schedule_free_eval_params(held[0], held[1])
            return held[1]

        return {"arguments": record.arguments}, step

    reference = {"package": "optax", "version": optax.__version__, "function": function}
    generate(Case(optimizer, case, hyperparameters, reference, rate, tiny_rate, **rest), start, set(sys.argv[1:]))


def betas(h):
    return {"b1": h["beta1"], "b2": h["beta2"], "eps": h["epsilon"]}


def l2(call, h, then):
    """Weight decay within the gradient, before everything else."""
    return optax.chain(call(optax.add_decayed_weights, weight_decay=h["weight_decay"]), then)


def adam(call, h, lr):
    return l2(call, h, call(optax.adam, learning_rate=lr, **betas(h)))


def adamw(call, h, lr):
    return call(optax.adamw, learning_rate=lr, **betas(h), weight_decay=h["weight_decay"])


def sgd(call, h, lr):
    return l2(call, h, call(optax.sgd, learning_rate=lr, momentum=h["momentum"], nesterov=h["nesterov"]))


def lion(call, h, lr):
    return call(optax.lion, learning_rate=lr, b1=h["beta1"], b2=h["beta2"], weight_decay=h["weight_decay"])


def amsgrad(call, h, lr):
    if h["corrected_maximum"]:
        return l2(call, h, call(optax.amsgrad, learning_rate=lr, **betas(h)))
    return l2(call, h, call(amsgrad_of_raw_maximum, **betas(h), learning_rate=lr))


def amsgrad_of_raw_maximum(learning_rate, b1, b2, eps):
    """torch's variant: the maximum of the raw v, corrected afterwards.

    The correction moves to the learning rate and, so that epsilon is added after it, to epsilon.
    """

    def parts(count):
        correction = jnp.sqrt(1 - b2 ** (count + 1))
        scaled = (eps * correction).astype(jnp.float32)
        scale = optax.scale_by_amsgrad(b1, b2, scaled, bias_correction_nu=False)
        return scale, (-learning_rate(count) * correction).astype(jnp.float32)

    def update(gradients, state, parameters=None):
        count, inner = state
        scale, factor = parts(count)
        updates, inner = scale.update(gradients, inner, parameters)
        return jax.tree.map(lambda u: factor * u, updates), (count + 1, inner)

    return optax.GradientTransformation(lambda p: (jnp.zeros([], jnp.int32), parts(0)[0].init(p)), update)


def radam(call, h, lr):
    return l2(call, h, call(optax.radam, learning_rate=lr, **betas(h), threshold=5.0))


def adamax(call, h, lr):
    return l2(call, h, call(optax.adamax, learning_rate=lr, **betas(h)))


def adabelief(call, h, lr):
    return call(optax.adabelief, learning_rate=lr, **betas(h), eps_root=h["epsilon_root"])


def adagrad(call, h, lr):
    start = h["initial_accumulator"]
    return l2(call, h, call(optax.adagrad, learning_rate=lr, initial_accumulator_value=start, eps=h["epsilon"]))


def adadelta(call, h, lr):
    decay = h["weight_decay"]
    return call(optax.adadelta, learning_rate=lr, rho=h["rho"], eps=h["epsilon"], weight_decay=decay)


def rmsprop(call, h, lr):
    """torch's order: momentum before the learning rate (`optax.rmsprop` has it after)."""
    scale = optax.scale_by_stddev if h["centered"] else optax.scale_by_rms
    return l2(
        call,
        h,
        optax.chain(
            call(scale, decay=h["decay"], eps=h["epsilon"], eps_in_sqrt=h["epsilon_inside_root"]),
            call(optax.trace, decay=h["momentum"], nesterov=False),
            call(optax.scale_by_learning_rate, learning_rate=lr),
        ),
    )


def adan(call, h, lr):
    return call(optax.adan, learning_rate=lr, **betas(h), b3=h["beta3"], eps_root=0.0, weight_decay=h["weight_decay"])


def schedule_free_adamw(call, h, lr):
    """`optax.contrib.schedule_free_adamw` spelt out, since its learning rate is a constant.

    `schedule_free` counts from 1 and so would weigh by the next round's learning rate: it gets the schedule shifted.
    """
    base = optax.chain(
        call(optax.scale_by_rms, decay=h["beta2"], eps=h["epsilon"], eps_in_sqrt=False, bias_correction=True),
        call(optax.add_decayed_weights, weight_decay=h["weight_decay"]),
        call(optax.scale_by_learning_rate, learning_rate=lr),
    )
    record = {"b1": h["beta1"], "weight_lr_power": h["weight_lr_power"]}
    call.arguments["schedule_free"] = record
    return contrib.schedule_free(base, learning_rate=lambda count: lr(count - 1), **record)


def lars(call, h, lr):
    return call(
        optax.lars,
        learning_rate=lr,
        weight_decay=h["weight_decay"],
        trust_coefficient=h["trust_coefficient"],
        eps=h["epsilon"],
        momentum=h["momentum"],
        nesterov=h["nesterov"],
    )


def lamb(call, h, lr):
    step = call(optax.lamb, learning_rate=lr, **betas(h), eps_root=0.0, weight_decay=h["weight_decay"])
    if h["max_gradient_norm"]:
        return optax.chain(call(optax.clip_by_global_norm, max_norm=h["max_gradient_norm"]), step)
    return step


def novograd(call, h, lr):
    return call(optax.novograd, learning_rate=lr, **betas(h), weight_decay=h["weight_decay"])


def adafactor(call, h, lr):
    return call(
        optax.adafactor,
        learning_rate=lr,
        min_dim_size_to_factor=h["minimum_factored_size"],
        decay_rate=h["decay_exponent"],
        multiply_by_parameter_scale=h["scale_by_parameter"],
        clipping_threshold=h["clipping_threshold"] or None,
        momentum=h["momentum"] or None,
        weight_decay_rate=h["weight_decay"] or None,
        eps=h["epsilon"],
    )


def prodigy(call, h, lr):
    return call(
        contrib.prodigy,
        learning_rate=lr,
        betas=(h["beta1"], h["beta2"]),
        beta3=h["beta3"] or None,
        eps=h["epsilon"],
        estim_lr0=h["initial_d"],
        estim_lr_coef=h["d_coefficient"],
        weight_decay=h["weight_decay"],
        safeguard_warmup=h["safeguard_warmup"],
    )


def muon(call, h, lr):
    """optax's muon for matrices, its adamw for the rest (which its own muon gives Adam with Nesterov's momentum)."""
    axes = (1, 0) if h["rows_are_outputs"] else (0, 1)
    matrices = call(
        contrib.muon,
        learning_rate=lr,
        ns_steps=h["newton_schulz_steps"],
        beta=h["momentum"],
        eps=h["epsilon"],
        weight_decay=h["weight_decay"],
        nesterov=h["nesterov"],
        consistent_rms=h["consistent_rms"] or None,
        muon_weight_dimension_numbers=lambda tree: jax.tree.map(
            lambda p: contrib.MuonDimensionNumbers(*axes) if p.ndim == 2 else None, tree
        ),
    )
    call.arguments["muon"]["MuonDimensionNumbers"] = axes
    label = lambda tree: jax.tree.map(lambda p: "matrix" if p.ndim == 2 else "rest", tree)
    return optax.partition({"matrix": matrices, "rest": adamw(call, h, lr)}, label)


ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
FAST = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6}
SMALL_DECAY = {"weight_decay": 2e-8}

run("adam", "", "optax.adam", adam, {**ADAM, "weight_decay": 0.0}, 0.01)
run("adam", "l2", "optax.adam", adam, {**FAST, "weight_decay": 0.02}, 0.01, tiny=SMALL_DECAY)
run("adamw", "", "optax.adamw", adamw, {**ADAM, "weight_decay": 0.01}, 0.01)
run("adamw", "decay", "optax.adamw", adamw, {**FAST, "weight_decay": 0.3}, 0.01)

SGD = {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
run("sgd", "", "optax.sgd", sgd, SGD, 0.01, 1e4)
run("sgd", "nesterov", "optax.sgd", sgd, {**SGD, "nesterov": True, "weight_decay": 0.02}, 0.01, 1e4, tiny=SMALL_DECAY)

run("lion", "", "optax.lion", lion, {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}, 0.003)
run("lion", "decay", "optax.lion", lion, {"beta1": 0.95, "beta2": 0.98, "weight_decay": 0.3}, 0.003)

AMSGRAD = {"weight_decay": 0.0, "corrected_maximum": False}
run("amsgrad", "", "optax.scale_by_amsgrad with bias_correction_nu=False", amsgrad, {**ADAM, **AMSGRAD}, 0.01)
run("amsgrad", "corrected", "optax.amsgrad", amsgrad, {**ADAM, **AMSGRAD, "corrected_maximum": True}, 0.01)
run(
    "amsgrad",
    "l2",
    "optax.scale_by_amsgrad with bias_correction_nu=False",
    amsgrad,
    {**FAST, **AMSGRAD, "weight_decay": 0.02},
    0.01,
    tiny=SMALL_DECAY,
)

run("radam", "", "optax.radam", radam, {**ADAM, "weight_decay": 0.0}, 0.01)
run("radam", "l2", "optax.radam", radam, {**FAST, "weight_decay": 0.02}, 0.01, tiny=SMALL_DECAY)
run("adamax", "", "optax.adamax", adamax, {**ADAM, "weight_decay": 0.0}, 0.01)
run("adamax", "l2", "optax.adamax", adamax, {**FAST, "weight_decay": 0.02}, 0.01, tiny=SMALL_DECAY)
run("adabelief", "", "optax.adabelief", adabelief, {**ADAM, "epsilon": 1e-16, "epsilon_root": 1e-16}, 0.01)
run("adabelief", "betas", "optax.adabelief", adabelief, {**FAST, "epsilon": 1e-8, "epsilon_root": 1e-12}, 0.01)

ADAGRAD = {"learning_rate_decay": 0.0, "weight_decay": 0.0, "epsilon_inside_root": True}
TINY_ADAGRAD = {"initial_accumulator": 1e-13, "epsilon": 1e-14}
run(
    "adagrad",
    "inside",
    "optax.adagrad",
    adagrad,
    {**ADAGRAD, "initial_accumulator": 0.1, "epsilon": 1e-7},
    0.1,
    tiny=TINY_ADAGRAD,
)

ADADELTA = {"rho": 0.9, "epsilon": 1e-6, "weight_decay": 0.0}
run("adadelta", "", "optax.adadelta", adadelta, ADADELTA, 1.0, 1e4)
run(
    "adadelta",
    "l2",
    "optax.adadelta",
    adadelta,
    {**ADADELTA, "rho": 0.95, "weight_decay": 0.02},
    1.0,
    1e4,
    tiny=SMALL_DECAY,
)

RMSPROP = {
    "decay": 0.99,
    "epsilon": 1e-8,
    "momentum": 0.0,
    "centered": False,
    "epsilon_inside_root": False,
    "weight_decay": 0.0,
}
run("rmsprop", "", "scale_by_rms, trace", rmsprop, RMSPROP, 0.005)
run(
    "rmsprop",
    "centered",
    "scale_by_stddev, trace",
    rmsprop,
    {**RMSPROP, "centered": True, "momentum": 0.9, "weight_decay": 0.02},
    0.001,
    tiny=SMALL_DECAY,
)
run(
    "rmsprop",
    "inside",
    "scale_by_rms, trace",
    rmsprop,
    {**RMSPROP, "decay": 0.9, "momentum": 0.9, "epsilon_inside_root": True},
    0.001,
    1.0,
)
run(
    "rmsprop",
    "centered-inside",
    "scale_by_stddev, trace",
    rmsprop,
    {**RMSPROP, "centered": True, "epsilon_inside_root": True},
    0.005,
    0.5,
)

ADAN = {"beta1": 0.98, "beta2": 0.5, "beta3": 0.99, "epsilon": 1e-8, "weight_decay": 0.02}
run("adan", "half", "optax.adan", adan, ADAN, 0.01)

SCHEDULE_FREE = {**ADAM, "weight_decay": 0.0, "weight_lr_power": 2.0}
run("schedule-free-adamw", "", "optax.contrib.schedule_free", schedule_free_adamw, SCHEDULE_FREE, 0.01)
run(
    "schedule-free-adamw",
    "decay",
    "optax.contrib.schedule_free",
    schedule_free_adamw,
    {**SCHEDULE_FREE, **FAST, "weight_decay": 0.3, "weight_lr_power": 1.0},
    0.01,
)
run(
    "schedule-free-adamw",
    "warm",
    "optax.contrib.schedule_free",
    schedule_free_adamw,
    SCHEDULE_FREE,
    0.01,
    schedule=WARM,
)

LARS = {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "trust_coefficient": 0.001, "epsilon": 0.0}
run("lars", "", "optax.lars", lars, LARS, 1.0, tensors=MODEL)
run(
    "lars",
    "nesterov",
    "optax.lars",
    lars,
    {**LARS, "nesterov": True, "weight_decay": 0.1, "epsilon": 1e-3, "trust_coefficient": 0.02},
    0.1,
    tensors=MODEL,
    tiny={"weight_decay": 1e-7, "epsilon": 1e-6},
)

LAMB = {**ADAM, "epsilon": 1e-6, "weight_decay": 0.0, "max_gradient_norm": 0.0}
run("lamb", "", "optax.lamb", lamb, LAMB, 0.01, tensors=MODEL)
run(
    "lamb",
    "clipped",
    "optax.lamb",
    lamb,
    {**LAMB, "weight_decay": 0.1, "max_gradient_norm": 1e-6},
    0.01,
    tensors=MODEL,
    tiny={"max_gradient_norm": 6e-6},
)

NOVOGRAD = {"beta1": 0.9, "beta2": 0.25, "epsilon": 1e-6, "weight_decay": 0.0}
run("novograd", "", "optax.novograd", novograd, NOVOGRAD, 0.05, tensors=MODEL)
run(
    "novograd",
    "decay",
    "optax.novograd",
    novograd,
    {**NOVOGRAD, "beta1": 0.95, "beta2": 0.98, "weight_decay": 0.05},
    0.05,
    tensors=MODEL,
)

ADAFACTOR = {
    "minimum_factored_size": 8,
    "decay_exponent": 0.8,
    "scale_by_parameter": True,
    "clipping_threshold": 1.0,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "epsilon": 1e-30,
}
run("adafactor", "", "optax.adafactor", adafactor, ADAFACTOR, 0.02, tensors=WIDE_MODEL)
run(
    "adafactor",
    "momentum",
    "optax.adafactor",
    adafactor,
    {
        **ADAFACTOR,
        "minimum_factored_size": 9,
        "scale_by_parameter": False,
        "clipping_threshold": 0.5,
        "momentum": 0.9,
        "weight_decay": 0.002,
        "epsilon": 1e-3,
    },
    0.02,
    tensors=WIDE_MODEL,
    tiny={"epsilon": 1e-15},
)

PRODIGY = {
    **ADAM,
    "beta3": 0.0,
    "initial_d": 0.01,
    "d_coefficient": 5.0,
    "weight_decay": 0.0,
    "safeguard_warmup": False,
}
run("prodigy", "", "optax.contrib.prodigy", prodigy, PRODIGY, 1.0, tensors=MODEL)
run(
    "prodigy",
    "safeguard",
    "optax.contrib.prodigy",
    prodigy,
    {**PRODIGY, **FAST, "epsilon": 1e-8, "beta3": 0.99, "weight_decay": 0.02, "safeguard_warmup": True},
    1.0,
    tensors=MODEL,
)

MUON = {
    "momentum": 0.95,
    "nesterov": True,
    "newton_schulz_steps": 5,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "consistent_rms": 0.0,
    "rows_are_outputs": True,
    "beta1": 0.9,
    "beta2": 0.999,
}
run("muon", "", "optax.contrib.muon, optax.adamw", muon, MUON, 0.01, tensors=WIDE_MODEL)
run(
    "muon",
    "inputs",
    "optax.contrib.muon, optax.adamw",
    muon,
    {**MUON, "nesterov": False, "weight_decay": 0.1, "rows_are_outputs": False, "beta1": 0.8, "beta2": 0.95},
    0.01,
    tensors=WIDE_MODEL,
)
run(
    "muon",
    "rms",
    "optax.contrib.muon, optax.adamw",
    muon,
    {**MUON, "consistent_rms": 0.2, "weight_decay": 0.1},
    0.01,
    tensors=WIDE_MODEL,
)
