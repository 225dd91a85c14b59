"""Write RoPE frequencies as Hugging Face transformers computes them, for many scalings.

    python make_rope_golden.py > tests/data/rope.json

Needs torch and transformers. Each case has the keys that go into a llama config.json (head_dim 16), the longest
sequence, and the frequencies and the factor of cos and sin that come out.
"""
import copy
import json

from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

SHORT = [1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35]
LONG = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
LONGROPE = dict(rope_type="longrope", short_factor=SHORT, long_factor=LONG, original_max_position_embeddings=64)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)

# (theta, scaling, max_position_embeddings, longest sequence)
CASES = [
    (10000.0, dict(rope_type="linear", factor=2.0), 256, 256),
    (500000.0, dict(rope_type="linear", factor=8), 256, 256),
    (500000.0, LLAMA3, 256, 256),
    (10000.0, dict(LLAMA3, factor=32.0, original_max_position_embeddings=8192), 131072, 131072),
    (10000.0, YARN, 256, 256),
    (1000000.0, dict(YARN, factor=16.0, original_max_position_embeddings=4096), 65536, 65536),
    (10000.0, dict(YARN, attention_factor=1.5), 256, 256),
    (10000.0, dict(YARN, mscale=0.707, mscale_all_dim=1.0), 256, 256),
    (10000.0, dict(YARN, mscale=0.5), 256, 256),
    (10000.0, dict(YARN, beta_fast=8.0, beta_slow=2.0), 256, 256),
    (10000.0, dict(YARN, truncate=False), 256, 256),
    (10000.0, dict(YARN, factor=1.0), 64, 64),
    (10000.0, LONGROPE, 256, 64),
    (10000.0, LONGROPE, 256, 65),
    (10000.0, dict(LONGROPE, factor=8.0), 256, 65),
    (10000.0, dict(LONGROPE, attention_factor=1.25), 256, 65),
    (10000.0, LONGROPE, 64, 64),
    (10000.0, dict(rope_type="dynamic", factor=4.0), 32, 16),
    (10000.0, dict(rope_type="dynamic", factor=4.0), 32, 33),
    (10000.0, dict(rope_type="dynamic", factor=2.0), 32, 4096),
]

cases = []
for theta, scaling, context, longest in CASES:
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=16, max_position_embeddings=context,
                         rope_parameters=dict(copy.deepcopy(scaling), rope_theta=theta))
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, "cpu", seq_len=longest)
    cases.append(dict(theta=theta, scaling=scaling, context=context, max_sequence_tokens=longest,
                      inverse_frequencies=frequencies.tolist(), magnitude=magnitude))
print(json.dumps(cases, indent=1))
