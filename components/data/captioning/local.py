"""A captioner from a folder on this machine, as transformers saves it: BLIP, BLIP-2, encoder-decoders and conversational models.

Weights come from safetensors alone and code from transformers alone; nothing is unpickled, fetched or executed from the folder.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from components.component_files import safetensors_files
from components.curation_params import LocalModelParams
from components.data.captioning.request import Reply, Request
from components.data.pictures import PictureError, decode
from components.run.failures import FailureClass, StageError
from components.tracking.weights import describe_weights
from model.weights import WeightsError

_READ = {"local_files_only": True, "trust_remote_code": False}
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)
CONVERSATION_PROMPT = "Describe the picture in one sentence."


class LocalCaptioner:
    """Answers greedily or by beams, so that the same pictures give the same texts.

    Made from a folder of one model; raises WeightsError where it holds none that can be used.
    """

    def __init__(self, folder: Path, params: LocalModelParams, max_pixels: int, device: str | None = None) -> None:
        files = safetensors_files(folder)
        if (folder / "adapter_config.json").exists():
            raise WeightsError(f"{folder} holds an adapter, not a model; merge it into its base model and save that")
        self._params, self._max_pixels = params, max_pixels
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            config = AutoConfig.from_pretrained(folder, **_READ)
            self._parts = _Parts.read(folder, config.model_type)
            model = AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, dtype=getattr(torch, params.precision), **_READ
            )
        except _UNUSABLE as error:
            told = str(error).strip().splitlines() or [type(error).__name__]
            raise WeightsError(f"{folder} ({files[0].name}, ...) is no image-to-text model that transformers can read: {told[0]}") from None
        self._model = model.eval().to(self._device)
        self.name = f"{config.model_type}:{folder.name}"
        self.converses = self._parts.converses
        self.usual_prompt = CONVERSATION_PROMPT if self.converses else ""
        weights = describe_weights(folder).model_digest
        self.weights_digest = weights
        """sha256 over the folder's files."""
        self.digest = hashlib.sha256(json.dumps([weights, params.model_dump(mode="json")], sort_keys=True).encode()).hexdigest()

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request; a picture that cannot be decoded or a request that the model does not take is a problem of its own."""
        replies: list[Reply] = []
        for batch in self._batches(requests):
            began = time.perf_counter()
            try:
                pictures = [[self._picture(data) for data in one.pictures] for one in batch]
            except PictureError as error:
                # Told one by one, so that a bad picture costs its neighbours nothing.
                replies += (
                    [Reply(None, f"picture: {error}")] if len(batch) == 1 else [reply for one in batch for reply in self.answer([one])]
                )
                continue
            if refused := self._refused(batch[0]):
                replies += [Reply(None, refused)] * len(batch)
                continue
            try:
                texts = self._generate([one.prompt for one in batch], pictures)
            except torch.OutOfMemoryError:
                raise StageError(FailureClass.OUT_OF_MEMORY, f"{self.name} ran out of memory", "lower local.batch") from None
            except (IndexError, ValueError, RuntimeError) as error:  # such as more tokens than it has positions for
                replies += [Reply(None, f"{self.name} failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")] * len(batch)
                continue
            seconds = (time.perf_counter() - began) / len(batch)
            replies += [Reply(text, seconds=seconds) for text in texts]
        return replies

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """Requests that can be answered together: of one prompt and one number of pictures, which are padded to nothing."""
        for _, group in groupby(requests, key=lambda one: (one.prompt, len(one.pictures))):
            alike = list(group)
            yield from (alike[start : start + self._params.batch] for start in range(0, len(alike), self._params.batch))

    def _refused(self, request: Request) -> str:
        if not self.converses and len(request.pictures) != 1:
            return f"{self.name} takes one picture at a time"
        return f"{self.name} takes no prompt" if request.prompt and not self._parts.takes_text else ""

    def _picture(self, data: bytes) -> Image.Image:
        return Image.fromarray(decode(data, self._max_pixels))

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> list[str]:
        inputs = self._parts.inputs(prompts, pictures).to(self._device, dtype=self._model.dtype)
        tokens = self._model.generate(**inputs, max_new_tokens=self._params.max_new_tokens, num_beams=self._params.beams, do_sample=False)
        given = inputs.get("input_ids")
        # Decoder-only models give the prompt back before their answer.
        if given is not None and tokens.shape[1] >= given.shape[1] and torch.equal(tokens[:, : given.shape[1]], given):
            tokens = tokens[:, given.shape[1] :]
        texts = [text.strip() for text in self._parts.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        return [
            text[len(prompt) :] if prompt and text.lower().startswith(prompt.lower()) else text
            for text, prompt in zip(texts, prompts, strict=True)
        ]


class _Parts:
    """What stands before the model: pictures and words to tensors."""

    def __init__(self, processor: Any, tokenizer: Any, takes_text: bool) -> None:
        self._processor = processor
        self.tokenizer, self.takes_text = tokenizer, takes_text
        self.converses = takes_text and bool(getattr(processor, "chat_template", None))
        if takes_text:
            tokenizer.padding_side = "left"

    @classmethod
    def read(cls, folder: Path, model_type: str) -> _Parts:
        if model_type == "vision-encoder-decoder":
            return cls(AutoImageProcessor.from_pretrained(folder, **_READ), AutoTokenizer.from_pretrained(folder, **_READ), False)
        processor = AutoProcessor.from_pretrained(folder, **_READ)
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise ValueError("its processor does not take pictures and words")
        return cls(processor, processor.tokenizer, True)

    def inputs(self, prompts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        if self.converses:
            turns = [
                [{"role": "user", "content": [*({"type": "image", "image": one} for one in own), {"type": "text", "text": prompt}]}]
                for prompt, own in zip(prompts, pictures, strict=True)
            ]
            return self._processor.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
            )
        images = [own[0] for own in pictures]
        if not self.takes_text or not (any(prompts) or self._needs_text):
            return self._processor(images=images, return_tensors="pt")
        return self._processor(images=images, text=list(prompts), padding=True, return_tensors="pt")

    @property
    def _needs_text(self) -> bool:
        """BLIP-2 finds the places of its pictures in the text, also in an empty one."""
        return bool(getattr(self._processor, "num_query_tokens", None))
