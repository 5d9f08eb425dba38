"""Writes the table of trajectories into README.md: `python table.py`, after a generator has run."""

import json

from golden import FOLDER

BEGIN, END = "<!-- table -->\n", "<!-- end -->"


def rows():
    documents = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    cases = {}
    for document in documents:
        name = document["case"].removesuffix("tiny").removesuffix("-") or "default"
        cases.setdefault((document["optimizer"], name), {})[document["gradient_scale"]] = document
    for (optimizer, case), scales in sorted(cases.items(), key=lambda item: (item[0][0], item[0][1] != "default")):
        plain, tiny = scales[1.0], scales[1e-6]
        reference = plain["reference"]
        own = ", ".join(f"{key} {value}" for key, value in plain["hyperparameters"].items())
        changed = [f"{k} {v}" for k, v in tiny["hyperparameters"].items() if v != plain["hyperparameters"][k]]
        if tiny["learning_rate"] != plain["learning_rate"]:
            changed.append(f"lr {tiny['learning_rate'][0][1]:g}")
        lr = ", ".join(f"{rate:g} from {since}" if since > 1 else f"{rate:g}" for since, rate in plain["learning_rate"])
        bound = f"{plain['tolerance']:g}" + (f": {plain['difference']}" if plain["difference"] else "")
        version = "" if reference["package"] == "formulas.py" else f" {reference['version']}"
        cells = [
            optimizer,
            case,
            reference["package"] + version,
            reference["function"],
            f"{own}; lr {lr}",
            ", ".join(changed) or "the same",
            bound,
        ]
        yield "| " + " | ".join(cells) + " |\n"


readme = FOLDER / "README.md"
before, rest = readme.read_text().split(BEGIN)
after = rest.split(END)[1]
head = (
    "| optimizer | case | reference | function | hyperparameters (our names) | with gradients of 1e-6 | tolerance |\n"
)
head += "|---|---|---|---|---|---|---|\n"
readme.write_text(before + BEGIN + head + "".join(rows()) + END + after)
