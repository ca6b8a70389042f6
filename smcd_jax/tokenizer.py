"""Text to token ids, exactly as OpenCLIP makes them, and the tokeniser files of a model folder.

A text is cleaned (`clean`), cut into words by CLIP's pattern, and each word is merged byte pair by byte pair into ids
(Radford et al. 2021, "Learning transferable visual models from natural language supervision", section 2.4). A row of
ids is `49406, words..., 49407, 0, 0, ...`: OpenCLIP pads with 0, not with the end marker.

The merging is done by `tokenizers`, the library behind transformers' own tokenisers, on the same `tokenizer.json`.
Importing it takes 0.02 s; `from transformers import CLIPTokenizer` takes about 1 s, which every start would pay.
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
    """Text as CLIP reads it: encodings mended, HTML entities resolved twice, white space collapsed, lower case.

    Source: OpenCLIP's cleaning of the kind `lower`.
    """
    import ftfy  # 0.05 s, and most of the package never cleans a text

    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


class Tokenizer:
    """OpenCLIP's tokeniser over CLIP's vocabulary of 49408 ids.

    A text may hold the markers `<start_of_text>` and `<end_of_text>` themselves: as in OpenCLIP they become the ids
    49406 and 49407. The text tower attends backwards only, so an embedding taken at the first end marker, where
    `eot_index` points, is that of the text before it; the reference raises for such a label.
    """

    def __init__(self, engine: tokenizers.Tokenizer):
        """Takes over an engine with CLIP's vocabulary; `published` and `from_folder` make one.

        Raises:
            SMCDError: if the engine's vocabulary is another one.
        """
        found = (engine.get_vocab_size(), engine.token_to_id(_START), engine.token_to_id(_END))
        if found != (VOCAB_SIZE, START_ID, END_ID):
            raise SMCDError(
                f"the tokeniser has {found[0]} ids, {_START} at {found[1]} and {_END} at {found[2]}; OpenCLIP's has "
                f"{VOCAB_SIZE}, {START_ID} and {END_ID}: use the tokenizer folder that `smcd convert` writes"
            )
        # Words are cut by `regex`, as in OpenCLIP. The cutting in the file, which serves its other readers, knows
        # another version of Unicode, normalises once more, and takes a marker glued to punctuation for a marker.
        engine.normalizer = None
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._engine = engine

    @classmethod
    def published(cls) -> Tokenizer:
        """The tokeniser of CLIP and OpenCLIP, from the merges shipped in this package."""
        return cls(_described(_published_model()))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Reads `tokenizer.json` of a model's `tokenizer/` folder; nothing is fetched.

        Raises:
            SMCDError: if the file is absent, unreadable, or holds another vocabulary.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise SMCDError(f"no tokenizer.json in {folder}: give the tokenizer folder that `smcd convert` wrote")
        try:
            engine = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise SMCDError(f"{path} is not a tokeniser file ({error}): convert or download the model again") from error
        return cls(engine)

    def encode(self, texts: Sequence[str], *, length: int = CONTEXT_LENGTH) -> Int32[np.ndarray, "n l"]:
        """Ids of each text, padded with 0 to `length`.

        A text that is too long loses its end, and its last id becomes the end marker; `count` tells beforehand.

        Args:
            texts: n texts.
            length: ids in a row, at least 2.

        Raises:
            SMCDError: if `texts` is one string or holds something else than strings, or if `length` is below 2.
        """
        if isinstance(texts, str):
            raise SMCDError(f"encode takes a list of texts, not the string {texts[:40]!r}: put it in a list")
        if length < 2:
            raise SMCDError(f"length {length} leaves no room for the start and the end marker: use 2 or more")
        ids = np.full((len(texts), length), PAD_ID, np.int32)
        for row, text in zip(ids, texts, strict=True):
            tokens = self._tokens(text)
            row[: len(tokens)] = tokens[:length]
            if len(tokens) > length:
                row[-1] = END_ID
        return ids

    def count(self, text: str) -> int:
        """Ids the text takes with both markers before anything is cut off; above 77 its end will not be read."""
        return len(self._tokens(text))

    def eot_index(self, ids: Int[np.ndarray, "n l"]) -> Int[np.ndarray, " n"]:
        """Position of the first end marker in each row, where the text tower's output is the embedding of a label.

        Raises:
            SMCDError: if a row has no end marker.
        """
        is_end = np.asarray(ids) == END_ID
        missing = np.flatnonzero(~is_end.any(axis=1))
        if missing.size:
            raise SMCDError(f"row {missing[0]} of the token ids has no end marker {END_ID}: make ids with encode")
        return is_end.argmax(axis=1)

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json`, `vocab.json`, `merges.txt` and `tokenizer_config.json`, the same bytes each time.

        transformers' `CLIPTokenizer.from_pretrained(folder)` reads them offline and gives a cleaned text the same ids
        up to the padding. For it the padding token is the end marker: id 0 is the symbol "!", and as a padding token
        it would be cut out of every text.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(_described(self._engine.model).to_str(), encoding="utf-8")
        self._engine.model.save(str(folder))  # vocab.json and merges.txt
        names = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
        config = {**names, "model_max_length": CONTEXT_LENGTH, "tokenizer_class": "CLIPTokenizer"}
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _tokens(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise SMCDError(f"cannot encode {text!r:.40} of type {type(text).__name__}: give a string")
        pieces = _PIECES.findall(clean(text))
        words = self._engine.encode(pieces, is_pretokenized=True, add_special_tokens=False).ids
        return [START_ID, *words, END_ID]


@functools.cache
def _published_model() -> models.BPE:
    """The shipped merges, and ids in CLIP's order: 256 bytes, 256 bytes that end a word, the merges, two markers."""
    packed = resources.files("smcd_jax").joinpath("assets", "clip_bpe", "merges.txt.gz").read_bytes()
    merges = [tuple(line.split()) for line in gzip.decompress(packed).decode("utf-8").splitlines()]
    # GPT-2's alphabet: a printable byte stands for itself, the others for the characters from 256 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(code) for code in [*printable, *range(256, 512 - len(printable))]]
    symbols = [*alphabet, *(letter + _WORD_END for letter in alphabet), *map("".join, merges), _START, _END]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    return models.BPE(vocabulary, merges, unk_token=_END, continuing_subword_prefix="", end_of_word_suffix=_WORD_END)


def _described(model: models.BPE) -> tokenizers.Tokenizer:
    """`model` with the cleaning, cutting and markers of transformers' CLIPTokenizer: what `tokenizer.json` holds."""
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
