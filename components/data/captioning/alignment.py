"""How well texts and pictures agree, by the folder of a CLIP or SigLIP: the fact `alignment` of a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoModel, AutoProcessor

from components.component_files import safetensors_files
from components.data.pictures import decode
from components.tracking.weights import describe_weights
from model.weights import WeightsError

_READ = {"local_files_only": True, "trust_remote_code": False}


class Alignment:
    """Cosines between embeddings of texts and of pictures, -1 to 1. Raises WeightsError for a folder without the two towers."""

    def __init__(self, folder: Path, max_pixels: int) -> None:
        safetensors_files(folder)
        try:
            self._processor = AutoProcessor.from_pretrained(folder, **_READ)
            self._model = AutoModel.from_pretrained(folder, use_safetensors=True, **_READ).eval()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            raise WeightsError(f"{folder} is no CLIP or SigLIP that transformers can read: {str(error).splitlines()[0]}") from None
        if not hasattr(self._model, "get_image_features") or not hasattr(self._processor, "tokenizer"):
            raise WeightsError(f"{folder} does not embed both texts and pictures; name the folder of a CLIP or SigLIP")
        self._max_pixels = max_pixels
        self.digest = describe_weights(folder).model_digest

    @torch.inference_mode()
    def scores(self, texts: Sequence[str], pictures: Sequence[bytes]) -> list[float]:
        """The cosine of each text with the encoded picture of the same place, to 4 decimals; long texts are cut."""
        if not texts:
            return []
        images = [Image.fromarray(decode(data, self._max_pixels)) for data in pictures]
        inputs = self._processor(text=list(texts), images=images, return_tensors="pt", padding=True, truncation=True)
        found = self._model(**inputs)
        cosines = torch.nn.functional.cosine_similarity(found.text_embeds, found.image_embeds)
        return [round(float(value), 4) for value in cosines]
