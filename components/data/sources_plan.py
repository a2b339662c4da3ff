"""The plans of all sources of a mixture, and the draw between them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from components.data.documents import CorpusError
from components.data.index import Index
from components.data.measure import Measure
from components.data.mixture import Mixture
from components.data.plan import Place, SourcePlan
from components.data.segments import Segment
from components.data.selection import Selection
from components.data.window_packer import Rules, WindowPacker
from components.data.windows import Epochs, Joint
from components.params import TrainParams, is_drawn

_AT_ONCE = 1 << 20


class MixedPlan:
    """Row n of the training, whatever its source. `excluded` counts, by name, the documents that fit in no row and cannot be cut."""

    def __init__(
        self, index: Index, measure: Measure, train: TrainParams, window_documents: int, seed: int, places: Mapping[str, Place], draw: int
    ) -> None:
        """`places`: the next row of each source, at a draw of the mixture.

        Raises CorpusError for a name that means no training document, that shares some with another, or of which no document fits.
        """
        names = [name for name, weight in train.mixture.items() if is_drawn(weight)]
        selections = {name: _select(index, name) for name in names}
        _check_apart(selections)
        self.excluded: dict[str, int] = {}
        self._places = dict(places)
        epochs = {name: Epochs(name, selection, window_documents, seed) for name, selection in selections.items()}
        limits = train.max_images_per_row
        packers = {name: WindowPacker(measure, _rules(train, limits.get(name))) for name in names}
        for name, selection in selections.items():
            self.excluded[name] = _excluded(index, measure, packers[name], selection, train.row_tokens)
            if self.excluded[name] == len(selection):
                raise CorpusError(
                    f"mixture.{name}: none of its {len(selection)} documents fits in a row of {train.row_tokens} tokens or can be cut; "
                    f"enlarge row_tokens or set mixture.{name}=0"
                )
        checked = {name: count > 0 for name, count in self.excluded.items()}
        if train.rows_of == "source":
            self._mixture = Mixture({name: train.mixture[name] for name in names}, seed, train.rows_per_step)
            self._plans = {name: SourcePlan(epochs[name], packers[name], self._place(name), checked[name]) for name in names}
        else:
            joint = Joint(Mixture(train.mixture, seed), {name: (selections[name], epochs[name]) for name in names}, window_documents, seed)
            packer = WindowPacker(measure, _rules(train, min(limits.values(), default=None)))
            self._mixture = Mixture({joint.name: 1.0}, seed)
            self._plans = {joint.name: SourcePlan(joint, packer, self._place(joint.name), any(checked.values()))}
        self._base = self._mixture.before(draw)

    def row(self, draw: int) -> tuple[str, tuple[Segment, ...]]:
        """Source and segments of a draw."""
        name, ordinal = self._mixture.draw(draw)
        plan = self._plans[name]
        return name, plan.row(plan.locate(ordinal - self._base[name]))

    def places(self, draw: int) -> dict[str, Place]:
        """The next row of every source before a draw; also of sources that are not drawn from now, for they may be again."""
        counts = self._mixture.before(draw)
        return self._places | {name: plan.locate(counts[name] - self._base[name]) for name, plan in self._plans.items()}

    def _place(self, name: str) -> Place:
        return self._places.get(name, Place())


def _rules(train: TrainParams, max_images: int | None) -> Rules:
    return Rules(train.row_tokens, train.packing, max_images, train.few_shot)


def _select(index: Index, name: str) -> Selection:
    selection = index.select("train", name)
    if not len(selection):
        known = ", ".join(index.names("train")) or "none"
        raise CorpusError(f"mixture.{name}: the corpus has no training documents of that name; there are {known}")
    return selection


def _check_apart(selections: Mapping[str, Selection]) -> None:
    owners: dict[int, str] = {}
    for name, selection in selections.items():
        for group in selection.groups:
            other = owners.setdefault(group.start, name)
            if other != name and group.documents:
                raise CorpusError(
                    f"mixture.{other} and mixture.{name} both name {group.source}/{group.kind}; a document belongs to one of them"
                )


def _excluded(index: Index, measure: Measure, packer: WindowPacker, selection: Selection, row_tokens: int) -> int:
    """Documents of a selection that fit in no row and cannot be cut. Only looked for where there can be any."""
    if not index.without_items and row_tokens >= measure.image_tokens + 2:
        return 0
    places = range(0, len(selection), _AT_ONCE)
    return sum(int(packer.unplaceable(selection[np.arange(start, min(start + _AT_ONCE, len(selection)))]).sum()) for start in places)
