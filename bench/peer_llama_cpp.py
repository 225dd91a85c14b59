"""llama.cpp, through llama-cpp-python, beside `larder bench`.

    echo "prefill 512" | python3 bench/peer_llama_cpp.py MODEL.gguf [--threads 2]

Needs llama-cpp-python, built from its sdist so that it uses the processor's own instructions (scripts/bench_setup.sh). Every
option is llama.cpp's default but for the number of threads and the rows of a step, 512.
"""
import ctypes
import time

import llama_cpp as lib
from peer import answer, arguments, private_stdout, token, tokens

ROWS = 512


@lib.llama_log_callback
def silent(level, text, user):
    pass


class Context:
    """A context for a number of sequences, with their lengths."""

    def __init__(self, model, n_sequences, n_tokens, n_threads):
        params = lib.llama_context_default_params()
        params.n_ctx = n_sequences * n_tokens
        params.n_seq_max = n_sequences
        params.n_batch = params.n_ubatch = ROWS
        params.n_threads = params.n_threads_batch = n_threads
        self.context = lib.llama_init_from_model(model, params)
        if not self.context:
            raise MemoryError(f"no context of {n_sequences} times {n_tokens} tokens")
        self.memory = lib.llama_get_memory(self.context)
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self.lengths = [0] * n_sequences
        self.batch = lib.llama_batch_init(ROWS, 0, 1)
        self.sampler = lib.llama_sampler_init_greedy()

    def free(self):
        lib.llama_sampler_free(self.sampler)
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.context)

    def truncate(self, sequence, n_tokens):
        lib.llama_memory_seq_rm(self.memory, sequence, n_tokens, -1)
        self.lengths[sequence] = min(self.lengths[sequence], n_tokens)

    def decode(self, rows):
        """One pass over rows of (token, sequence, whether logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (row_token, sequence, is_wanted) in enumerate(rows):
            batch.token[i] = row_token
            batch.pos[i] = self.lengths[sequence]
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = is_wanted
            self.lengths[sequence] += 1
        status = lib.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")
        lib.llama_synchronize(self.context)

    def append(self, sequence, new):
        for first in range(0, len(new), ROWS):
            part = new[first : first + ROWS]
            is_last = first + ROWS >= len(new)
            self.decode([(t, sequence, is_last and i == len(part) - 1) for i, t in enumerate(part)])

    def prepare(self, depth):
        """Sees to exactly so many tokens in every sequence."""
        for sequence in range(len(self.lengths)):
            self.truncate(sequence, depth)
            self.append(sequence, tokens(range(self.lengths[sequence], depth), sequence, self.vocab_size))


class Peer:
    def __init__(self, args):
        lib.llama_log_set(silent, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self.args = args
        self.model = lib.llama_model_load_from_file(args.model.encode(), lib.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {args.model}")
        self.context = None
        self.n_requests = 0

    def context_of(self, n_sequences, n_tokens):
        """The context with so many sequences; that of one serves all its cases."""
        n_tokens = self.args.max_sequence_tokens if n_sequences == 1 else n_tokens
        if self.context is None or len(self.context.lengths) != n_sequences:
            if self.context is not None:
                self.context.free()
            self.context = Context(self.model, n_sequences, -(-n_tokens // 256) * 256, self.args.threads)
        return self.context

    def prefill(self, n_tokens):
        context = self.context_of(1, n_tokens)
        context.truncate(0, 0)
        prompt = tokens(range(n_tokens), 0, context.vocab_size)
        begin = time.perf_counter()
        context.append(0, prompt)
        return time.perf_counter() - begin, n_tokens

    def decode(self, depth, n_steps, n_sequences):
        context = self.context_of(n_sequences, depth + n_steps)
        context.prepare(depth)
        begin = time.perf_counter()
        for position in range(depth, depth + n_steps):
            context.decode([(token(position, s, context.vocab_size), s, True) for s in range(n_sequences)])
        return time.perf_counter() - begin, n_steps * n_sequences

    def first(self, n_tokens, n_cached):
        """A cached prefix is a sequence that was kept."""
        context = self.context_of(1, n_tokens)
        self.n_requests += 1
        context.prepare(n_cached)
        prompt = tokens(range(n_cached, n_tokens), self.n_requests, context.vocab_size)
        begin = time.perf_counter()
        context.append(0, prompt)
        lib.llama_sampler_sample(context.sampler, context.context, -1)
        seconds = time.perf_counter() - begin
        context.truncate(0, n_cached)
        return seconds, n_tokens


def main():
    args = arguments(__doc__)
    answers = private_stdout()
    begin = time.perf_counter()
    peer = Peer(args)
    heading = {
        "engine": "llama.cpp",
        "version": f"llama-cpp-python {lib.__version__}",
        "load_seconds": time.perf_counter() - begin,
        "features": lib.llama_print_system_info().decode(),
    }
    answer(answers, heading, {"prefill": peer.prefill, "decode": peer.decode, "first": peer.first})


if __name__ == "__main__":
    main()
