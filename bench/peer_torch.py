"""Prefill and decode speed of transformers on PyTorch with random weights, to stand beside `larder bench` on a GPU.

    python3 bench/peer_torch.py 1b [-p 512] [-n 64] [-s 1] [-r 3]
    python3 bench/peer_torch.py tiny --device cpu        tries the script where there is no GPU

Attention is PyTorch's scaled_dot_product_attention over a static cache; a decode step is one CUDA graph. Also prints
the bandwidth of a large copy on the device, measured in the same run, and decode's share of it. Needs torch and
transformers.
"""
import argparse
import statistics
import time

import torch
import transformers

# hidden, layers, heads, KV heads, head size, intermediate, vocabulary
SHAPES = {
    "tiny": (64, 2, 4, 2, 16, 128, 512),
    "1b": (2048, 16, 32, 8, 64, 8192, 128256),
    "8b": (4096, 32, 32, 8, 128, 14336, 128256),
}


def model_of(shape, device):
    hidden, layers, heads, kv_heads, head_dim, intermediate, vocab = shape
    config = transformers.LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=vocab,
        max_position_embeddings=131072,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return config, model.eval()


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def copy_bandwidth(device):
    """Bytes read and written per second by a copy of 1 GiB."""
    n_bytes = 1 << (30 if device == "cuda" else 26)
    source = torch.empty(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(10):
        synchronize(device)
        begin = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        rates.append(2 * n_bytes / (time.perf_counter() - begin))
    return statistics.median(rates)


def decode_step(model, cache, tokens, position, device):
    """A call that appends one token to every sequence; a CUDA graph where there are any."""

    def step():
        return model(tokens, past_key_values=cache, cache_position=position, use_cache=True).logits

    if device != "cuda":
        return step
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("-p", type=int, default=512, help="prompt tokens")
    parser.add_argument("-n", type=int, default=64, help="decoded tokens")
    parser.add_argument("-s", type=int, default=1, help="sequences together")
    parser.add_argument("-r", type=int, default=3, help="repetitions")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    config, model = model_of(SHAPES[args.shape], args.device)
    length = args.p + args.n + 8
    cache = transformers.StaticCache(config=config, max_cache_len=length)
    prompt = torch.randint(0, config.vocab_size, (args.s, args.p), device=args.device)
    tokens = torch.zeros((args.s, 1), dtype=torch.long, device=args.device)
    position = torch.tensor([args.p], device=args.device)
    prefill, decode, step = [], [], None
    for round in range(args.r + 1):
        cache.reset()
        synchronize(args.device)
        begin = time.perf_counter()
        model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
        synchronize(args.device)
        seconds = time.perf_counter() - begin
        position.fill_(args.p)
        step = step or decode_step(model, cache, tokens, position, args.device)
        synchronize(args.device)
        begin = time.perf_counter()
        for _ in range(args.n):
            step()
            position += 1
            synchronize(args.device)
        if round:  # the first round warms up
            prefill.append(args.s * args.p / seconds)
            decode.append(args.s * args.n / (time.perf_counter() - begin))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    weights -= model.get_input_embeddings().weight.numel() * 2  # one row of it is read
    bandwidth = copy_bandwidth(args.device)
    card = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    print(f"{card}: copy {bandwidth / 1e9:.0f} GB/s, torch {torch.__version__}")
    for name, rates in (("prefill", prefill), ("decode", decode)):
        print(f"{name} {statistics.median(rates):.1f} tok/s ({min(rates):.1f} to {max(rates):.1f})")
    share = statistics.median(decode) / args.s * weights / bandwidth
    print(f"weights read by decode: {100 * share:.0f} % of the copy bandwidth")


if __name__ == "__main__":
    main()
