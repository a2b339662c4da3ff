"""Pictures that a record names by a file or by the address they were fetched from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field

from components.data.documents import DocumentError
from components.data.sources.downloads import Downloads
from components.data.sources.files import read_image
from components.data.sources.source import Limits
from components.params import Frozen


class ImageOptions(Frozen):
    """Where the pictures lie."""

    images: str = Field("images", description="folder of the pictures, below the corpus folder; empty: the corpus folder itself")
    image_names: Literal["stated", "sha256", "sha1", "md5", "img2dataset"] = Field(
        "stated",
        description="how a picture's file is called: as the record states, by a digest of its address in hexadecimal, or as img2dataset "
        "(output_format=files) saved it, found by the address in its parquet files",
    )
    image_suffix: str = Field("", description="what follows the digest, as `.jpg`")


class ImageStore:
    """The pictures of a corpus, read without leaving its folder of pictures."""

    def __init__(self, folder: Path, options: ImageOptions, limits: Limits) -> None:
        self._root = folder / options.images
        self._options, self._limits = options, limits
        self._downloads = Downloads(self._root) if options.image_names == "img2dataset" else None

    def fetch(self, address: str, stated: str) -> bytes | DocumentError:
        """The encoded file of a picture from `address`, or why there is none: MissingFileError where nothing is there.

        `stated` is the file's name as the record states it.
        """
        try:
            return read_image(self._root, self._name(address, stated), self._limits.image_pixels)
        except DocumentError as error:
            return error

    def _name(self, address: str, stated: str) -> str:
        if self._options.image_names == "stated":
            if not stated:
                raise DocumentError("no file name is stated for the picture")
            return stated
        if not address:
            raise DocumentError("no address is stated for the picture")
        if self._downloads is not None:
            return self._downloads.path(address)
        return hashlib.new(self._options.image_names, address.encode(), usedforsecurity=False).hexdigest() + self._options.image_suffix
