"""A captioner from what a user names: a folder of this machine, or the endpoint of the environment."""

from __future__ import annotations

from pathlib import Path

from components.curation_params import EndpointParams, LocalModelParams
from components.data.captioning.request import Captioner
from components.run.failures import FailureClass, StageError
from components.settings import Settings


def open_captioner(
    folder: Path | None, settings: Settings, local: LocalModelParams, endpoint: EndpointParams, max_pixels: int
) -> Captioner:
    """The model of `folder`, or without one MMFS_VLM_ENDPOINT. Raises StageError where neither is named, WeightsError for the folder."""
    if folder is not None:
        from components.data.captioning.local import LocalCaptioner

        return LocalCaptioner(folder, local, max_pixels)
    if settings.vlm_endpoint is None:
        raise StageError(FailureClass.BAD_CONFIG, "MMFS_VLM_ENDPOINT is not set", "set it to an OpenAI-compatible address, or name --model")
    from components.data.captioning.endpoint import EndpointCaptioner

    return EndpointCaptioner(settings.vlm_endpoint.get_secret_value(), settings.vlm_key, endpoint)
