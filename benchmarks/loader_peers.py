"""The same pictures through WebDataset and LitData, as their users load them: with torch's workers, batches made in the workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

Picture = tuple[str, bytes]
"""A document's id and its encoded picture."""
Decode = Callable[[bytes], torch.Tensor]


def need_peers() -> None:
    """Ends the program where a peer is missing; they are no dependencies of mmfs."""
    try:
        import litdata  # noqa: F401
        import webdataset  # noqa: F401
    except ImportError as error:
        sys.exit(f"{error.name} is missing: `pip install webdataset==1.0.2 litdata==0.2.76` to measure beside them")


def write_litdata(pictures: Sequence[Picture], folder: Path) -> None:
    """LitData's own form of them, 64 MB a chunk."""
    os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"
    from litdata import optimize

    optimize(
        partial(_litdata_sample, dict(pictures)),
        [name for name, _ in pictures],
        str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        start_method="fork",
        verbose=False,
    )


def webdataset(tars: Path, batch: int, workers: int, decode: Decode | None) -> Iterable[Any]:
    """Batches of [(id, bytes)], or of (ids, uint8 [n, px, px, 3]) where they are decoded; from the tars that we read too."""
    import webdataset as wds

    shards = sorted(str(path) for path in tars.glob("*.tar"))
    samples = wds.WebDataset(shards, shardshuffle=False).to_tuple("__key__", "0.jpg")
    if decode is not None:
        samples = samples.map_tuple(_same, decode)
    batches = samples.batched(batch, collation_fn=list if decode is None else stacked)
    return wds.WebLoader(batches, batch_size=None, num_workers=workers)


def litdata(chunks: Path, batch: int, workers: int, decode: Decode | None) -> Iterable[Any]:
    """As `webdataset`, from LitData's chunks."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(chunks), shuffle=False, transform=partial(_litdata_tuple, decode))
    return StreamingDataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=list if decode is None else stacked)


def stacked(samples: Sequence[tuple[str, torch.Tensor]]) -> tuple[list[str], torch.Tensor]:
    """A decoded batch, put together in shared memory as torch's own collation does in a worker."""
    names, pictures = zip(*samples, strict=True)
    whole: torch.Tensor = torch.utils.data.default_collate(list(pictures))
    return list(names), whole


def _litdata_sample(pictures: dict[str, bytes], name: str) -> dict[str, Any]:
    return {"name": name, "picture": pictures[name]}


def _litdata_tuple(decode: Decode | None, sample: dict[str, Any]) -> tuple[str, Any]:
    return sample["name"], sample["picture"] if decode is None else decode(sample["picture"])


def _same(name: str) -> str:
    return name
