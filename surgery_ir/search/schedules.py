"""Other passes in the place of those that they cover, and passes that take turns in several rounds.

``repeat(2){prune-weights{…},reconnect}`` in a pipeline is, in a search, a genome in which both run in their last two
rounds, the first of them part of the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from surgery_ir.search.pool import METRIC

if TYPE_CHECKING:
    from surgery_ir.search.space import Genome, Slot, Space

__all__ = ["schedules", "substitutions"]


def substitutions(space: Space, genome: Genome) -> Iterator[Genome]:
    """Yield genomes in which a pass runs instead of those that it covers, and the other way round."""
    for key, covered in space.substitutes.items():
        concerned = [slot for slot in space.slots if slot.entry.key in (key, *covered)]
        running = {slot.round for slot in space.active(genome) if slot in concerned} or {1}
        for chosen in ((key,), covered):
            on = {slot.name: slot.entry.key in chosen and slot.round in running for slot in concerned}
            changed = space.switched(genome, on)
            if space.structure(changed) != space.structure(genome):
                yield changed


def schedules(space: Space, genome: Genome) -> Iterator[Genome]:
    """Yield what a genome runs in two rounds, in three, and so on, each a step stronger than the one before.

    What neither cuts nor serves the metric, such as the way of storing weights, is left to the last round.
    """
    active = space.active(genome)
    order = list(dict.fromkeys(slot.entry.key for slot in reversed(active)))[::-1]
    again = {slot.entry.key for slot in active if slot.entry.strength or slot.entry.template.serves <= {METRIC}}
    slots = {(slot.entry.key, slot.round): slot for slot in space.slots}
    for count in range(2, space.rounds + 1):
        early = [slots[key, number] for number in range(count, 1, -1) for key in order if key in again]
        running = [*early, *(slots[key, 1] for key in order)]
        if not early or {slot.name for slot in running} == {slot.name for slot in active}:
            continue
        changed = space.switched(genome, {slot.name: slot in running for slot in space.slots})
        for place, slot in enumerate(running):
            changed[space.index[f"{slot.name}/order"]] = (place + 0.5) / len(running)
        for slot in early:
            _set_early(space, changed, slot, (count + 1 - slot.round) / count)
        yield changed


def _set_early(space: Space, genome: Genome, slot: Slot, share: float) -> None:
    """Let a round before the last one go a share of the way, where its pass has a strength."""
    strength = slot.entry.strength
    for item in slot.options:
        if strength is not None and item.option.name == strength.name:
            goal = float(genome[space.index[f"{slot.entry.key}/strength"]])
            genome[space.index[item.gene.name]] = item.encode(strength.value(share * goal))
