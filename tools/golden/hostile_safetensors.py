#!/usr/bin/env python3
"""Writes tests/golden/hostile: broken safetensors files, one per rule of the reader, with their list
(hostile.json, which the test reads) and README.md. Standard library only; the output is always the same.

usage: tools/golden/hostile_safetensors.py [folder]
"""

import json
import pathlib
import sys


def file_bytes(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else header.encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype='"F32"', shape="[2]", offsets="[0,8]", extra=""):
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{extra}}}'


def one(name="w", data=8, **fields):
    """A file with one tensor and `data` bytes."""
    return file_bytes(f'{{"{name}":{entry(**fields)}}}', bytes(data))


def two(a, b, data):
    return file_bytes(f'{{"a":{a},"b":{b}}}', bytes(data))


# (name, story, tensor named by the message or None, part of the message, bytes)
CASES = [
    # 1. the frame
    ("empty", "a download that never began", None, "0 bytes, too few", b""),
    ("seven_bytes", "shorter than the header's length", None, "7 bytes, too few", bytes(7)),
    ("header_beyond_end", "the file ends inside the header", None, "500 bytes declared, 2 bytes left",
     file_bytes("{}", length=500)),
    ("header_over_limit", "a header larger than the format allows", None, "at most 100000000",
     file_bytes("{}", length=100_000_001)),
    ("header_length_all_ones", "a length that overflows when 8 is added", None, "at most 100000000",
     file_bytes("{}", length=2**64 - 1)),
    ("header_of_nothing", "no header at all", None, "does not begin with '{'", file_bytes("")),
    ("git_lfs_pointer", "a clone without git-lfs", None, "git-lfs pointer",
     b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"),
    ("web_page", "a login page saved under the model's name", None, "is it a safetensors file?",
     b"<!DOCTYPE html><html><body>Please log in</body></html>"),
    # the JSON
    ("header_is_array", "valid JSON of another kind", None, "does not begin with '{'", file_bytes("[]")),
    ("leading_space", "space before the object", None, "does not begin with '{'", file_bytes(" {}")),
    ("byte_order_mark", "a UTF-8 byte order mark", None, "does not begin with '{'",
     file_bytes(b"\xef\xbb\xbf{}")),
    ("json_cut", "the object never ends", "w", "not valid JSON", file_bytes('{"w":{"dtype":"F32"')),
    ("json_twice", "a second object after the first", None, "not valid JSON", file_bytes("{}{}")),
    ("zero_byte", "a zero byte, which C-like parsers take for the end", None, "a zero byte",
     file_bytes(b"{}\0\0\0\0\0\0")),
    ("invalid_utf8", "a name in Latin-1", None, "not valid JSON", file_bytes(b'{"caf\xe9":1}')),
    ("lone_surrogate", "half of a surrogate pair", None, "not valid JSON", file_bytes('{"\\ud800":1}')),
    ("nesting_bomb", "100,000 open brackets", "w", "nested deeper", file_bytes('{"w":' + "[" * 100_000)),
    ("comment", "JSON with comments is not JSON", None, "not valid JSON", file_bytes("{}/**/")),
    # an entry
    ("entry_is_null", "no entry", "w", "not an object", file_bytes('{"w":null}')),
    ("no_dtype", "an entry without dtype", "w", "no dtype",
     file_bytes('{"w":{"shape":[2],"data_offsets":[0,8]}}', bytes(8))),
    ("no_shape", "an entry without shape", "w", "no shape",
     file_bytes('{"w":{"dtype":"F32","data_offsets":[0,8]}}', bytes(8))),
    ("no_offsets", "an entry without data_offsets", "w", "no data_offsets",
     file_bytes('{"w":{"dtype":"F32","shape":[2]}}', bytes(8))),
    ("unknown_key", "a key that a later version may give a meaning", "w", "unknown key 'stride'",
     one(extra=',"stride":[1]')),
    ("duplicate_key", "two dtypes for one tensor", "w", "'dtype' appears twice",
     one(extra=',"dtype":"F64"')),
    ("unknown_dtype", "a type nobody defined", "w", "unknown dtype 'F12'", one(dtype='"F12"')),
    ("lower_case_dtype", "names are upper case", "w", "unknown dtype 'f32'", one(dtype='"f32"')),
    ("dtype_is_number", "a dtype that is no string", "w", "dtype is not a string", one(dtype="32")),
    ("shape_is_number", "a shape that is no array", "w", "shape is not an array", one(shape="2")),
    ("dimension_negative", "two negatives make a plausible product", "w", "a dimension is -1",
     one(shape="[-1,-2]")),
    ("dimension_minus_zero", "minus zero is no size", "w", "a dimension is", one(shape="[-0]")),
    ("dimension_float", "2.0 is no integer", "w", "a dimension is 2.0", one(shape="[2.0]")),
    ("dimension_exponent", "2e0 is no integer either", "w", "a dimension is 2.0", one(shape="[2e0]")),
    ("dimension_nan", "NaN is not JSON", "w", "not valid JSON", one(shape="[NaN]")),
    ("dimension_string", "a number in quotes", "w", "a dimension is a string", one(shape='["2"]')),
    ("dimension_beyond_63_bits", "2^63 does not fit in int64", "w", "a dimension is 9223372036854775808",
     one(shape="[9223372036854775808]")),
    ("dimension_beyond_64_bits", "2^64 does not fit in uint64", "w", "a dimension is",
     one(shape="[18446744073709551616]")),
    ("product_overflows", "2^32 * 2^32 elements wrap around to 0", "w", "too large",
     one(shape="[4294967296,4294967296]", offsets="[0,0]", data=0)),
    ("bits_overflow", "2^60 elements fit, their bits do not", "w", "too large",
     one(shape="[1152921504606846976]", offsets="[0,0]", data=0)),
    ("overflow_before_zero", "a product that overflows before a 0 hides it", "w", "too large",
     one(shape="[4294967296,4294967296,0]", offsets="[0,0]", data=0)),
    ("half_a_byte", "three 4-bit elements", "w", "12 bits, not whole bytes",
     one(dtype='"F4"', shape="[3]", offsets="[0,2]", data=2)),
    ("six_bits", "two 6-bit elements", "w", "12 bits, not whole bytes",
     one(dtype='"F6_E2M3"', shape="[2]", offsets="[0,2]", data=2)),
    # offsets
    ("offsets_are_number", "data_offsets that are no array", "w", "not an array of two", one(offsets="8")),
    ("one_offset", "only a beginning", "w", "not an array of two", one(offsets="[0]")),
    ("three_offsets", "one too many", "w", "not an array of two", one(offsets="[0,4,8]")),
    ("offset_string", "an offset in quotes", "w", "a data offset is a string", one(offsets='[0,"8"]')),
    ("offset_negative", "bytes of the header as data", "w", "a data offset is -8", one(offsets="[-8,0]")),
    ("offset_float", "half a byte", "w", "a data offset is 0.5", one(offsets="[0.5,8]")),
    ("offset_beyond_63_bits", "an offset that wraps around", "w", "a data offset is",
     one(offsets="[0,18446744073709551608]")),
    ("offsets_backwards", "end before begin", "w", "run backwards", one(offsets="[8,0]")),
    ("too_few_bytes", "fewer bytes than the shape has", "w", "4 bytes in data_offsets, 8 in F32 [2]",
     one(offsets="[0,4]", data=4)),
    ("too_many_bytes", "more bytes than the shape has", "w", "12 bytes in data_offsets, 8 in F32 [2]",
     one(offsets="[0,12]", data=12)),
    ("scalar_without_bytes", "a scalar has one element", "w", "0 bytes in data_offsets, 4 in F32 []",
     one(shape="[]", offsets="[0,0]", data=0)),
    ("empty_tensor_with_bytes", "a tensor of no elements has no bytes", "w", "8 bytes in data_offsets",
     one(shape="[2,0]")),
    # the data
    ("hole_at_begin", "bytes before the first tensor", "w", "begins at byte 8 of the data, 0 expected",
     one(offsets="[8,16]", data=16)),
    ("hole_between", "bytes between two tensors", "b", "begins at byte 12 of the data, 8 expected",
     two(entry(), entry(offsets="[12,20]"), 20)),
    ("overlap", "two tensors share four bytes", "b", "two tensors overlap",
     two(entry(), entry(offsets="[4,12]"), 12)),
    ("alias", "two tensors are the same bytes", "b", "two tensors overlap", two(entry(), entry(), 8)),
    ("data_cut", "a download that stopped", "b", "ends at byte 16 of the data, which has 12",
     two(entry(), entry(offsets="[8,16]"), 12)),
    ("no_data", "only the header arrived", "w", "ends at byte 8 of the data, which has 0", one(data=0)),
    ("bytes_after_end", "something hides behind the last tensor", None, "1 bytes after the last tensor",
     one(data=9)),
    ("bytes_without_tensors", "data that nobody declares", None, "8 bytes after the last tensor",
     file_bytes("{}", bytes(8))),
    # duplicates
    ("duplicate_tensor", "the second of a name would win", None, "'w' appears twice",
     file_bytes(f'{{"w":{entry()},"w":{entry(offsets="[8,16]")}}}', bytes(16))),
    ("duplicate_tensor_same", "the same entry twice passes the reference reader", None, "'w' appears twice",
     file_bytes(f'{{"w":{entry()},"w":{entry()}}}', bytes(8))),
    ("duplicate_metadata", "two __metadata__", None, "'__metadata__' appears twice",
     file_bytes('{"__metadata__":{},"__metadata__":{}}')),
    ("duplicate_metadata_key", "two formats", "__metadata__", "'format' appears twice",
     file_bytes('{"__metadata__":{"format":"pt","format":"tf"}}')),
    # metadata
    ("metadata_is_string", "metadata that is no object", None, "__metadata__ is not an object",
     file_bytes('{"__metadata__":"pt"}')),
    ("metadata_of_numbers", "metadata holds strings only", None, "'step' is not a string",
     file_bytes('{"__metadata__":{"step":1}}')),
    # names
    ("terminal_codes_in_name", "a name that would colour the terminal and begin a new line", None,
     "tensor '?[31m?x'", file_bytes('{"\\u001b[31m\\nx":null}')),
]


def main():
    default = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "hostile"
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, story, tensor, says, content in CASES:
        (folder / f"{name}.safetensors").write_bytes(content)
        rows.append({"file": f"{name}.safetensors", "tensor": tensor, "says": says, "story": story})
    assert len({row["file"] for row in rows}) == len(rows)
    (folder / "hostile.json").write_text(json.dumps(rows, indent=1) + "\n")
    table = "".join(f"| `{row['file']}` | {row['story']} | {row['says']} |\n" for row in rows)
    (folder / "README.md").write_text(
        "# Hostile safetensors files\n\n"
        "Written by `tools/golden/hostile_safetensors.py`, which is the place to add one. Each breaks one rule\n"
        "and must end in an error that names the file, the tensor where there is one, and contains the third\n"
        "column.\n\n| file | what it is | what the error says |\n|---|---|---|\n" + table)


if __name__ == "__main__":
    main()
