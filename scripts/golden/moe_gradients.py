#!/usr/bin/env python3
"""Golden values of a tiny mixture-of-experts GPT from PyTorch in float64, beside gpt_gradients.py's.

    scripts/golden/moe_gradients.py [OUT = tests/golden/moe]

The same text, batches and start as gpt_gradients.py (imported); each block's MLP is experts behind a
top-k softmax router. Cases: `bias` (selection by probability + bias, the bias moved after each step
against the load), `auxiliary` (the sequence-wise balance loss), `top1`, and `capacity` (assignments
beyond an expert's capacity in a group of CAPACITY_GROUP sequences are dropped). Writes golden.bin
(float32, little-endian) and golden.json. Needs a python3 with torch.
"""
import json
import math
import os
import struct
import sys

import torch
import torch.nn.functional as F

import gpt_gradients as gpt

L, C, H, T, V = 6, 8, 2, 8, 32
MODEL = dict(layers=L, channels=C, heads=H, context=T, vocabulary=V, experts=4, expert_hidden=12)
TRAIN = dict(gpt.TRAIN, seed=11)
E, HIDDEN = MODEL["experts"], MODEL["expert_hidden"]
CASES = {
    "bias": dict(router="bias", top_k=2, bias_speed=0.002, auxiliary_scale=0.0, capacity_factor=0.0),
    "auxiliary": dict(router="auxiliary", top_k=2, bias_speed=0.0, auxiliary_scale=0.05, capacity_factor=0.0),
    "top1": dict(router="bias", top_k=1, bias_speed=0.002, auxiliary_scale=0.0, capacity_factor=0.0),
    "capacity": dict(router="bias", top_k=2, bias_speed=0.0, auxiliary_scale=0.0, capacity_factor=1.0),
}
CAPACITY_GROUP = 4  # sequences of a micro-batch
# In step 0, whose gradients are compared: below this a float32 run may choose another expert than
# float64. Of later steps losses are compared, which one token's expert does not move beyond rounding.
LEAST_GAP = 1e-6


def specs():
    """(name, shape, kind, deviation) in model order."""
    residual = 0.02 / math.sqrt(2 * L)
    yield "embedding/token/weight", (V, C), "normal", 0.02
    yield "embedding/position/weight", (T, C), "normal", 0.02

    def linear(path, out, inp, deviation):
        yield path + "/weight", (out, inp), "normal", deviation
        yield path + "/bias", (out,), "zero", 0

    def norm(path):
        yield path + "/weight", (C,), "one", 0
        yield path + "/bias", (C,), "zero", 0

    for block in range(L):
        path = f"block/{block}/"
        yield from norm(path + "attention/norm")
        yield from linear(path + "attention/qkv", 3 * C, C, 0.02)
        yield from linear(path + "attention/projection", C, C, residual)
        yield from norm(path + "mlp/norm")
        yield from linear(path + "mlp/router", E, C, 0.02)
        for e in range(E):
            yield from linear(path + f"mlp/expert/{e}/expand", HIDDEN, C, 0.02)
            yield from linear(path + f"mlp/expert/{e}/projection", C, HIDDEN, residual)
    yield from norm("head/norm")


class Moe:
    """The model of one case; counts loads and remembers the narrowest choice it made."""

    def __init__(self, case):
        self.case, self.gap, self.loads = case, math.inf, None
        self.w = {}
        for index, (name, shape, kind, deviation) in enumerate(specs()):
            if kind == "normal":
                normals = gpt.CounterRandom(TRAIN["seed"], index).normals(math.prod(shape))
                value = torch.tensor([deviation * x for x in normals]).float().double().reshape(shape)
            else:
                value = torch.full(shape, 1.0 if kind == "one" else 0.0, dtype=torch.float64)
            # The router's bias steers the choice only: it has no gradient.
            self.w[name] = value.requires_grad_(not name.endswith("router/bias"))

    def trained(self):
        return [value for value in self.w.values() if value.requires_grad]

    def kept(self, chosen, batch):
        """[N, k] bool: assignments within their expert's capacity, in order of tokens."""
        k, factor = self.case["top_k"], self.case["capacity_factor"]
        keep = torch.ones_like(chosen, dtype=torch.bool)
        if factor == 0:
            return keep
        rows = CAPACITY_GROUP * T
        capacity = math.ceil(factor * rows * k / E)
        for first in range(0, batch * T, rows):
            count = [0] * E
            for n in range(first, first + rows):
                for j in range(k):
                    e = chosen[n, j].item()
                    keep[n, j] = count[e] < capacity
                    count[e] += 1
        return keep

    def experts(self, h, block, batch):
        k = self.case["top_k"]
        path = f"block/{block}/mlp/"
        h = h.reshape(-1, C)
        p = torch.softmax(h @ self.w[path + "router/weight"].T, -1)
        score = p.detach() + self.w[path + "router/bias"]
        best = score.sort(-1, descending=True).values
        self.gap = min(self.gap, (best[:, k - 1] - best[:, k]).min().item())
        chosen = score.topk(k, -1).indices
        gates = p.gather(1, chosen)
        if k > 1:
            gates = gates / gates.sum(-1, keepdim=True)
        keep = self.kept(chosen, batch)
        y = torch.zeros_like(h)
        for e in range(E):
            at = f"{path}expert/{e}/"
            hidden = F.gelu(F.linear(h, self.w[at + "expand/weight"], self.w[at + "expand/bias"]),
                            approximate="tanh")
            out = F.linear(hidden, self.w[at + "projection/weight"], self.w[at + "projection/bias"])
            y = y + (gates * ((chosen == e) & keep)).sum(-1, keepdim=True) * out
        counts = F.one_hot(chosen, E).sum(1).double()  # [N, E]
        self.loads[block] = counts.sum(0)
        f = counts.view(batch, T, E).sum(1) * E / (k * T)
        auxiliary = (f * p.view(batch, T, E).mean(1)).sum(-1).mean()
        return y.view(batch, T, C), auxiliary

    def loss(self, tokens, targets):
        """(cross entropy, all of it)."""
        w, B = self.w, tokens.shape[0]
        self.loads = {}
        x = w["embedding/token/weight"][tokens] + w["embedding/position/weight"]

        def norm(x, path):
            return F.layer_norm(x, (C,), w[path + "/weight"], w[path + "/bias"], 1e-5)

        def linear(x, path):
            return F.linear(x, w[path + "/weight"], w[path + "/bias"])

        balance = 0
        for block in range(L):
            path = f"block/{block}/"
            qkv = linear(norm(x, path + "attention/norm"), path + "attention/qkv")
            q, k, v = qkv.view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + linear(a.transpose(1, 2).reshape(B, T, C), path + "attention/projection")
            y, auxiliary = self.experts(norm(x, path + "mlp/norm"), block, B)
            x = x + y
            balance = balance + auxiliary
        logits = norm(x, "head/norm") @ w["embedding/token/weight"].T
        loss = F.cross_entropy(logits.view(-1, V), targets.reshape(-1))
        return loss, loss + self.case["auxiliary_scale"] * balance

    def move_biases(self):
        for block, load in self.loads.items():
            bias = self.w[f"block/{block}/mlp/router/bias"]
            bias += self.case["bias_speed"] * torch.sign(load.mean() - load)


def train(model, text):
    decay = [p for p in model.trained() if p.dim() == 2]
    plain = [p for p in model.trained() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [dict(params=decay, weight_decay=TRAIN["weight_decay"]), dict(params=plain, weight_decay=0.0)],
        betas=(TRAIN["beta1"], TRAIN["beta2"]), eps=TRAIN["epsilon"])
    losses, norms = [], []
    for step in range(TRAIN["steps"]):
        optimizer.zero_grad()
        loss, whole = model.loss(*gpt.batch(text, step))
        whole.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.trained(), TRAIN["clip"]).item())
        for group in optimizer.param_groups:
            group["lr"] = gpt.learning_rate(step + 1)
        optimizer.step()
        model.move_biases()
        losses.append(loss.item())
    return losses, norms


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "..", "tests", "golden", "moe")
    os.makedirs(out, exist_ok=True)
    torch.set_num_threads(1)
    gpt.TRAIN["seed"] = TRAIN["seed"]
    text = gpt.make_text()
    floats, index = [], {"model": MODEL, "train": TRAIN, "cases": {}}
    for name, case in CASES.items():
        model = Moe(case)
        _, whole = model.loss(*gpt.batch(text, 0))
        whole.backward()
        tensors = []
        for tensor, value in model.w.items():
            entry = {"name": tensor, "size": value.numel(), "gradient": len(floats)}
            gradient = value.grad if value.grad is not None else torch.zeros_like(value)
            floats += gradient.flatten().tolist()
            tensors.append(entry)
        loads = [model.loads[block].tolist() for block in range(L)]
        first_gap = model.gap
        assert first_gap > LEAST_GAP, f"{name}: a choice by {first_gap}; take another seed"
        losses, norms = train(model, text)
        biases = [model.w[f"block/{block}/mlp/router/bias"].tolist() for block in range(L)]
        index["cases"][name] = dict(case, loss=losses[0], losses=losses, gradient_norms=norms,
                                    loads=loads, biases=biases, tensors=tensors)
        print(f"{name}: loss {losses[0]:.6f} -> {losses[-1]:.6f}, norm {norms[0]:.4f}, "
              f"narrowest choice {first_gap:.1e} in step 0, {model.gap:.1e} in all")
    tokens, targets = gpt.batch(text, 0)
    index["tokens"], index["targets"] = tokens.flatten().tolist(), targets.flatten().tolist()
    index["capacity_group"] = CAPACITY_GROUP
    with open(os.path.join(out, "golden.bin"), "wb") as file:
        file.write(struct.pack(f"<{len(floats)}f", *floats))
    with open(os.path.join(out, "golden.json"), "w") as file:
        json.dump(index, file, separators=(",", ":"))


if __name__ == "__main__":
    main()
