"""A model folder that continues prompts: text to ids, pictures to tensors, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.data.pictures import PictureError, decode, encode_png
from components.data.tokenizer import Tokenizer
from components.data.transforms import as_float, square
from components.serving.items import MAX_PICTURE_PIXELS, Item, Options, Prompt, PromptError
from model import generation
from model.build import load_model
from model.choosing import Choosing
from model.mm_interleaved import MMInterleaved

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Generator:
    """A loaded model and its tokenizer."""

    model: MMInterleaved
    tokenizer: Tokenizer

    @classmethod
    def load(cls, folder: Path) -> Generator:
        """From a folder of model.safetensors, config.json and tokenizer.json; on the GPU where there is one.

        Raises CorpusError where model and tokenizer do not belong together.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer, model = Tokenizer.load(folder / TOKENIZER_FILE), load_model(folder)
        tokenizer.check_fits(model.config.vocab_size, f"the model in {folder}")
        return cls(model.to(device), tokenizer)

    def answer(self, prompts: Sequence[Prompt], options: Options) -> list[tuple[Item, ...]]:
        """What the model puts after each prompt: texts and PNG pictures. Equal prompts at equal places of equal seeds give equal answers.

        Raises PromptError for a picture that cannot be read, a prompt that is too long or an option out of range.
        """
        given = [generation.Prompt(str(number), self._encode(prompt)) for number, prompt in enumerate(prompts)]
        try:
            answers = generation.generate(self.model, given, _asked(options))
        except ValueError as error:
            raise PromptError(str(error)) from None
        return [tuple(item for piece in answer if (item := self._decode(piece))) for answer in answers]

    def _encode(self, prompt: Prompt) -> tuple[tuple[int, ...] | Tensor, ...]:
        return tuple(self._picture(item) if isinstance(item, bytes) else tuple(self.tokenizer.encode(item)) for item in prompt.items)

    def _picture(self, data: bytes) -> Tensor:
        try:
            picture = square(decode(data, MAX_PICTURE_PIXELS), self.model.config.shape.image_px)
        except PictureError as error:
            raise PromptError(f"a picture of the prompt cannot be used: {error}") from None
        return torch.from_numpy(as_float(picture[None])[0])

    def _decode(self, piece: generation.GeneratedText | generation.GeneratedImage) -> Item:
        if isinstance(piece, generation.GeneratedText):
            return self.tokenizer.decode(piece.ids)
        pixels = piece.pixels.permute(1, 2, 0).mul(255).round().clamp(0, 255)
        return encode_png(np.ascontiguousarray(pixels.byte().numpy()))


def _asked(options: Options) -> generation.GenerationOptions:
    values = asdict(options)
    choosing = Choosing(**{field.name: values.pop(field.name) for field in fields(Choosing)})
    return generation.GenerationOptions(choosing=choosing, **values)
