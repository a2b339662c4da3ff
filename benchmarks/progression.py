"""Documents by levels beside all at once: the pretraining of four overlays on the built-in corpus, measured on the same held-out documents.
`python -m benchmarks.progression [--quick] [--json FILE]`; a study, no race: it has no goals.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.record import Row, options, publish
from components.architecture import architecture
from components.data.held_out import HeldOutRows
from components.data.index import Index
from components.data.places import ShardPlaces
from components.launch.local import launch_ranks
from components.launch.warm import start_warm
from components.params import Params, parse
from components.prepare import run as prepare
from components.run.parameters import merged
from components.run.paths import Paths
from components.training.held_out import ModelHeldOut
from components.training.job import Job, write_job
from components.training.journal import read_journal
from components.training.validation import Tally
from model.build import load_model

OVERLAYS = ("interleaved", "staged", "progressive_fixed", "progressive")
ROOT = Path(__file__).resolve().parents[1]
