"""What a GPU can do, as a line of JSON: bytes read per second and operations per second of its tensor cores in bf16.

    python3 bench/limits_torch.py [--device cpu]         the processor: to try the script, with tiny sizes

The read bandwidth is the better one of a large sum and of a large copy, whose reads and writes count both. The peak is that of
a large matrix product of cuBLAS over random numbers. The best of several; memory is what is free at the beginning.
"""
import argparse
import json
import time

import torch

N_RUNS = 12


def best(device, action):
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(N_RUNS):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            action()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def read_bytes(device, n_bytes):
    source = torch.ones(n_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return max(n_bytes / best(device, source.sum), 2 * n_bytes / best(device, lambda: target.copy_(source)))


def tensor_operations(device, n):
    left, right = (torch.randn((n, n), device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * n**3 / best(device, lambda: torch.mm(left, right, out=out))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    if device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("PyTorch finds no GPU")
        free, _ = torch.cuda.mem_get_info()
        card, n_bytes, n = torch.cuda.get_device_name(), 2 << 30, 8192
    else:
        free, card, n_bytes, n = 64 << 20, "no card (kernels on an emulator)", 1 << 22, 256
    limits = {
        "card": card,
        "memory_bytes": free,
        "read_bytes": read_bytes(device, n_bytes),
        "tensor_operations": tensor_operations(device, n),
    }
    print(json.dumps(limits))


if __name__ == "__main__":
    main()
