"""llama.cpp through its C interface, from the wheel of xllamacpp, which carries all of it in one library.

    pip install --no-deps xllamacpp

The wheel has no perplexity program in Python; the functions used here are llama.h's. Structures that it takes by value
are filled by llama.cpp's own *_default_params and passed on as they are, but for the first fields.
"""

import ctypes
import importlib.util
import pathlib

import numpy as np

PARAMETER_BYTES = 1024  # more than any of the structures has


class Parameters(ctypes.Structure):
    """What a *_default_params function returned; only its beginning is known here."""

    _fields_ = [("words", ctypes.c_uint32 * (PARAMETER_BYTES // 4))]


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
                ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


def library():
    folder = pathlib.Path(importlib.util.find_spec("xllamacpp").origin).parent
    lib = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))
    for name, result, arguments in [
        ("llama_model_default_params", Parameters, []),
        ("llama_context_default_params", Parameters, []),
        ("llama_model_load_from_file", ctypes.c_void_p, [ctypes.c_char_p, Parameters]),
        ("llama_init_from_model", ctypes.c_void_p, [ctypes.c_void_p, Parameters]),
        ("llama_model_get_vocab", ctypes.c_void_p, [ctypes.c_void_p]),
        ("llama_vocab_n_tokens", ctypes.c_int32, [ctypes.c_void_p]),
        ("llama_tokenize", ctypes.c_int32, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32,
                                            ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, ctypes.c_bool, ctypes.c_bool]),
        ("llama_batch_init", Batch, [ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]),
        ("llama_decode", ctypes.c_int32, [ctypes.c_void_p, Batch]),
        ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p]),
        ("llama_get_memory", ctypes.c_void_p, [ctypes.c_void_p]),
        ("llama_memory_clear", None, [ctypes.c_void_p, ctypes.c_bool]),
        ("llama_set_n_threads", None, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]),
        ("ggml_quantize_chunk", ctypes.c_size_t, [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                                                  ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]),
    ]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Model:
    """A GGUF file loaded by llama.cpp, with a context of `length` tokens."""

    def __init__(self, file, length):
        self.lib = library()
        # Its messages go to stderr; a callback that drops them.
        self.log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self.lib.llama_log_set(self.log, None)
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(str(file).encode(), self.lib.llama_model_default_params())
        assert self.model, f"llama.cpp does not load {file}"
        parameters = self.lib.llama_context_default_params()
        parameters.words[0] = parameters.words[1] = parameters.words[2] = length  # n_ctx, n_batch, n_ubatch
        self.context = self.lib.llama_init_from_model(self.model, parameters)
        assert self.context, f"llama.cpp makes no context for {file}"
        self.lib.llama_set_n_threads(self.context, 1, 1)  # its threads spin where others want the cores
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.batch = self.lib.llama_batch_init(length, 0, 1)

    def tokenize(self, text, add_special):
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 8))()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), add_special, True)
        assert count >= 0
        return np.array(ids[:count], np.int32)

    def logits(self, ids):
        """[tokens, vocabulary] of one window."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        self.batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = int(token), i, 1
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, 0
        assert self.lib.llama_decode(self.context, self.batch) == 0
        size = self.lib.llama_vocab_n_tokens(self.vocab)
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self.context), (len(ids), size)).astype(np.float64)

    def nll(self, windows):
        """Mean over the tokens 2.. of every window [count, length]."""
        total = 0.
        for window in windows:
            logits = self.logits(window)[:-1]
            logits -= logits.max(axis=1, keepdims=True)
            total += (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(window) - 1), window[1:]]).sum()
        return total / (len(windows) * (windows.shape[1] - 1))


def quantize(name_id, weights, importance=None):
    """ggml_quantize_chunk: weights [N, K] of F32 -> its bytes."""
    lib = library()
    weights = np.ascontiguousarray(weights, np.float32)
    out = np.zeros(weights.size * 8, np.uint8)
    pointer = None if importance is None else np.ascontiguousarray(importance, np.float32).ctypes.data
    count = lib.ggml_quantize_chunk(name_id, weights.ctypes.data, out.ctypes.data, 0, *weights.shape, pointer)
    return out[:count]
