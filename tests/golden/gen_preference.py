#!/usr/bin/env python3
"""Golden losses of preferences, with their slopes, by torch's automatic differentiation (tests/train/test_preference.c).

    python tests/golden/gen_preference.py        writes tests/golden/preference/preference.json and kto.json

The formulas are written from the papers with torch.nn.functional, in float64; a case is one pair of answers. KTO's is an update of
several answers, as the paper (Ethayarajh et al. 2024, eq. 8 and section 4.1) and TRL's KTOTrainer have it: the estimate of the
divergence is the mean over mixtures, not negative, and no gradient goes through it; the loss is a mean over all answers, of which the
good and the bad ones have weights.
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


KTO = [  # beta, weights of good and bad, answers (logp, reference, good), mixtures (logp, reference)
    (0.1, 1, 1, [(-12.5, -12.5, True), (-30.25, -30.25, False)], [(-40, -40), (-22, -22)]),
    (0.1, 1, 1, [(-12.5, -20, True), (-30.25, -18, False), (-9, -8.5, True)], [(-40, -45), (-22, -21.5), (-60, -62)]),
    (0.5, 1.25, 1, [(-12.5, -10, True), (-30.25, -33, False), (-9, -8.5, False)], [(-40, -39), (-22, -21.5), (-60, -59)]),
    (2.5, 1, 0.75, [(-3, -4, True), (-5, -6, True), (-0.25, -0.5, False), (-700, -3, False)], [(-8, -9), (-7, -7.5), (-3, -3), (-1, -2)]),
    (0.1, 3, 2, [(-700, -20, True), (-2, -600, False)], [(-500, -900), (-90, -95)]),
    (1, 1, 1, [(-7, -6, False)], [(-8, -8.5)]),
]


def kto(beta, good_weight, bad_weight, answers, mixtures):
    logp = torch.tensor([float(a[0]) for a in answers], requires_grad=True)
    ref, good = torch.tensor([float(a[1]) for a in answers]), torch.tensor([a[2] for a in answers])
    mixed = torch.tensor([[float(x) for x in m] for m in mixtures], requires_grad=True)
    kl = (mixed[:, 0] - mixed[:, 1]).mean().detach().clamp(min=0)
    ratio = logp - ref
    losses = torch.cat((good_weight * (1 - torch.sigmoid(beta * (ratio[good] - kl))),
                        bad_weight * (1 - torch.sigmoid(beta * (kl - ratio[~good])))))
    loss = losses.nanmean()
    loss.backward()
    return {"beta": beta, "weight": [good_weight, bad_weight], "answers": answers, "mixtures": mixtures, "kl": kl.item(),
            "value": loss.item(), "slope": logp.grad.tolist(), "reward": (beta * ratio).tolist()}


def write(name, cases):
    os.makedirs(os.path.join(HERE, "preference"), exist_ok=True)
    with open(os.path.join(HERE, "preference", name), "w", encoding="utf-8") as f:
        f.write("[" + ",\n".join(json.dumps(c) for c in cases) + "]\n")


def main():
    torch.set_default_dtype(torch.float64)
    write("kto.json", [kto(*c) for c in KTO])
    cases = []
    for name, beta, smoothing, margin, sft in RULES:
        for p in PAIRS:
            c, r = side(*p[:3]), side(*p[3:])
            loss = LOSSES[name](c, r, beta=beta, smoothing=smoothing, margin=margin) - sft * c["logp"] / c["n"]
            loss.backward()
            cases.append({"loss": name, "beta": beta, "smoothing": smoothing, "margin": margin, "sft": sft, "pair": p,
                          "value": loss.item(), "slope": [c["logp"].grad.item(), r["logp"].grad.item()]})
    write("preference.json", cases)


if __name__ == "__main__":
    main()
