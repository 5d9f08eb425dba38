"""The formulas of formulas.md in numpy, one function each, written from them and not from the references' code.

A function takes the hyperparameters under our names, the learning rate, the round, parameters and gradients (lists of
arrays, of f32 or f64, which the arithmetic keeps) and a dict for its state, which starts empty. It changes the
parameters in place. Row optimizers also get the touched rows.
"""

import math

import numpy as np


def slot(state, name, index, like, start=0.0):
    """The array `name` of tensor `index`, made on first use."""
    return state.setdefault((name, index), np.full_like(like, start))


def average(state, name, index, decay, new):
    held = slot(state, name, index, new)
    held[...] = decay * held + (1.0 - decay) * new
    return held


def norm(x):
    return math.sqrt(float(np.sum(np.square(x, dtype=np.float64))))


def l2(h, p, g):
    return g + h["weight_decay"] * p if h.get("weight_decay") else g


def sgd(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        g = l2(h, p, g)
        b = slot(state, "b", i, p)
        b[...] = h["momentum"] * b + g
        p -= lr * (g + h["momentum"] * b if h["nesterov"] else b)


def adam_moments(h, t, i, g, state):
    m = average(state, "m", i, h["beta1"], g)
    v = average(state, "v", i, h["beta2"], g * g)
    return m / (1.0 - h["beta1"] ** t), v / (1.0 - h["beta2"] ** t)


def adam_direction(h, t, i, g, state):
    m, v = adam_moments(h, t, i, g, state)
    return m / (np.sqrt(v) + h["epsilon"])


def adam(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        p -= lr * adam_direction(h, t, i, l2(h, p, g), state)


def adamw(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        p -= lr * (adam_direction(h, t, i, g, state) + h["weight_decay"] * p)


def amsgrad(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        m, v = adam_moments(h, t, i, l2(h, p, g), state)
        largest = slot(state, "x", i, p)
        if h["corrected_maximum"]:
            largest[...] = np.maximum(largest, v)
            denominator = np.sqrt(largest) + h["epsilon"]
        else:
            largest[...] = np.maximum(largest, state["v", i])
            denominator = np.sqrt(largest) / math.sqrt(1.0 - h["beta2"] ** t) + h["epsilon"]
        p -= lr * m / denominator


def nadam(h, lr, t, ps, gs, state):
    momentum = lambda t: h["beta1"] * (1.0 - 0.5 * 0.96 ** (t * h["momentum_decay"]))
    now, later = momentum(t), momentum(t + 1)
    product = state["product"] = state.get("product", 1.0) * now
    for i, (p, g) in enumerate(zip(ps, gs)):
        g = l2(h, p, g)
        _, v = adam_moments(h, t, i, g, state)
        u = (1.0 - now) / (1.0 - product) * g + later / (1.0 - product * later) * state["m", i]
        p -= lr * u / (np.sqrt(v) + h["epsilon"])


def radam(h, lr, t, ps, gs, state):
    longest = 2.0 / (1.0 - h["beta2"]) - 1.0
    power = h["beta2"] ** t
    length = longest - 2.0 * t * power / (1.0 - power)
    for i, (p, g) in enumerate(zip(ps, gs)):
        g = l2(h, p, g)
        m, v = adam_moments(h, t, i, g, state)
        if length >= 5.0:
            r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            p -= lr * math.sqrt(r) * m / (np.sqrt(v) + h["epsilon"])
        else:
            p -= lr * m


def adamax(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        g = l2(h, p, g)
        m = average(state, "m", i, h["beta1"], g)
        u = slot(state, "u", i, p)
        u[...] = np.maximum(h["beta2"] * u, np.abs(g) + h["epsilon"])
        p -= lr / (1.0 - h["beta1"] ** t) * m / u


def adabelief(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        m = average(state, "m", i, h["beta1"], g)
        s = average(state, "s", i, h["beta2"], (g - m) ** 2)
        s += h["epsilon_root"]
        p -= lr / (1.0 - h["beta1"] ** t) * m / (np.sqrt(s / (1.0 - h["beta2"] ** t)) + h["epsilon"])


def adagrad(h, lr, t, ps, gs, state):
    lr = lr / (1.0 + (t - 1) * h["learning_rate_decay"])
    for i, (p, g) in enumerate(zip(ps, gs)):
        g = l2(h, p, g)
        s = slot(state, "s", i, p, h["initial_accumulator"])
        s += g * g
        p -= lr * g / root(h, s)


def root(h, s):
    return np.sqrt(s + h["epsilon"]) if h["epsilon_inside_root"] else np.sqrt(s) + h["epsilon"]


def adadelta(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        g = l2(h, p, g)
        s = average(state, "s", i, h["rho"], g * g)
        d = g * np.sqrt(slot(state, "x", i, p) + h["epsilon"]) / np.sqrt(s + h["epsilon"])
        average(state, "x", i, h["rho"], d * d)
        p -= lr * d


def rmsprop(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        g = l2(h, p, g)
        n = average(state, "s", i, h["decay"], g * g)
        if h["centered"]:
            n = np.maximum(n - average(state, "a", i, h["decay"], g) ** 2, 0.0)
        b = slot(state, "b", i, p)
        b[...] = h["momentum"] * b + g / root(h, n)
        p -= lr * b


def lion(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        c = h["beta1"] * slot(state, "m", i, p) + (1.0 - h["beta1"]) * g
        average(state, "m", i, h["beta2"], g)
        p -= lr * (np.sign(c) + h["weight_decay"] * p)


def signum(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        m = average(state, "m", i, h["momentum"], l2(h, p, g))
        p *= 1.0 - lr * h["decoupled_weight_decay"]
        p -= lr * np.sign(m)


def ftrl(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        n, z = slot(state, "n", i, p), slot(state, "z", i, p)
        later = n + g * g
        z += g - (np.sqrt(later) - np.sqrt(n)) * p / lr
        n[...] = later
        solution = (np.sign(z) * h["lambda1"] - z) / ((h["beta"] + np.sqrt(n)) / lr + h["weight_decay"])
        p[...] = np.where(np.abs(z) <= h["lambda1"], 0.0, solution)


def adan(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        d = np.zeros_like(g) if t == 1 else g - state["g", i]
        state["g", i] = g.copy()
        m = average(state, "m", i, h["beta1"], g) / (1.0 - h["beta1"] ** t)
        v = average(state, "v", i, h["beta2"], d) / (1.0 - h["beta2"] ** t)
        n = average(state, "n", i, h["beta3"], (g + h["beta2"] * d) ** 2) / (1.0 - h["beta3"] ** t)
        p -= lr * ((m + h["beta2"] * v) / (np.sqrt(n) + h["epsilon"]) + h["weight_decay"] * p)


def schedule_free_adamw(h, lr, t, ps, gs, state):
    """Keeps x as a slot, where the reference derives it from y and z. `state["evaluation"]` is x."""
    largest = state["lr"] = max(state.get("lr", 0.0), lr)
    weight = largest ** h["weight_lr_power"]
    total = state["total"] = state.get("total", 0.0) + weight
    share = weight / total
    for i, (y, g) in enumerate(zip(ps, gs)):
        z = state.setdefault(("z", i), y.copy())
        x = state.setdefault(("x", i), y.copy())
        v = average(state, "v", i, h["beta2"], g * g) / (1.0 - h["beta2"] ** t)
        z -= lr * (g / (np.sqrt(v) + h["epsilon"]) + h["weight_decay"] * y)
        x[...] = (1.0 - share) * x + share * z
        y[...] = h["beta1"] * x + (1.0 - h["beta1"]) * z
    state["evaluation"] = [state["x", i] for i in range(len(ps))]


def lars(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        u = g + h["weight_decay"] * p
        above, below = norm(p), norm(u)
        u = lr * (h["trust_coefficient"] * above / (below + h["epsilon"]) if above and below else 1.0) * u
        b = slot(state, "b", i, p)
        b[...] = h["momentum"] * b + u
        p -= u + h["momentum"] * b if h["nesterov"] else b


def lamb(h, lr, t, ps, gs, state):
    whole = math.sqrt(sum(norm(g) ** 2 for g in gs))
    if 0 < h["max_gradient_norm"] <= whole:
        gs = [g * (h["max_gradient_norm"] / whole) for g in gs]
    for i, (p, g) in enumerate(zip(ps, gs)):
        u = adam_direction(h, t, i, g, state) + h["weight_decay"] * p
        above, below = norm(p), norm(u)
        p -= lr * (above / below if above and below else 1.0) * u


def novograd(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        square = norm(g) ** 2
        v = state["v", i] = square if t == 1 else h["beta2"] * state["v", i] + (1.0 - h["beta2"]) * square
        m = slot(state, "m", i, p)
        m[...] = h["beta1"] * m + g / (math.sqrt(v) + h["epsilon"]) + h["weight_decay"] * p
        p -= lr * m


def adafactor(h, lr, t, ps, gs, state):
    decay = 1.0 - t ** -h["decay_exponent"]
    for i, (p, g) in enumerate(zip(ps, gs)):
        q = g * g + h["epsilon"]
        if p.ndim == 2 and min(p.shape) >= h["minimum_factored_size"]:
            r = average(state, "r", i, decay, q.mean(axis=1))
            c = average(state, "c", i, decay, q.mean(axis=0))
            u = g / np.sqrt(r / r.mean())[:, None] / np.sqrt(c)[None, :]
        else:
            u = g / np.sqrt(average(state, "v", i, decay, q))
        if h["clipping_threshold"]:
            u = u / max(1.0, norm(u) / math.sqrt(u.size) / h["clipping_threshold"])
        u = lr * u
        if h["scale_by_parameter"]:
            u = u * max(norm(p) / math.sqrt(p.size), 1e-3)
        if h["momentum"]:
            u = average(state, "m", i, h["momentum"], u)
        p -= u + h["weight_decay"] * p


def prodigy(h, lr, t, ps, gs, state):
    beta3 = h["beta3"] or math.sqrt(h["beta2"])
    d, numerator = state.get("d", h["initial_d"]), state.get("numerator", 0.0)
    step = d * lr * math.sqrt(1.0 - h["beta2"] ** t) / (1.0 - h["beta1"] ** t)
    product = size = 0.0
    for i, (p, g) in enumerate(zip(ps, gs)):
        start = state.setdefault(("p0", i), p.copy())
        product += float(np.sum(g * (start - p), dtype=np.float64))
        average(state, "m", i, h["beta1"], d * g)
        average(state, "v", i, h["beta2"], (d * g) ** 2)
        s = slot(state, "s", i, p)
        s[...] = beta3 * s + (d if h["safeguard_warmup"] else step) * d / h["initial_d"] * g
        size += float(np.sum(np.abs(s), dtype=np.float64))
    numerator = state["numerator"] = beta3 * numerator + d / h["initial_d"] * step * product
    later = state["d"] = max(d, h["d_coefficient"] * numerator / size) if size else d
    for i, p in enumerate(ps):
        p -= step * (h["weight_decay"] * p + state["m", i] / (np.sqrt(state["v", i]) + later * h["epsilon"]))


def newton_schulz(x, steps, epsilon):
    x = x / (norm(x) + epsilon)
    flat = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(steps):
        a = flat @ flat.T
        flat = 3.4445 * flat + (-4.7750 * a + 2.0315 * (a @ a)) @ flat
    return flat.T if x.shape[0] > x.shape[1] else flat


def muon(h, lr, t, ps, gs, state):
    beta = h["momentum"]
    for i, (p, g) in enumerate(zip(ps, gs)):
        if p.ndim != 2:
            p -= lr * (adam_direction(h, t, i, g, state) + h["weight_decay"] * p)
            continue
        m = average(state, "m", i, beta, g)
        if h["nesterov"]:
            m = beta / (1.0 - beta ** (t + 1)) * m + (1.0 - beta) / (1.0 - beta**t) * g
        else:
            m = m / (1.0 - beta**t)
        rows, columns = p.shape
        outputs, inputs = (rows, columns) if h["rows_are_outputs"] else (columns, rows)
        scale = math.sqrt(max(1.0, outputs / inputs))
        if h["consistent_rms"]:
            scale = h["consistent_rms"] * math.sqrt(max(rows, columns))
        p -= lr * (scale * newton_schulz(m, h["newton_schulz_steps"], h["epsilon"]) + h["weight_decay"] * p)


def inverse_fourth_root(a):
    """Exact in f64; in f32 by coupled Newton iterations (Anil et al., arXiv:2002.09018), as a component does it."""
    if a.dtype == np.float64:
        values, vectors = np.linalg.eigh(a)
        return (vectors * values**-0.25) @ vectors.T
    one = np.eye(len(a), dtype=a.dtype)
    factor = 2.5 / norm(a)
    power, result = np.float32(factor) * a, np.float32(factor**0.25) * one
    for _ in range(40):
        if np.abs(power - one).max() < 1e-6:
            break
        step = 1.25 * one - 0.25 * power
        result = result @ step
        step = step @ step
        power = step @ step @ power
    return result


def shampoo(h, lr, t, ps, gs, state):
    for i, (p, g) in enumerate(zip(ps, gs)):
        g = l2(h, p, g)
        if p.ndim == 2:
            left = state.setdefault(("left", i), h["epsilon"] * np.eye(p.shape[0], dtype=p.dtype))
            right = state.setdefault(("right", i), h["epsilon"] * np.eye(p.shape[1], dtype=p.dtype))
            left += g @ g.T
            right += g.T @ g
            u = inverse_fourth_root(left) @ g @ inverse_fourth_root(right)
        else:
            a = slot(state, "a", i, p, h["epsilon"])
            a += g * g
            u = g / np.sqrt(a)
        b = slot(state, "b", i, p)
        b[...] = h["momentum"] * b + u
        p -= lr * b


def lazy_adam(h, lr, t, ps, gs, state, rows):
    rate = lr * math.sqrt(1.0 - h["beta2"] ** t) / (1.0 - h["beta1"] ** t)
    for i, (p, g) in enumerate(zip(ps, gs)):
        touched = rows[i]
        g = l2(h, p[touched], g)
        m, v = slot(state, "m", i, p), slot(state, "v", i, p)
        m[touched] = h["beta1"] * m[touched] + (1.0 - h["beta1"]) * g
        v[touched] = h["beta2"] * v[touched] + (1.0 - h["beta2"]) * g * g
        p[touched] -= rate * m[touched] / (np.sqrt(v[touched]) + h["epsilon"])


def rowwise_adagrad(h, lr, t, ps, gs, state, rows):
    for i, (p, g) in enumerate(zip(ps, gs)):
        touched = rows[i]
        g = l2(h, p[touched], g)
        s = slot(state, "s", i, p[:, 0], h["initial_accumulator"])
        s[touched] += (g * g).mean(axis=1)
        p[touched] -= lr * g / (np.sqrt(s[touched]) + h["epsilon"])[:, None]
