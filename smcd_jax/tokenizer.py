"""Tokeniser with the ids of OpenCLIP, and the tokeniser files of a model folder.

A text is cleaned (`clean`) and split into words by CLIP's pattern; byte-pair merges turn each word into ids (Radford et
al. 2021, "Learning transferable visual models from natural language supervision", section 2.4). The ids of a text are
`49406, words..., 49407, 0, 0, ...`: OpenCLIP pads with 0, not with the end marker.

The merges are applied by `tokenizers`, the library that transformers uses as well, from the same `tokenizer.json`.
Importing it takes 0.02 s; `from transformers import CLIPTokenizer` would add about 1 s to every start.
"""

from __future__ import annotations

import functools
import gzip
import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import regex
import tokenizers
from jaxtyping import Int, Int32
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from smcd_jax.errors import SMCDError

CONTEXT_LENGTH = 77
VOCAB_SIZE = 49408
START_ID = 49406
END_ID = 49407
PAD_ID = 0

_START = "<start_of_text>"
_END = "<end_of_text>"
_WORD_END = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PIECES = regex.compile(f"{_START}|{_END}|{_WORDS}", regex.IGNORECASE)


def clean(text: str) -> str:
    """Returns the text that CLIP reads: mojibake fixed, HTML entities resolved twice, spaces collapsed, lower case.

    Source: the cleaning `lower` of OpenCLIP.
    """
    import ftfy  # the import takes 0.05 s, and most commands do not clean text

    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


class Tokenizer:
    """Tokeniser of OpenCLIP with CLIP's vocabulary of 49408 ids.

    As in OpenCLIP, the markers `<start_of_text>` and `<end_of_text>` within a text become the ids 49406 and 49407. The
    text tower is causal, so its output at the first end marker, which `eot_index` returns, embeds only the text before
    it; the published code raises an error for such a label.
    """

    def __init__(self, engine: tokenizers.Tokenizer, *, path: Path | None = None):
        """Takes ownership of an engine and modifies it; `published` and `from_folder` create one.

        Args:
            engine: Engine with CLIP's vocabulary.
            path: File of the engine, for error messages.

        Raises:
            SMCDError: The engine has another vocabulary.
        """
        found = (engine.get_vocab_size(), engine.token_to_id(_START), engine.token_to_id(_END))
        if found != (VOCAB_SIZE, START_ID, END_ID):
            raise SMCDError(
                f"the tokeniser must have OpenCLIP's {VOCAB_SIZE} ids, {_START} at {START_ID} and {_END} at {END_ID}, "
                f"got {found[0]} ids, {found[1]} and {found[2]}; use the tokenizer folder that `smcd convert` writes",
                argument="engine",
                path=path,
                value=found,
            )
        # Words are split by `regex`, as in OpenCLIP. The splitter stored in the file is for other programs: it has
        # another version of Unicode, normalises again, and treats a marker attached to punctuation as a marker.
        engine.normalizer = None
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._engine = engine

    @classmethod
    def published(cls) -> Tokenizer:
        """Returns the tokeniser of CLIP and OpenCLIP, made from the merges shipped in this package."""
        return cls(_engine(_published_model()))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Returns the tokeniser in `tokenizer.json` of a model's `tokenizer/` folder, without network access.

        Raises:
            SMCDError: The file is missing, unreadable, or has another vocabulary.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise SMCDError(f"{path}: no such file; use the tokenizer folder that `smcd convert` writes", path=path)
        try:
            engine = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower type
            raise SMCDError(
                f"{path} is not a tokeniser file ({error}); convert or download the model again", path=path
            ) from error
        return cls(engine, path=path)

    def encode(self, texts: Sequence[str], *, length: int = CONTEXT_LENGTH) -> Int32[np.ndarray, "n l"]:
        """Returns the ids of each text, padded with 0 to `length`.

        A text that is too long is truncated, and its last id becomes the end marker; `count` returns the full length.

        Args:
            texts: Sequence of n texts.
            length: Ids per text, at least 2.

        Raises:
            SMCDError: `texts` is one string, an item is not a string, or `length` is below 2.
        """
        if isinstance(texts, str):
            raise SMCDError(
                f"texts must be a list of strings, got the string {texts[:40]!r}", argument="texts", value=texts
            )
        if length < 2:
            raise SMCDError(
                f"length must be at least 2, for the start and the end marker, got {length}",
                argument="length",
                value=length,
            )
        ids = np.full((len(texts), length), PAD_ID, np.int32)
        for row, text in zip(ids, texts, strict=True):
            tokens = self._tokens(text)
            row[: len(tokens)] = tokens[:length]
            if len(tokens) > length:
                row[-1] = END_ID
        return ids

    def count(self, text: str) -> int:
        """Returns the number of ids of the whole text with both markers; the model reads the first 77."""
        return len(self._tokens(text))

    def eot_index(self, ids: Int[np.ndarray, "n l"]) -> Int[np.ndarray, " n"]:
        """Returns the position of the first end marker of each text; the text tower's output there embeds the text.

        Raises:
            SMCDError: The ids of a text have no end marker; `value` is its index.
        """
        is_end = np.asarray(ids) == END_ID
        missing = np.flatnonzero(~is_end.any(axis=1))
        if missing.size:
            raise SMCDError(
                f"ids of text {missing[0]} have no end marker {END_ID}; use the ids that encode returns",
                argument="ids",
                value=int(missing[0]),
            )
        return is_end.argmax(axis=1)

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json`, `vocab.json`, `merges.txt` and `tokenizer_config.json`; the bytes are deterministic.

        `CLIPTokenizer.from_pretrained(folder)` of transformers reads them offline and returns the same ids for a
        cleaned text, except for the padding. Its padding token is the end marker: id 0 is the symbol "!", which as a
        padding token would be removed from every text.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(_engine(self._engine.model).to_str(), encoding="utf-8")
        self._engine.model.save(str(folder))  # vocab.json and merges.txt
        names = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
        config = {**names, "model_max_length": CONTEXT_LENGTH, "tokenizer_class": "CLIPTokenizer"}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _tokens(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise SMCDError(
                f"text must be a string, got {text!r:.40} of type {type(text).__name__}", argument="texts", value=text
            )
        pieces = _PIECES.findall(clean(text))
        words = self._engine.encode(pieces, is_pretokenized=True, add_special_tokens=False).ids
        return [START_ID, *words, END_ID]


@functools.cache
def _published_model() -> models.BPE:
    """Returns the shipped merges with ids in CLIP's order: 256 bytes, 256 bytes that end a word, merges, markers."""
    packed = resources.files("smcd_jax").joinpath("assets", "clip_bpe", "merges.txt.gz").read_bytes()
    merges = [tuple(line.split()) for line in gzip.decompress(packed).decode("utf-8").splitlines()]
    # Alphabet of GPT-2: a printable byte is its own character, the other bytes map to characters from code point 256
    # on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(code) for code in [*printable, *range(256, 512 - len(printable))]]
    symbols = [*alphabet, *(letter + _WORD_END for letter in alphabet), *map("".join, merges), _START, _END]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    return models.BPE(vocabulary, merges, unk_token=_END, continuing_subword_prefix="", end_of_word_suffix=_WORD_END)


def _engine(model: models.BPE) -> tokenizers.Tokenizer:
    """Returns the engine stored in `tokenizer.json`: `model` with the rules of the CLIPTokenizer of transformers."""
    engine = tokenizers.Tokenizer(model)
    engine.add_special_tokens([_START, _END])
    white_space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    engine.normalizer = normalizers.Sequence([normalizers.NFC(), white_space, normalizers.Lowercase()])
    words = pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="removed", invert=True)
    engine.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    engine.decoder = decoders.ByteLevel()
    end, start = (_END, END_ID), (_START, START_ID)
    engine.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    return engine
