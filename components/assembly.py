"""The child that puts a model together from public components, for a supervisor that imports no torch.

`python -m components.assembly` reads on standard input, as JSON, the folder of vision/, language/ and diffusion/, the folder to write, the
model that they are to be and the seed of what begins from nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from components.public_components import PublicFolders, assemble
from components.run.failures import FailureClass
from components.run.process import die_with_parent
from model.config import CONFIG_VERSION, ConfigError, config_from_dict
from model.weights import WeightsError


def main(text: str) -> int:
    """The exit status: that of a failure class, with one line about it on standard error."""
    asked = json.loads(text)
    folder = Path(asked["folder"])
    config = config_from_dict({"version": CONFIG_VERSION, **asked["config"]})
    try:
        assemble(
            PublicFolders(folder / "vision", folder / "language", folder / "diffusion"),
            Path(asked["target"]),
            visual_tokens=config.visual_resampler.queries,
            condition_heads=config.image_decoder.resampler.heads,
            seed=asked["seed"],
            progress=lambda told, done, total: None,
            wanted=config,
        )
    except ConfigError as error:
        return _told(error, FailureClass.BAD_CONFIG)
    except (WeightsError, OSError) as error:
        return _told(error, FailureClass.BAD_DATA)
    return 0


def _told(error: Exception, failure: FailureClass) -> int:
    sys.stderr.write(str(error).replace("\n", "; ") + "\n")
    return failure.exit_code


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(sys.stdin.read()))
