"""A model with a windowed mask, which is the slow and exact reference for the sink cache."""

import math

import torch
from tiny_models import VOCAB, build

SETTINGS = [(68, 4, 32), (64, 0, 32), (100, 1, 40), (131, 7, 33)]  # max_length, sinks, block

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    "llama3": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64},
}  # fmt: skip

class Norm64(torch.nn.Module):
    """Llama's norm in float64; transformers' own computes in float32 whatever it is given."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()


class Rotary64(torch.nn.Module):
    def __init__(self, rotary):
        super().__init__()
        self.inv_freq, self.attention_scaling = rotary.inv_freq, rotary.attention_scaling

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.inv_freq.double()
        both = torch.cat([angles, angles], -1)
        return both.cos() * self.attention_scaling, both.sin() * self.attention_scaling


def exact_llama(rope="default", seed=0):
    """A Llama that computes everything in float64."""
    model = build("llama", seed, rope_parameters=ROPES[rope]).double()
    model.model.norm, model.model.rotary_emb = Norm64(model.model.norm), Rotary64(model.model.rotary_emb)
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = Norm64(layer.input_layernorm), Norm64(layer.post_attention_layernorm)
    return model


def turned(x, positions, rotary):
    """The rotated x [H, n, d] at positions [n]."""
    angles = positions[:, None].double() * rotary.inv_freq.double()
    cos, sin, (a, b) = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling, x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(layer, h, gone, sinks, rotary):
    """[T, D]: each token sees the sinks and whatever is still kept when it is read, at the slots that these tokens have then."""
    heads = lambda states: states.view(len(h), -1, 8).transpose(0, 1)
    q, k, v = heads(layer.q_proj(h)), heads(layer.k_proj(h)), heads(layer.v_proj(h))
    k, v = (states.repeat_interleave(q.shape[0] // states.shape[0], 0) for states in (k, v))
    out, positions = torch.zeros_like(q), torch.arange(len(h))
    for evicted in sorted(set(gone)):
        rows = torch.tensor([t for t in range(len(h)) if gone[t] == evicted])
        seen = torch.tensor([j for j in range(int(rows[-1]) + 1) if j < sinks or j >= sinks + evicted])
        slots = torch.where(seen < sinks, seen, seen - evicted)
        scores = turned(q[:, rows], positions[rows] - evicted, rotary) @ turned(k[:, seen], slots, rotary).transpose(1, 2) / math.sqrt(8)
        out[:, rows] = scores.masked_fill(seen[None] > rows[:, None], -math.inf).softmax(-1) @ v[:, seen]
    return layer.o_proj(out.transpose(0, 1).flatten(1))


@torch.inference_mode()
def oracle(model, ids, max_length, sinks, block):
    """[T, V]: the definition of the streaming cache, computed over the whole text at once and without a cache."""
    gone = [0 if t < max_length else block * math.ceil((t - max_length + 1) / block) for t in range(len(ids))]
    x = model.model.embed_tokens(torch.tensor(ids))
    for layer in model.model.layers:
        x = x + attend(layer.self_attn, layer.input_layernorm(x), gone, sinks, model.model.rotary_emb)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(model.model.norm(x))


def random_ids(rng, count):
    return [rng.randrange(VOCAB) for _ in range(count)]
