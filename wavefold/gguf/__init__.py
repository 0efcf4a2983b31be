"""GGUF files of this architecture: their headers, and what their keys and names mean here. Numbers and texts alone.

    header.py      one file: keys and values, and the places of tensors, each checked against the file's size
    types.py       the types of tensors: numbers and bytes of a block
    parts.py       a model in one file or several
    table.py       the keys and names of the files, beside those of the official layout
    values.py      the keys of a config.json, from a file's keys or else from its tensors' shapes; those of sampling
    vocabulary.py  a tokenizer.json and tokenizer_config.json, from a file's vocabulary

Nothing of a file is executed. Source: the GGUF specification; llama.cpp's converter for this architecture and ds4's.
"""

from wavefold.gguf.header import Place, read_header
from wavefold.gguf.parts import Parts, is_gguf, open_parts
from wavefold.gguf.table import official_name
from wavefold.gguf.values import config_values, sampling_values
from wavefold.gguf.vocabulary import tokenizer_texts

__all__ = [
    "Parts", "Place", "config_values", "is_gguf", "official_name", "open_parts", "read_header",
    "sampling_values", "tokenizer_texts",
]  # fmt: skip
