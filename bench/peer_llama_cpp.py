"""Prefill and decode speed of llama.cpp through llama-cpp-python, to stand beside `larder bench`.

    python3 bench/peer_llama_cpp.py MODEL.gguf [-p 512] [-n 64] [-r 5] [-t 2] [--threads-batch 2]

Needs llama-cpp-python, built from its sdist so that it uses the processor's own instructions.
"""
import argparse
import ctypes
import statistics
import time

import llama_cpp as lib


def batch_of(tokens, first, logits_last):
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i] = token
        batch.pos[i] = first + i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = logits_last and i == len(tokens) - 1
    return batch


def decode(context, tokens, first, logits_last):
    batch = batch_of(tokens, first, logits_last)
    begin = time.perf_counter()
    status = lib.llama_decode(context, batch)
    lib.llama_synchronize(context)
    seconds = time.perf_counter() - begin
    lib.llama_batch_free(batch)
    assert status == 0, f"llama_decode gave {status}"
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("-p", type=int, default=512, help="prompt tokens")
    parser.add_argument("-n", type=int, default=64, help="decoded tokens")
    parser.add_argument("-r", type=int, default=5, help="repetitions")
    parser.add_argument("-t", type=int, default=2, help="threads")
    args = parser.parse_args()

    @lib.llama_log_callback
    def silent(level, text, user):
        pass

    lib.llama_log_set(silent, ctypes.c_void_p(0))
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(args.model.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx = args.p + args.n + 8
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = args.t
    context = lib.llama_init_from_model(model, params)
    n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    prompt = [(i * 7919 + 13) % n_vocab for i in range(args.p)]
    prefill, generate = [], []
    for round in range(args.r + 1):
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        seconds = sum(
            decode(context, prompt[i : i + 512], i, i + 512 >= args.p) for i in range(0, args.p, 512)
        )
        begin = time.perf_counter()
        for i in range(args.n):
            decode(context, [prompt[i % args.p]], args.p + i, True)
        if round:  # the first round warms up
            prefill.append(args.p / seconds)
            generate.append(args.n / (time.perf_counter() - begin))
    for name, rates in (("prefill", prefill), ("decode", generate)):
        print(f"{name} {statistics.median(rates):.1f} tok/s ({min(rates):.1f} to {max(rates):.1f})")


if __name__ == "__main__":
    main()
