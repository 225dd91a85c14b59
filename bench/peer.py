"""What the peers of the benchmark have in common: they read cases from standard input, as `larder bench --stdin` does, and
answer each with a line of JSON. Cases: "prefill TOKENS [SEQUENCES]", "decode DEPTH STEPS SEQUENCES", "generate DEPTH STEPS
SEQUENCES", "first TOKENS CACHED"; a peer knows those that its benchmark asks for.
"""
import argparse
import json
import os
import sys


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-sequence-tokens", type=int, default=4608, help="tokens that one sequence may have")
    parser.add_argument("--total-tokens", type=int, default=8192, help="tokens that all sequences may have together")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where there is a choice")
    return parser.parse_args()


def private_stdout():
    """A copy of standard output for the answers; whatever a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def token(position, salt, vocab_size):
    """The same token at the same place in every run, all over the vocabulary. Another salt gives other ones."""
    return ((position + 7919 * salt) * 2_654_435_761 + 12_345) % vocab_size


def tokens(positions, salt, vocab_size):
    return [token(position, salt, vocab_size) for position in positions]


def answer(answers, heading, methods):
    """Answers case after case. Each method takes the case's numbers and gives seconds and tokens."""
    print(json.dumps(heading), file=answers)
    for line in sys.stdin:
        name, *numbers = line.split()
        try:
            seconds, n_tokens = methods[name](*map(int, numbers))
            result = {"case": line.strip(), "seconds": [seconds], "tokens": n_tokens}
        except Exception as error:  # any failure of a peer is a result, too
            result = {"case": line.strip(), "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), file=answers)
