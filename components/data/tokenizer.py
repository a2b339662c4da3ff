"""A byte-level BPE tokenizer fitted on the training texts, digits stand alone; or Llama's, which is given. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from components.data.documents import CorpusError
from components.data.keyed import generator

SPECIAL = ("<pad>", "<s>", "</s>")
_LLAMA = ("<unk>", "<s>", "</s>")
FITTED_TEXTS = 20_000
_PERMUTED = 10_000_000
"""Texts that are permuted to draw from them; from more the numbers are chosen one by one, which needs no memory for the rest."""
# A word with the sign after it, a single digit, a run of signs (each with the space before it) or white space.
_PIECES = r" ?\p{L}+[?.,]?| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


class Tokenizer:
    """Texts to ids and back. Two further ids follow the vocabulary: `boi` begins an image, `image` is a visual token's placeholder."""

    pad, bos, eos = range(3)

    def __init__(self, json_text: str, name: str = "tokenizer.json") -> None:
        """From the text of a tokenizer.json. Raises CorpusError where it is unusable."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json_text)
        except Exception as error:  # the library raises bare Exception for malformed files
            raise CorpusError(f"{name} is no tokenizer ({error}); run `dvc repro prepare`") from None
        found = tuple(self._tokenizer.id_to_token(index) for index in range(len(SPECIAL)))
        if found not in (SPECIAL, _LLAMA):
            raise CorpusError(f"{name}: ids 0, 1, 2 must be {', '.join(SPECIAL)}, or <unk> first as Llama has it, got {found}")
        self._lead = " " if found == SPECIAL else ""  # Llama's puts its sign of a space before each text by itself
        self.vocab_size = self._tokenizer.get_vocab_size()
        """Entries of the vocabulary, without `boi` and `image`."""
        self.boi = self.vocab_size
        """Id that begins an image."""
        self.image = self.vocab_size + 1
        """Id of the placeholder of one visual token."""
        self.sha256 = hashlib.sha256(json_text.encode()).hexdigest()

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read tokenizer.json. Raises CorpusError where it is missing or unusable."""
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{path} cannot be read ({error}); run `dvc repro prepare`") from None

    def check_fits(self, entries: int, model: str) -> None:
        """Raises CorpusError for a model whose vocabulary has another size: its ids would mean other words."""
        if entries != self.vocab_size:
            raise CorpusError(
                f"the tokenizer has {self.vocab_size} entries, {model} was made for {entries}; use the tokenizer.json that lies beside "
                "its weights, or prepare the data again and train from there"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of a text item. A space is put before it, so that a word is the same token anywhere in a document."""
        return self._tokenizer.encode(f"{self._lead}{text}", add_special_tokens=False).ids

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Number of ids of each text."""
        return [
            len(encoding)
            for encoding in self._tokenizer.encode_batch_fast([f"{self._lead}{text}" for text in texts], add_special_tokens=False)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, special and image ids left out; `decode(encode(text)) == text`."""
        return self._tokenizer.decode([index for index in ids if len(SPECIAL) <= index < self.vocab_size]).removeprefix(self._lead)


def drawn(total: int, count: int) -> np.ndarray:
    """Numbers below `total`, ascending, `count` at most. Drawn: every n-th would be answers only where question and answer take turns."""
    if total <= count:
        return np.arange(total)
    source = generator(0, "tokenizer")
    return np.sort(source.permutation(total)[:count] if total <= _PERMUTED else source.choice(total, count, replace=False, shuffle=False))


def fit(texts: Sequence[str], vocabulary_size: int) -> str:
    """The JSON of a tokenizer fitted on texts; ends with fewer entries when no pair is left to merge."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f" {text}" for text in texts), trainer)
    return tokenizer.to_str()
