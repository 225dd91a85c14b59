"""OpenVINO GenAI on the processor, beside `larder bench`.

    echo "prefill 512" | python3 bench/peer_openvino.py MODEL.gguf [--threads 2]

Needs openvino-genai, which reads GGUF files of the families llama, qwen2 and qwen3 with F16, Q4_0, Q4_1, Q8_0, Q4_K or Q6_K
weights. It runs as its continuous batching pipeline with the prefix cache, and takes prompts whole, which is its fastest
way. Every token is sampled, greedily, as the pipeline always does; the keys and values are 8-bit integers, its default.
"""
import time

import numpy
import openvino
import openvino_genai
from peer import answer, arguments, private_stdout, token, tokens

GIB = 1 << 30


class Peer:
    def __init__(self, args):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.max_num_batched_tokens = args.max_sequence_tokens
        scheduler.cache_size = 1
        properties = {"INFERENCE_NUM_THREADS": args.threads}
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(args.model, scheduler, "CPU", properties)
        # Above these numbers are the tokens that mean something to a tokenizer, in no model used here.
        self.vocab_size = 32768
        self.n_requests = 0

    def add(self, prompt, n_new):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = n_new
        config.ignore_eos = True
        config.do_sample = False
        self.n_requests += 1
        ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        return self.pipeline.add_request(self.n_requests, ids, config)

    def finish(self):
        """Steps until all requests have ended. A request ends early when its handle is dropped."""
        n_steps = 0
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            n_steps += 1
        return n_steps

    def request(self, prompt):
        """The time to the one token of a request."""
        begin = time.perf_counter()
        handle = self.add(prompt, 1)
        self.finish()
        seconds = time.perf_counter() - begin
        if not handle.can_read():
            raise RuntimeError("a request ended without a token")
        return seconds

    def fresh(self, positions):
        """Tokens that no request had before."""
        return tokens(positions, self.n_requests + 1000, self.vocab_size)

    def prefill(self, n_tokens):
        return self.request(self.fresh(range(n_tokens))), n_tokens

    def decode(self, depth, n_steps, n_sequences):
        """Behind a prompt of `depth` tokens, or of one: it cannot do without."""
        positions = range(max(depth, 1))
        handles = [self.add(tokens(positions, s, self.vocab_size), n_steps + 1) for s in range(n_sequences)]
        while not all(handle.can_read() for handle in handles):
            self.pipeline.step()
        begin = time.perf_counter()
        n_done = self.finish()
        seconds = time.perf_counter() - begin
        if n_done != n_steps:
            raise RuntimeError(f"{n_done} steps for {n_steps} tokens of {n_sequences} sequences")
        return seconds, n_steps * n_sequences

    def first(self, n_tokens, n_cached):
        prompt = tokens(range(n_cached), 0, self.vocab_size)
        if n_cached:
            self.request(prompt)
        prompt += self.fresh(range(n_cached, n_tokens))
        return self.request(prompt), n_tokens


def main():
    args = arguments(__doc__)
    answers = private_stdout()
    begin = time.perf_counter()
    peer = Peer(args)
    heading = {
        "engine": "OpenVINO",
        "version": f"GenAI {openvino_genai.__version__}",
        "load_seconds": time.perf_counter() - begin,
    }
    answer(answers, heading, {"prefill": peer.prefill, "decode": peer.decode, "first": peer.first})


if __name__ == "__main__":
    main()
