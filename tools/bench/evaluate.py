"""Tokens per second of `nibble evaluate` and of transformers (torch, fp32, sdpa) on the same windows in the same run.

Each round times every contender once, one after another, so that a slow minute of the machine hits all; the median of
the rounds counts. transformers runs with 1 and with 2 threads, and the better counts. Both time their forward passes and
the cross-entropy, not loading and tokenizing. Then the same once more beside one other busy process. Beside them stands
the roof: what multiply-adds in registers reach on as many threads in the same rounds, and the share of it that the
products of the linear layers are.
Raw results: tools/bench/results/DATE-evaluate.json.
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
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUSY = "while True: pass"

# Runs in its own process so that a thread pool never changes its size: prints seconds and mean nll.
TRANSFORMERS = """
import sys, time, json
import numpy as np, torch, transformers
folder, ids, length, threads = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="sdpa").eval()
windows = torch.as_tensor(ids.astype(np.int64)).view(-1, length)
total, best = 0.0, None
with torch.inference_mode():
    model(windows[:1])
    start = time.perf_counter()
    for window in windows:
        logits = model(window[None]).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    seconds = time.perf_counter() - start
products = sum(m.weight.numel() for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D"))
print(json.dumps({"flop_per_token": 2 * products, "seconds": seconds, "nll": total / (len(windows) * (length - 1))}))
"""


def time_transformers(folder, ids, length, threads):
    command = [sys.executable, "-c", TRANSFORMERS, str(folder), str(ids), str(length), str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True,
                                     env={**os.environ, "OMP_NUM_THREADS": str(threads)}).stdout.splitlines()[-1])


def time_nibble(folder, ids, length, threads=None):
    command = [str(ROOT / "build" / "nibble"), "evaluate", str(folder), "-d", str(ids), "--seq-len", str(length), "--json",
               "--quiet", *(["--threads", str(threads)] if threads else [])]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(run.stdout)
    return {"seconds": result["seconds"], "nll": result["nll"]}


def roof(program, threads):
    run = subprocess.run([str(program), str(max(threads))], check=True, capture_output=True, text=True)
    return {"gflops": json.loads(run.stdout)}


def measure(folder, ids, length, repeat, threads, roof_program):
    """contender -> list of raw results, interleaved."""
    contenders = {"roof": lambda: roof(roof_program, threads), "nibble": lambda: time_nibble(folder, ids, length)}
    contenders["nibble, 1 thread"] = lambda: time_nibble(folder, ids, length, 1)
    for count in threads:
        contenders[f"transformers, {count} thread"] = lambda count=count: time_transformers(folder, ids, length, count)
    results = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, run in contenders.items():
            results[name].append(run())
    return results


def report(title, results, tokens):
    speed = {name: tokens / statistics.median(run["seconds"] for run in runs)
             for name, runs in results.items() if name != "roof"}
    flop = results["transformers, 1 thread"][0]["flop_per_token"]
    gflops = {count: statistics.median(run["gflops"][count] for run in results["roof"])
              for count in results["roof"][0]["gflops"]}

    def share(name):
        count = "1" if name.endswith("1 thread") else max(gflops)
        return speed[name] * flop / 1e9 / gflops[count]

    best = max(value for name, value in speed.items() if name.startswith("transformers"))
    print(title)
    for name, value in speed.items():
        print(f"  {name:24} {value:10.0f} tokens/s, {share(name):4.0%} of the roof   nll {results[name][0]['nll']:.7f}")
    print(f"  nibble is {speed['nibble'] / best:.2f} times transformers' best", flush=True)
    print(f"  multiply-adds in registers, GFLOP/s by threads: {gflops}", flush=True)
    return {"tokens_per_second": speed, "roof_gflops": gflops, "share_of_roof": {name: share(name) for name in speed},
            "times_transformers": speed["nibble"] / best, "raw": results}


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    return {"cpu": model, "cores": os.cpu_count(), "load_before": os.getloadavg()[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--windows", type=int, default=32)
    options = parser.parse_args()
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        bookworm = ROOT / "tests" / "data" / "bookworm-5m"
        tokenizer = transformers.AutoTokenizer.from_pretrained(bookworm)
        text = (ROOT / "tests" / "data" / "books.eval.sample.txt").read_text(encoding="utf-8")
        ids = np.array(tokenizer(text)["input_ids"], np.uint16)
        np.save(folder / "books.npy", ids[:len(ids) // 512 * 512])
        subprocess.run([ROOT / "tools" / "make-checkpoint", "gpt2-124m", folder / "gpt2", "--tokens", "4096"], check=True,
                       stdout=subprocess.DEVNULL)
        results = {
            "date": datetime.datetime.now().isoformat(timespec="seconds"), "machine": machine(),
            "torch": torch.__version__, "transformers": transformers.__version__,
            "nibble": subprocess.run([ROOT / "build" / "nibble", "--version"], check=True, capture_output=True,
                                     text=True).stdout.strip(),
            "revision": subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], check=False, capture_output=True,
                                       text=True).stdout.strip(),
        }
        roof_program = folder / "fma_roof"
        subprocess.run(["c++", "-O3", "-march=native", "-fopenmp", ROOT / "tools" / "bench" / "fma_roof.cc", "-o", roof_program],
                       check=True)
        cases = [("bookworm-5m", bookworm, folder / "books.npy", 512),
                 ("gpt2-124m (random)", folder / "gpt2", folder / "gpt2" / "ids.npy", 1024)]
        for name, model, file, length in cases:
            tokens = len(np.load(file))
            raw = measure(model, file, length, options.repeat, (1, 2), roof_program)
            results[name] = report(f"{name}, {tokens} tokens, windows of {length}", raw, tokens)
            busy = subprocess.Popen([sys.executable, "-c", BUSY])
            try:
                time.sleep(0.5)
                raw = measure(model, file, length, options.repeat, (1, 2), roof_program)
            finally:
                busy.kill()
                busy.wait()
            results[name + ", beside a busy process"] = report(f"{name}, beside one busy process", raw, tokens)
    path = ROOT / "tools" / "bench" / "results" / f"{results['date'][:10]}-evaluate.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
