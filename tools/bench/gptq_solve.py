"""One GPTQ solve, N = 2048, K = 5632, W4 g128 asymmetric, act-order, static groups, damping 1 %: ours and plain PyTorch.

Ours: min-max scales without sweeps ("plain"), and the default (scale search, two sweeps of refinement); factorisation included.
PyTorch: algorithm 1 of the paper as its authors' program runs it, written here; 1 and 2 threads, the better counts.
Same H and W, interleaved; the median of the rounds counts. Processor time, of all threads, is given too: on a busy machine it is the
fairer figure, with one thread. Raw results: tools/bench/results/DATE-gptq_solve.json.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
N, K, TOKENS = 2048, 5632, 8192

INPUTS = """
import sys, torch
N, K, T, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
X = torch.randn(T, K) * torch.exp(.7 * torch.randn(K)) + .5 * torch.randn(T, 64) @ torch.randn(64, K)
(X.T @ X / T).numpy().tofile(folder + "/H.f32")
(.02 * torch.randn(N, K)).numpy().tofile(folder + "/W.f32")
"""

TORCH = """
import json, sys, time
import numpy as np, torch
N, K, folder, threads = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
torch.set_num_threads(threads)
load = lambda name, rows: torch.from_numpy(np.fromfile(f"{folder}/{name}.f32", np.float32).reshape(rows, K))
original, hessian = load("W", N), load("H", K)
MAXQ, GROUP, BLOCK = 15, 128, 128

def find_params(w):
    low, high = w.amin(1).clamp(max=0), w.amax(1).clamp(min=0)
    scale = (high - low) / MAXQ
    scale[scale == 0] = 1
    scale = scale.half().float()
    return scale, torch.clamp(torch.round(-low / scale), 0, MAXQ)

def fasterquant(W, H):
    W, H = W.clone(), H.clone()
    dead = torch.diag(H) == 0
    H[dead, dead] = 1
    W[:, dead] = 0
    groups = [find_params(W[:, k:k + GROUP]) for k in range(0, K, GROUP)]
    perm = torch.argsort(torch.diag(H), descending=True)
    W, H = W[:, perm], H[perm][:, perm]
    group = (perm // GROUP).tolist()
    diagonal = torch.arange(K)
    H[diagonal, diagonal] += .01 * torch.mean(torch.diag(H))
    H = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    Q = torch.empty_like(W)
    for first in range(0, K, BLOCK):
        last = min(first + BLOCK, K)
        W1, H1 = W[:, first:last].clone(), H[first:last, first:last]
        Q1, E1 = torch.empty_like(W1), torch.empty_like(W1)
        for i in range(last - first):
            w = W1[:, i]
            scale, zero = groups[group[first + i]]
            q = (torch.clamp(torch.round(w / scale) + zero, 0, MAXQ) - zero) * scale
            Q1[:, i] = q
            error = (w - q) / H1[i, i]
            W1[:, i:] -= error.unsqueeze(1).matmul(H1[i, i:].unsqueeze(0))
            E1[:, i] = error
        Q[:, first:last] = Q1
        W[:, last:] -= E1.matmul(H[first:last, last:])
    return Q[:, torch.argsort(perm)]

wall, processor = time.perf_counter(), time.process_time()
Q = fasterquant(original, hessian)
wall, processor = time.perf_counter() - wall, time.process_time() - processor
error = (original - Q).double()
W, H = original.double(), hessian.double()
loss = ((error @ H * error).sum() / (W @ H * W).sum()).item()
print(json.dumps({"threads": threads, "version": torch.__version__, "wall": wall, "processor": processor, "loss": loss}))
"""


# What src/cli/main.cc sets for the program.
OURS = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def run(command, threads, environment):
    result = subprocess.run(command, check=True, capture_output=True, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive",
                                 **environment})
    return json.loads(result.stdout.splitlines()[-1])


def machine():
    model = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    return {"cpu": model, "cores": os.cpu_count(), "load_average": os.getloadavg()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path)
    arguments = parser.parse_args()
    raw = {"date": datetime.datetime.now().isoformat(timespec="minutes"), "N": N, "K": K, "machine": machine(), "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", INPUTS, str(N), str(K), str(TOKENS), folder], check=True)
        shape = [str(N), str(K)]
        ours = [arguments.program, *shape, f"{folder}/H.f32", f"{folder}/W.f32"]
        for _ in range(arguments.rounds):
            for threads in (1, 2):
                theirs = [sys.executable, "-c", TORCH, *shape, folder, str(threads)]
                contenders = {"torch": theirs, "plain": [*ours, "plain", "1"], "default": [*ours, "default", "1"]}
                for name, command in contenders.items():
                    raw["runs"].setdefault(f"{name} {threads}", []).append(run(command, threads, {} if name == "torch" else OURS))
                    print(name, raw["runs"][f"{name} {threads}"][-1], file=sys.stderr, flush=True)
    raw["machine"]["load_average_after"] = os.getloadavg()
    median = {name: {key: statistics.median(run[key] for run in runs) for key in ("wall", "processor", "loss")}
              for name, runs in raw["runs"].items()}
    torch = min(median["torch 1"]["wall"], median["torch 2"]["wall"])
    raw["median"] = median
    raw["ratio"] = {f"{name}, {threads} threads": torch / median[f"{name} {threads}"]["wall"]
                    for name in ("plain", "default") for threads in (1, 2)}
    raw["ratio"] |= {f"{name}, processor time of 1 thread": median["torch 1"]["processor"] / median[f"{name} 1"]["processor"]
                     for name in ("plain", "default")}
    output = arguments.output or ROOT / "tools/bench/results" / f"{datetime.date.today()}-gptq_solve.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(raw, indent=1) + "\n")
    for name, ratio in raw["ratio"].items():
        print(f"{name:36s} {ratio:5.2f} x the speed of PyTorch (better of 1 and 2 threads)"[:110])
    print(output)


if __name__ == "__main__":
    main()
