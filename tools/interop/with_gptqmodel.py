"""gptqmodel, on the CPU, reads what `nibble quantize` writes as gptq and awq, and nibble what it wrote.

    python tools/interop/with_gptqmodel.py [--keep] [CASE]      after tools/build; needs torch, transformers, gptqmodel, tokenizers

weights  the peer's own dequantized weights against `nibble export -f dense --dtype f16`, bit for bit (one rounding)
nll      over windows of ids: the peer's forward pass, in F16, the only type its CPU kernels have, against
         `nibble evaluate` of the same folder, 1e-3 relative

Files of the peer's: tests/data/peers/gptqmodel-*, made by tools/golden/peers_gptqmodel.py.
"""

import contextlib
import pathlib
import sys
import tempfile

# pylint: disable=wrong-import-order
from nibble_program import nibble

import gptqmodel_reference
import torch

import small_models
from score import READS, WRITES, Score
from with_compressed_tensors import CALIBRATION, MODEL, PEERS, Case

LIMIT = 1e-3
# name, model, options of quantize (none: a peer's file is exported again)
OURS = [
    *[(f"bookworm-5m W{bits} g128 {kind}", MODEL, ["-f", "gptq", "-b", bits, "-g", 128, f"--{kind}"])
      for bits in (2, 3, 4, 8) for kind in ("symmetric", "asymmetric")],
    ("bookworm-5m W4 g32 symmetric", MODEL, ["-f", "gptq", "-b", 4, "-g", 32, "--symmetric"]),
    ("bookworm-5m W3 g64 asymmetric", MODEL, ["-f", "gptq", "-b", 3, "-g", 64]),
    ("bookworm-5m W4 channel symmetric", MODEL, ["-f", "gptq", "-b", 4, "-g", -1, "--symmetric"]),
    ("bookworm-5m W4 g128 gptq", MODEL, ["-m", "gptq", "-f", "gptq", "-b", 4, "-g", 128, "--symmetric", *CALIBRATION]),
    ("int4-g32-actorder exported again", PEERS / "gptqmodel-int4-g32-actorder", None),
    ("qwen2 W4 g32", "qwen2", ["-f", "gptq", "-b", 4, "-g", 32, "--symmetric"]),
    ("gpt2 W4 g32", "gpt2", ["-f", "gptq", "-b", 4, "-g", 32, "--symmetric"]),
    ("bookworm-5m awq W4 g128", MODEL, ["-f", "awq", "-b", 4, "-g", 128]),
    ("bookworm-5m awq W4 g32", MODEL, ["-f", "awq", "-b", 4, "-g", 32]),
    ("bookworm-5m awq W4 g128, scales of awq", MODEL, ["-m", "awq", "-f", "awq", "-b", 4, "-g", 128, *CALIBRATION]),
]


def read_by_peer(folder, awq):
    with contextlib.redirect_stdout(sys.stderr):
        return gptqmodel_reference.weights(folder, awq=awq)


def check(score, direction, name, case):
    awq = "awq" in name
    weights, peer = read_by_peer(case.quantized, awq)
    dense = gptqmodel_reference.tensors(case.dense("f16"))
    same = [module for module, weight in weights.items()
            if any(torch.equal(weight, w) for w in (dense[module + ".weight"], dense[module + ".weight"].t()) if w.shape == weight.shape)]
    score.check(f"{name}: weights", weights and len(same) == len(weights),
                f"{len(same)} of {len(weights)} layers equal bit for bit")
    with contextlib.redirect_stdout(sys.stderr):
        theirs = case.nll(peer)
    score.cell("awq" if awq else "gptq", direction, name, (case.ours(), theirs), LIMIT)


def quantize(model, options, folder):
    if options is None:
        nibble("export", model, "-f", "gptq", "-o", folder / "quantized")
        return Case(None, folder, folder / "quantized")
    source = small_models.make(model, folder / "source") if isinstance(model, str) else model
    nibble("quantize", source, "-o", folder / "quantized", *options)
    return Case(model, folder, folder / "quantized")


def main():
    torch.set_num_threads(1)
    score = Score("gptqmodel", "gptqmodel", "transformers", "torch")
    cases = [(READS, name, lambda folder, m=model, o=options: quantize(m, o, folder)) for name, model, options in OURS]
    cases += [(WRITES, peer.name.removeprefix("gptqmodel-"), lambda folder, p=peer: Case(None, folder, p))
              for peer in sorted(PEERS.glob("gptqmodel-*"))]
    for direction, name, make in cases:
        if not score.wants(f"{direction} {name}"):
            continue
        with score.case(f"{direction} {name}"), tempfile.TemporaryDirectory() as folder:
            check(score, direction, name, make(pathlib.Path(folder)))
    score.exit()


if __name__ == "__main__":
    main()
