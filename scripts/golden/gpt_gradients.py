#!/usr/bin/env python3
"""Golden values of a tiny GPT from PyTorch in float64: weights, gradients, losses of 20 AdamW steps.

    scripts/golden/gpt_gradients.py [OUT = tests/golden/gpt]

Weights and batches follow Pipemark's own formulas (trainer/random.hpp, initialise.hpp, data.hpp),
written again here, so that both sides start from the same seed and text; everything after that is
PyTorch. Writes text.bin (the training bytes), golden.bin (float32, little-endian) and golden.json
(model, training settings, and the place of each array in golden.bin). Needs a python3 with torch.
"""
import json
import math
import os
import struct
import sys

import torch
import torch.nn.functional as F

MASK, GAMMA = (1 << 64) - 1, 0x9E3779B97F4A7C15
BATCH_STREAM = 1 << 32
# 16 layers with embedding and head: enough for 8 ranks of 2 chunks.
MODEL = dict(layers=14, channels=8, heads=2, context=8, vocabulary=32)
TRAIN = dict(steps=20, batch=32, learning_rate=1e-3, warmup_steps=4, final_learning_rate_fraction=0.1,
             weight_decay=0.1, beta1=0.9, beta2=0.95, epsilon=1e-8, clip=0.5, seed=7)
TEXT_BYTES = 2048
L, C, H, T, V = (MODEL[k] for k in ("layers", "channels", "heads", "context", "vocabulary"))


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class CounterRandom:
    def __init__(self, seed, stream):
        self.key = mix(mix((seed + GAMMA) & MASK) ^ mix((stream * GAMMA + 1) & MASK))

    def bits(self, n):
        return mix((self.key + (n + 1) * GAMMA) & MASK)

    def uniform(self, n):
        return (self.bits(n) >> 11) * 2.0**-53

    def below(self, n, limit):
        return (self.bits(n) * limit) >> 64

    def normals(self, count):
        values = []
        for pair in range((count + 1) // 2):
            radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform(2 * pair)))
            angle = 2.0 * math.pi * self.uniform(2 * pair + 1)
            values += [radius * math.cos(angle), radius * math.sin(angle)]
        return values[:count]


def specs(tied):
    """(name, shape, kind, deviation) in model order; decay for all matrices."""
    residual = 0.02 / math.sqrt(2 * L)
    yield "embedding/token/weight", (V, C), "normal", 0.02
    yield "embedding/position/weight", (T, C), "normal", 0.02
    for block in range(L):
        path = f"block/{block}/"
        for name, out, inp, deviation in (("attention/norm", 0, 0, 0), ("attention/qkv", 3 * C, C, 0.02),
                                          ("attention/projection", C, C, residual),
                                          ("mlp/norm", 0, 0, 0), ("mlp/expand", 4 * C, C, 0.02),
                                          ("mlp/projection", C, 4 * C, residual)):
            if name.endswith("norm"):
                yield path + name + "/weight", (C,), "one", 0
                yield path + name + "/bias", (C,), "zero", 0
            else:
                yield path + name + "/weight", (out, inp), "normal", deviation
                yield path + name + "/bias", (out,), "zero", 0
    yield "head/norm/weight", (C,), "one", 0
    yield "head/norm/bias", (C,), "zero", 0
    if not tied:
        yield "head/weight", (V, C), "normal", 0.02


def initial_weights(tied):
    weights = {}
    for index, (name, shape, kind, deviation) in enumerate(specs(tied)):
        if kind == "normal":
            normals = CounterRandom(TRAIN["seed"], index).normals(math.prod(shape))
            # Through float32, as the trainer's master weights.
            value = torch.tensor([deviation * x for x in normals]).float().double().reshape(shape)
        else:
            value = torch.full(shape, 1.0 if kind == "one" else 0.0, dtype=torch.float64)
        weights[name] = value.requires_grad_()
    return weights


def make_text():
    """Learnable bytes below V: a noisy walk, so that 20 steps lower the loss."""
    random, text, value = CounterRandom(99, 0), [], 0
    for i in range(TEXT_BYTES):
        value = random.below(2 * i, V) if random.uniform(2 * i + 1) < 0.2 else (value + 3) % V
        text.append(value)
    return bytes(text)


def batch(text, step):
    random = CounterRandom(TRAIN["seed"], BATCH_STREAM)
    rows = []
    for i in range(TRAIN["batch"]):
        start = random.below(step * TRAIN["batch"] + i, len(text) - T)
        rows.append(list(text[start:start + T + 1]))
    window = torch.tensor(rows)
    return window[:, :-1], window[:, 1:]


def loss_of(w, tokens, targets):
    x = w["embedding/token/weight"][tokens] + w["embedding/position/weight"]

    def norm(x, path):
        return F.layer_norm(x, (C,), w[path + "/weight"], w[path + "/bias"], 1e-5)

    def linear(x, path):
        return F.linear(x, w[path + "/weight"], w[path + "/bias"])

    B = tokens.shape[0]
    for block in range(L):
        path = f"block/{block}/"
        qkv = linear(norm(x, path + "attention/norm"), path + "attention/qkv")
        q, k, v = qkv.view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(a.transpose(1, 2).reshape(B, T, C), path + "attention/projection")
        h = F.gelu(linear(norm(x, path + "mlp/norm"), path + "mlp/expand"), approximate="tanh")
        x = x + linear(h, path + "mlp/projection")
    table = w.get("head/weight", w["embedding/token/weight"])
    logits = norm(x, "head/norm") @ table.T
    return F.cross_entropy(logits.view(-1, V), targets.reshape(-1))


def learning_rate(step):
    if step <= TRAIN["warmup_steps"]:
        return TRAIN["learning_rate"] * step / TRAIN["warmup_steps"]
    progress = (step - TRAIN["warmup_steps"]) / (TRAIN["steps"] - TRAIN["warmup_steps"])
    low = TRAIN["final_learning_rate_fraction"]
    return TRAIN["learning_rate"] * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def train(weights, text):
    """Losses before each of the steps, and gradient norms before clipping."""
    decay = [p for p in weights.values() if p.dim() == 2]
    plain = [p for p in weights.values() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [dict(params=decay, weight_decay=TRAIN["weight_decay"]), dict(params=plain, weight_decay=0.0)],
        betas=(TRAIN["beta1"], TRAIN["beta2"]), eps=TRAIN["epsilon"])
    losses, norms = [], []
    for step in range(TRAIN["steps"]):
        optimizer.zero_grad()
        loss = loss_of(weights, *batch(text, step))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(list(weights.values()), TRAIN["clip"]).item())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step + 1)
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(__file__), "..", "..", "tests", "golden", "gpt")
    os.makedirs(out, exist_ok=True)
    text = make_text()
    floats, index = [], {"model": MODEL, "train": TRAIN, "cases": {}}
    for case, tied in (("tied", True), ("untied", False)):
        weights = initial_weights(tied)
        tensors = []
        loss = loss_of(weights, *batch(text, 0))
        loss.backward()
        for name, value in weights.items():
            # The untied model has the tied one's weights and one table more: stored once.
            stored = case == "untied" or name == "head/weight"
            entry = {"name": name, "size": value.numel()}
            if stored:
                entry["weight"] = len(floats)
                floats += value.detach().flatten().tolist()
            entry["gradient"] = len(floats)
            floats += value.grad.flatten().tolist()
            tensors.append(entry)
        losses, norms = train(weights, text)
        index["cases"][case] = {"loss": loss.item(), "losses": losses, "gradient_norms": norms,
                                "tensors": tensors}
        print(f"{case}: {len(tensors)} tensors, loss {losses[0]:.6f} -> {losses[-1]:.6f}, "
              f"norm {norms[0]:.4f}")
    tokens, targets = batch(text, 0)
    index["tokens"], index["targets"] = tokens.flatten().tolist(), targets.flatten().tolist()
    with open(os.path.join(out, "text.bin"), "wb") as file:
        file.write(text)
    with open(os.path.join(out, "golden.bin"), "wb") as file:
        file.write(struct.pack(f"<{len(floats)}f", *floats))
    with open(os.path.join(out, "golden.json"), "w") as file:
        json.dump(index, file, separators=(",", ":"))


if __name__ == "__main__":
    main()
