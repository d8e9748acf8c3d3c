#!/usr/bin/env python3
"""Layer cost profiles of published models: balancers/profiles/*.json, from their architectures alone.

Per layer and one sample (an image, or a sequence): parameters; FLOPs (a multiply-add is two) of F,
of the input-gradient half I and of the weight-gradient half W; bytes of activations kept from F for
the backward; bytes of the output that a next stage is sent.

Rules. A product with weights costs the same in F, I and W; attention's two products have no weights:
I takes twice their F. The first layer has no I. Normalisation, activation functions and softmax are
no FLOPs. Activations are 2 bytes: of a transformer s h (34 + 5 a s / h) bytes a block (Korthikanti et
al. 2022, eq. 1, no checkpointing, dropout masks 1 byte); of a convolution its input and its output
(the input of batch normalisation).
"""
import json
import pathlib

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "balancers/profiles"
BYTES = 2


def layer(name, parameters, weight_flops, activation_bytes, output_elements, attention_flops=0, first=False):
    return {"name": name, "parameters": parameters, "forward_flops": weight_flops + attention_flops,
            "input_grad_flops": 0 if first else weight_flops + 2 * attention_flops,
            "weight_grad_flops": weight_flops, "activation_bytes": activation_bytes,
            "output_bytes": BYTES * output_elements}


class Convolutions:
    """Adds up the convolutions (each with batch normalisation) of a layer."""

    def __init__(self):
        self.parameters = self.flops = self.activations = 0

    def add(self, inputs, outputs, kernel, size, stride=1):
        weights, out = inputs * outputs * kernel * kernel, size // stride
        self.parameters += weights + 2 * outputs
        self.flops += 2 * weights * out * out
        self.activations += BYTES * (inputs * size * size + outputs * out * out)
        return out


def resnet152():
    """He et al. 2015, table 1: bottlenecks of 3, 8, 36, 3; the stride is in the 3 x 3 convolution (v1.5)."""
    stem = Convolutions()
    size = stem.add(3, 64, 7, 224, 2) // 2  # max-pooling halves it
    layers = [layer("stem", stem.parameters, stem.flops, stem.activations, 64 * size * size, first=True)]
    channels = 64
    for group, (blocks, width) in enumerate(((3, 64), (8, 128), (36, 256), (3, 512))):
        for block in range(blocks):
            stride = 2 if group > 0 and block == 0 else 1
            sums, inner = Convolutions(), size
            sums.add(channels, width, 1, inner)
            inner = sums.add(width, width, 3, inner, stride)
            sums.add(width, 4 * width, 1, inner)
            if block == 0:
                sums.add(channels, 4 * width, 1, size, stride)
            channels, size = 4 * width, inner
            layers.append(layer(f"group{group + 1}/block{block}", sums.parameters, sums.flops,
                                sums.activations, channels * size * size))
    layers.append(layer("head", channels * 1000 + 1000, 2 * channels * 1000, BYTES * channels, 1000))
    return layers


def transformer(blocks, h, heads, s, vocabulary, positions, causal, embedding_extra=0, head_extra=0, head_flops=0):
    products = 12 * h * h
    attention = 4 * s * s * h // (2 if causal else 1)
    kept = s * h * 34 + 5 * heads * s * s
    layers = [layer("embedding", (vocabulary + positions) * h + embedding_extra, 0, 4 * s, s * h, first=True)]
    layers += [layer(f"block/{i}", products + 13 * h, 2 * s * products, kept, s * h, attention)
               for i in range(blocks)]
    layers.append(layer("head", head_extra, 2 * s * vocabulary * h + head_flops, BYTES * s * (h + vocabulary), 0))
    return layers


def bert_large():
    """Devlin et al. 2018: 24 blocks of 1024, 16 heads, 512 tokens, 30522 words, two segments. The head
    (masked words) is a dense layer, LayerNorm, and the tied table with its bias."""
    h, s = 1024, 512
    return transformer(24, h, 16, s, 30522, 512, False, embedding_extra=2 * h + 2 * h,
                       head_extra=h * h + 3 * h + 30522, head_flops=2 * s * h * h)


def gpt3():
    """Brown et al. 2020, table 2.1: 96 blocks of 12288, 96 heads, 2048 tokens; the head's table is tied."""
    return transformer(96, 12288, 96, 2048, 50257, 2048, True, head_extra=2 * 12288)


def deepseek_v3():
    """DeepSeek-AI 2024, section 4.2: 61 blocks of 7168 (3 dense, 58 with 256 experts, 8 + 1 shared a
    token), multi-head latent attention of 128 heads; without multi-token prediction. One rank holds all
    experts of its blocks; 4096 tokens. Activations: inputs of each product, of active experts only, and
    no attention matrix (fused attention)."""
    h, s, heads, q_rank, kv_rank, nope, rope, value = 7168, 4096, 128, 1536, 512, 128, 64, 128
    experts, active, width, dense_width, vocabulary = 256, 8 + 1, 2048, 18432, 129280
    projections = (h * q_rank + q_rank * heads * (nope + rope) + h * (kv_rank + rope) +
                   kv_rank * heads * (nope + value) + heads * value * h)
    norms = 2 * h + q_rank + kv_rank
    attention = s * s * heads * (nope + rope + value)  # two products of 2 s^2 d FLOPs, half of it causal
    kept = s * (3 * h + q_rank + kv_rank + rope + heads * (2 * (nope + rope) + 2 * value))
    layers = [layer("embedding", vocabulary * h, 0, 4 * s, s * h, first=True)]
    for i in range(61):
        moe = i >= 3
        held = 3 * h * (width * (experts + 1) if moe else dense_width) + (h * experts + experts if moe else 0)
        used = 3 * h * (width * active if moe else dense_width) + (h * experts if moe else 0)
        inner = s * ((width * active if moe else dense_width) * 3 + (active if moe else 1) * h)
        layers.append(layer(f"block/{i}", projections + norms + held, 2 * s * (projections + used),
                            BYTES * (kept + inner), s * h, attention))
    layers.append(layer("head", vocabulary * h + h, 2 * s * vocabulary * h, BYTES * s * (h + vocabulary), 0))
    return layers


def write(name, model, sample):
    layers = model()
    doc = " ".join((model.__doc__ or "").split())
    out = {"name": name, "sample": sample, "source": doc, "made_by": "scripts/layer_profiles.py",
           "parameters": sum(l["parameters"] for l in layers),
           "forward_flops": sum(l["forward_flops"] for l in layers), "layers": layers}
    text = json.dumps({**out, "layers": []}, indent=1)[:-len('[]\n}')]
    text += "[\n" + ",\n".join("  " + json.dumps(l) for l in layers) + "\n ]\n}\n"
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(text)
    print(f"{name:14} {len(layers):4} layers {out['parameters']:16,} parameters "
          f"{out['forward_flops'] / 1e9:12,.1f} GFLOP a sample forward")


def main():
    write("resnet152", resnet152, "image of 224 x 224")
    write("bert-large", bert_large, "sequence of 512 tokens")
    write("gpt3", gpt3, "sequence of 2048 tokens")
    write("deepseek-v3", deepseek_v3, "sequence of 4096 tokens")


if __name__ == "__main__":
    main()
