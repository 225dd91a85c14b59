"""PyTorch on a GPU, beside `larder bench --device cuda`: transformers' Llama in bf16 with random weights.

    echo "generate 512 32 8" | python3 bench/peer_torch.py 1b
    echo "prefill 16 2" | python3 bench/peer_torch.py tiny --device cpu        tries it where there is no GPU

The model is a shape of `make_shape.py`. Attention is scaled_dot_product_attention. A decode step over a static cache is one
CUDA graph, with the greedy choice of the next tokens, which are copied to the host, as a server needs them. The cache is
filled with random numbers: a step takes the same time whatever they are. Prompts are taken whole. Needs torch and transformers
(bench/requirements_cuda.txt).
"""
import time

import make_shape
import torch
import transformers
from peer import answer, arguments, private_stdout, tokens

WARM_UP_STEPS = 3
# Tokens that a cache's length is a multiple of, so that masks are aligned.
CACHE_ALIGNMENT = 64


def model_of(shape, device):
    config = transformers.LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.epsilon,
        tie_word_embeddings=shape.is_tied,
        attn_implementation="sdpa",
    )
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval()


class Decoding:
    """Sequences behind `depth` tokens each, and a step that appends a token to all."""

    def __init__(self, model, device, depth, n_steps, n_sequences):
        self.device, self.depth = device, depth
        length = depth + max(n_steps, WARM_UP_STEPS)
        length += -length % CACHE_ALIGNMENT
        self.cache = transformers.StaticCache(config=model.config, max_cache_len=length)
        self.tokens = torch.zeros((n_sequences, 1), dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.places = torch.arange(length, device=device)
        self.on_host = torch.zeros((n_sequences, 1), dtype=torch.long, pin_memory=device == "cuda")
        self.model = model
        self.step = self.compute
        self.step()  # makes the cache
        for layer in self.cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
        self.rewind()
        if device == "cuda":
            self.step = self.captured()

    def compute(self):
        mask = (self.places <= self.position).view(1, 1, 1, -1).expand(len(self.tokens), 1, 1, -1)
        position = self.position.view(1, 1)
        output = self.model(self.tokens, attention_mask=mask, position_ids=position, cache=self.cache, use_cache=True)
        self.tokens.copy_(output.logits[:, -1].argmax(-1, keepdim=True))
        self.position.add_(1)

    def captured(self):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self.compute()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.compute()
        return graph.replay

    def rewind(self):
        self.position.fill_(self.depth)
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(self.depth)

    def run(self, n_steps):
        """Seconds of so many steps."""
        self.rewind()
        synchronize(self.device)
        begin = time.perf_counter()
        for _ in range(n_steps):
            self.step()
            self.on_host.copy_(self.tokens, non_blocking=True)
            synchronize(self.device)
        return time.perf_counter() - begin


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


class Peer:
    def __init__(self, args):
        self.device = args.device
        self.model = model_of(make_shape.SHAPES[args.model], args.device)
        self.decoding, self.case = None, None

    def forget(self):
        """Gives the last case's memory back."""
        self.decoding, self.case = None, None
        if self.device == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def generate(self, *case):
        depth, n_steps, n_sequences = case
        if self.case != case:
            self.forget()
            self.decoding = without_trace(Decoding, self.model, self.device, *case)
            self.case = case
        return self.decoding.run(n_steps), n_steps * n_sequences

    @torch.inference_mode()
    def prefill(self, n_tokens, n_sequences=1):
        if self.case is not None:
            self.forget()
        vocab_size = self.model.config.vocab_size
        rows = [tokens(range(n_tokens), sequence, vocab_size) for sequence in range(n_sequences)]
        prompts = torch.tensor(rows, device=self.device)
        synchronize(self.device)
        begin = time.perf_counter()
        without_trace(self.model, prompts, use_cache=True, logits_to_keep=1)
        synchronize(self.device)
        return time.perf_counter() - begin, n_tokens * n_sequences


def without_trace(function, *args, **kwargs):
    """Calls it, with a short error when the device's memory is used up: the long one would keep what was allocated."""
    try:
        return function(*args, **kwargs)
    except torch.OutOfMemoryError:
        pass
    raise MemoryError("the device's memory is used up")


def main():
    args = arguments(__doc__)
    answers = private_stdout()
    begin = time.perf_counter()
    peer = Peer(args)
    heading = {
        "engine": "PyTorch",
        "version": f"{torch.__version__}, transformers {transformers.__version__}",
        "load_seconds": time.perf_counter() - begin,
    }
    answer(answers, heading, {"prefill": peer.prefill, "generate": peer.generate})


if __name__ == "__main__":
    main()
