"""The plans of all sources of a mixture, and the draw between them."""

from __future__ import annotations

from collections.abc import Mapping

from components.data.measure import Measure
from components.data.mixture import Mixture
from components.data.plan import Place, SourcePlan
from components.data.plan_sources import Sources, rules
from components.data.segments import Segment
from components.data.window_packer import WindowPacker
from components.data.windows import Joint
from components.params import TrainParams, Weight
from components.progression.levels import shares


class MixedPlan:
    """Row n of the training, whatever its source, while the level stays what it is."""

    def __init__(
        self,
        sources: Sources,
        measure: Measure,
        train: TrainParams,
        window_documents: int,
        seed: int,
        places: Mapping[str, Place],
        draw: int,
        level: int = 0,
    ) -> None:
        """`places`: the next row of each source, at a draw of the mixture."""
        self._places = dict(places)
        used = [source for source in sources.sources if source.usable]
        checked = {source.key: source.excluded > 0 for source in used}
        if train.rows_of == "source":
            self._mixture = Mixture(_weights(sources, train, level), seed, train.rows_per_step)
            self._plans = {
                source.key: SourcePlan(source.epochs, source.packer, self._place(source.key), checked[source.key]) for source in used
            }
        else:
            parts = {source.key: (source.documents, source.epochs) for source in used}
            joint = Joint(Mixture(train.mixture, seed), parts, window_documents, seed)
            packer = WindowPacker(measure, rules(train, min(train.max_images_per_row.values(), default=None)))
            self._mixture = Mixture({joint.name: 1.0}, seed)
            self._plans = {joint.name: SourcePlan(joint, packer, self._place(joint.name), any(checked.values()))}
        self._names = {source.key: source.name for source in used}
        self._base = dict.fromkeys(self._plans, 0) | self._mixture.before(draw)

    def row(self, draw: int) -> tuple[str, tuple[Segment, ...]]:
        """Name in the mixture and segments of a draw."""
        key, ordinal = self._mixture.draw(draw)
        plan = self._plans[key]
        return self._names.get(key, key), plan.row(plan.locate(ordinal - self._base[key]))

    def places(self, draw: int) -> dict[str, Place]:
        """The next row of every source before a draw; also of sources that are not drawn from now, for they may be again."""
        counts = self._base | self._mixture.before(draw)
        return self._places | {key: plan.locate(counts[key] - self._base[key]) for key, plan in self._plans.items()}

    def _place(self, key: str) -> Place:
        return self._places.get(key, Place())


def _weights(sources: Sources, train: TrainParams, level: int) -> dict[str, Weight]:
    """What is drawn: each name by its weight, and with levels each bucket by its share."""
    if train.progression.mode == "none":
        return {name: train.mixture[name] for name in sources.selections}
    tokens = {name: [source.tokens for source in sources.sources if source.name == name] for name in sources.selections}
    plain = {name: weight for name in sources.selections if isinstance(weight := train.mixture[name], float)}
    return {f"{name}/{bucket}": weight for (name, bucket), weight in shares(plain, tokens, level, train.progression.floor).items()}
