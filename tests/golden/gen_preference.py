#!/usr/bin/env python3
"""Golden losses of preferences, with their slopes, by torch's automatic differentiation (tests/train/test_preference.c).

    python tests/golden/gen_preference.py        writes tests/golden/preference/preference.json

The formulas are written from the papers with torch.nn.functional, in float64; a case is one pair of answers.
"""
import json
import os

import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))


def logistic(h, smoothing):
    return -(1 - smoothing) * F.logsigmoid(h) - smoothing * F.logsigmoid(-h)


def dpo(c, r, beta, smoothing, **_):  # Rafailov et al. 2023, eq. 7
    return logistic(beta * ((c["logp"] - c["ref"]) - (r["logp"] - r["ref"])), smoothing)


def ipo(c, r, beta, **_):  # Azar et al. 2023, eq. 17
    return ((c["logp"] - c["ref"]) - (r["logp"] - r["ref"]) - 1 / (2 * beta)) ** 2


def apo_zero(c, r, beta, **_):  # D'Oosterlinck et al. 2024
    return (1 - torch.sigmoid(beta * (c["logp"] - c["ref"]))) + torch.sigmoid(beta * (r["logp"] - r["ref"]))


def simpo(c, r, beta, smoothing, margin, **_):  # Meng et al. 2024, eq. 6
    return logistic(beta * (c["logp"] / c["n"] - r["logp"] / r["n"]) - margin, smoothing)


def orpo(c, r, beta, **_):  # Hong et al. 2024, eq. 4 to 7; the likelihood is added in main()
    def log_odds(x):
        p = x["logp"] / x["n"]
        return p - torch.log(-torch.expm1(p))

    return -beta * F.logsigmoid(log_odds(c) - log_odds(r))


LOSSES = {"dpo": dpo, "ipo": ipo, "apo-zero": apo_zero, "simpo": simpo, "orpo": orpo}
RULES = [
    ("dpo", 0.1, 0, -1, 0), ("dpo", 2.5, 0.1, -1, 0), ("dpo", 0.1, 0, -1, 0.5), ("ipo", 0.1, 0, -1, 0), ("ipo", 1.5, 0, -1, 0.2),
    ("apo-zero", 0.1, 0, -1, 0), ("apo-zero", 3, 0, -1, 0), ("simpo", 2, 0, 1, 0), ("simpo", 2.5, 0.2, 0, 0.1),
    ("orpo", 0.1, 0, -1, 1), ("orpo", 1, 0, -1, 0),
]
PAIRS = [  # chosen logp, reference, tokens; rejected logp, reference, tokens
    (-12.5, -12.5, 9, -30.25, -30.25, 17), (-12.5, -20, 9, -30.25, -18, 17), (-20, -12.5, 9, -18, -30.25, 17),
    (-0.0009765625, -0.5, 4, -700, -90, 60), (-900, -3, 70, -0.00048828125, -600, 8), (-1, -1.5, 1, -2, -1.75, 1),
]


def side(logp, ref, n):
    return {"logp": torch.tensor(float(logp), requires_grad=True), "ref": float(ref), "n": n}


def main():
    torch.set_default_dtype(torch.float64)
    cases = []
    for name, beta, smoothing, margin, sft in RULES:
        for p in PAIRS:
            c, r = side(*p[:3]), side(*p[3:])
            loss = LOSSES[name](c, r, beta=beta, smoothing=smoothing, margin=margin) - sft * c["logp"] / c["n"]
            loss.backward()
            cases.append({"loss": name, "beta": beta, "smoothing": smoothing, "margin": margin, "sft": sft, "pair": p,
                          "value": loss.item(), "slope": [c["logp"].grad.item(), r["logp"].grad.item()]})
    os.makedirs(os.path.join(HERE, "preference"), exist_ok=True)
    with open(os.path.join(HERE, "preference", "preference.json"), "w", encoding="utf-8") as f:
        f.write("[" + ",\n".join(json.dumps(c) for c in cases) + "]\n")


if __name__ == "__main__":
    main()
