"""gptqmodel as a reader on the CPU: its own dequantized weights of a GPTQ or AWQ checkpoint.

Import it first: gptqmodel needs its settings before it starts (7.7 asks for two workers where two cores have one).
Its CPU kernels compute in F16: a weight is the product of code - zero and scale, rounded once.
"""

import os
import shutil
import tempfile

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# pylint: disable=wrong-import-position
import safetensors.torch
import tokenizers
import torch
import transformers
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm


def copy_with_tokenizer(source, folder):
    """gptqmodel refuses a model without a tokenizer: words that are numbers."""
    shutil.copytree(source, folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(i): i for i in range(288)}, unk_token="0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="0", eos_token="1", pad_token="1",
                                         unk_token="0").save_pretrained(folder)


def weights(folder, awq=False, dtype=torch.float16):
    """Module name -> weight [O, I] of `dtype` as gptqmodel multiplies with it, and the loaded model."""
    backend = BACKEND.AWQ_TORCH if awq else BACKEND.TORCH
    with tempfile.TemporaryDirectory() as temporary:
        copy_with_tokenizer(folder, temporary + "/model")
        model = GPTQModel.load(temporary + "/model", device="cpu", backend=backend, dtype=dtype).model.eval()
    found = {}
    for name, module in model.named_modules():
        if not hasattr(module, "qweight"):
            continue
        if awq:
            weight = dequantize_gemm(qweight=module.qweight, qzeros=module.qzeros, scales=module.scales,
                                     bits=module.bits, group_size=module.group_size)
        else:
            weight = module.dequantize_weight()
        assert weight.dtype == dtype
        found[name] = weight.detach().t().contiguous()
    return found, model


def tensors(folder):
    """Every tensor of the checkpoint by name, as stored."""
    return safetensors.torch.load_file(os.path.join(folder, "model.safetensors"))
