"""Find better layouts: move a Transpose through all operators that let it pass, then keep of it what pays.

A *proposal* is what follows where one operator changes its layout and everybody who can follows. Which operators take
part is a minimum cut between those that do and those that do not, as in an α-expansion (Boykov, Veksler and Zabih,
"Fast approximate energy minimization via graph cuts", 2001).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from surgery_ir.passes.cleanup.layout_frame import Order
from surgery_ir.passes.cleanup.layout_network import Cost, Network, Operator, Source, Use
from surgery_ir.solvers.minimum_cut import CutProblem

__all__ = ["improve", "reader_order", "writer_order"]

Proposal = Mapping[Operator, Order]


def improve(network: Network) -> None:
    """Change states until no proposal lowers the Transposes or the bytes that they move without raising the other."""
    changed = True
    while changed:
        changed = False
        seen: set[tuple[Operator, Order]] = set()
        for source in network.sources:
            while (seed := next((seed for seed in _seeds(source) if seed not in seen), None)) is not None:
                proposal = _spread(network, *seed)
                seen.update(proposal.items())
                changed |= _take_part(network, proposal)


def _seeds(source: Source) -> Iterator[tuple[Operator, Order]]:
    """Yield changes of one operator after which one reader more agrees with the writer."""
    base = source.layout()
    for use in source.uses:
        wanted = use.wants()
        if wanted == base:
            continue
        if use.is_free and (order := reader_order(use, base)) is not None:
            assert use.operator is not None
            yield use.operator, order
        if source.is_free and (order := writer_order(source, wanted)) is not None:
            assert source.writer is not None
            yield source.writer, order


def reader_order(use: Use, layout: Order) -> Order | None:
    """State in which a free reader reads the tensor in ``layout``."""
    assert use.operator is not None
    assert use.operator.frame is not None
    return use.operator.frame.lift(("in", use.index), use.from_layout(layout))


def writer_order(source: Source, layout: Order) -> Order | None:
    """State in which a free writer writes the tensor in ``layout``."""
    assert source.writer is not None
    assert source.writer.frame is not None
    return source.writer.frame.lift(source.operand, layout)


def _spread(network: Network, operator: Operator, order: Order) -> Proposal:
    """Let everybody follow who can, from one operator on; those who agree already stay out of it."""
    proposal = {operator: order}
    reached: set[Source] = set()
    queue = [operator]
    while queue:
        here = queue.pop()
        for source, use in network.touching[here]:
            if source in reached or (use is None and not source.is_free) or (use is not None and not use.is_free):
                continue
            reached.add(source)
            layout = source.layout(proposal[here]) if use is None else use.wants(proposal[here])
            for other, wanted in _followers(source, layout):
                if other not in proposal and wanted != other.order:
                    proposal[other] = wanted
                    queue.append(other)
    return proposal


def _followers(source: Source, layout: Order) -> Iterator[tuple[Operator, Order]]:
    """Yield whoever can write or read a tensor in ``layout``, and the state that does."""
    if source.is_free and (order := writer_order(source, layout)) is not None:
        assert source.writer is not None
        yield source.writer, order
    for use in source.uses:
        if use.is_free and (order := reader_order(use, layout)) is not None:
            assert use.operator is not None
            yield use.operator, order


def _take_part(network: Network, proposal: Proposal) -> bool:
    """Take the parts of a proposal that pay."""
    problem = CutProblem()
    variables = {operator: problem.variable() for operator in proposal}
    for source in _around(network, proposal):
        _charge(problem, source, proposal, variables)
    labels = problem.solve()
    changing = {operator: proposal[operator] for operator, variable in variables.items() if labels[variable]}
    taken = [_take(network, part) for part in _parts(network, changing)]
    return any(taken)


def _around(network: Network, operators: Iterable[Operator]) -> dict[Source, None]:
    """Tensors that operators read or write."""
    return {source: None for operator in operators for source, _ in network.touching[operator]}


def _take(network: Network, part: Proposal) -> bool:
    """Take a part over if it costs less than what is."""
    around = _around(network, part)
    before = sum((source.cost() for source in around), Cost(0, 0, 0))
    old = {operator: operator.order for operator in part}
    for operator, order in part.items():
        operator.order = order
    if sum((source.cost() for source in around), Cost(0, 0, 0)).improves(before):
        return True
    for operator, order in old.items():
        operator.order = order
    return False


def _parts(network: Network, changing: Proposal) -> Iterator[Proposal]:
    """Split a proposal into parts that touch no tensor in common."""
    neighbours: dict[Source, list[Operator]] = {}
    for operator in changing:
        for source, _ in network.touching[operator]:
            neighbours.setdefault(source, []).append(operator)
    left = dict(changing)
    while left:
        first, order = left.popitem()
        part, queue = {first: order}, [first]
        while queue:
            for source, _ in network.touching[queue.pop()]:
                fresh = [other for other in dict.fromkeys(neighbours.pop(source, ())) if other in left]
                for other in fresh:
                    part[other] = left.pop(other)
                queue += fresh
        yield part


def _charge(problem: CutProblem, source: Source, proposal: Proposal, variables: Mapping[Operator, int]) -> None:
    """Write what a tensor costs as a function of who takes part.

    A layout other than the writer's costs one Transpose as soon as anybody reads it. Where the two disagree though
    both take part, the sum is an estimate; what is taken over is computed anew.
    """
    price = 2 * (source.bytes + 1)  # an adaptation costs 1
    before, after, writer = source.layout(), source.layout(), problem.zero
    if source.writer in variables:
        assert source.writer is not None
        after, writer = source.layout(proposal[source.writer]), variables[source.writer]
    staying: dict[Order, list[int]] = {}
    going: dict[Order, list[int]] = {}
    for use in source.uses:
        if use.absorber is not None:
            _charge_absorber(problem, use, (before, after), writer, price)
        elif use.operator in variables:
            assert use.operator is not None
            variable = variables[use.operator]
            staying.setdefault(use.wants(), []).append(variable)
            going.setdefault(use.wants(proposal[use.operator]), []).append(variable)
        else:
            staying.setdefault(use.wants(), []).append(problem.zero)
            going.setdefault(use.wants(), []).append(problem.one)
    for readers_by_layout, own, value in ((staying, after, 0), (going, before, 1)):
        for layout, readers in readers_by_layout.items():
            always = problem.zero in readers or problem.one in readers
            if layout not in (before, after):
                if not always:
                    _charge_any(problem, readers, problem.zero if value else problem.one, price, value=value)
            elif layout != own:
                _charge_any(problem, readers, writer, price, value=value)


def _charge_any(problem: CutProblem, readers: list[int], writer: int, price: int, *, value: int) -> None:
    """Charge once if any reader bears the label ``value`` and the writer the other one."""
    if len(readers) == 1:
        problem.charge(*((readers[0], writer) if value == 0 else (writer, readers[0])), price)
        return
    any_of = problem.variable()
    for reader in readers:
        if value == 0:
            problem.forbid(reader, any_of)
        else:
            problem.forbid(any_of, reader)
    problem.charge(*((any_of, writer) if value == 0 else (writer, any_of)), price)


def _charge_absorber(problem: CutProblem, use: Use, layouts: tuple[Order, Order], writer: int, price: int) -> None:
    """Charge for a reader that can adapt to the writer, in both of the writer's layouts."""
    assert use.absorber is not None
    wanted = use.wants()
    for layout, low, high in ((layouts[0], writer, problem.one), (layouts[1], problem.zero, writer)):
        if layout != wanted and layouts[0] != layouts[1]:
            problem.charge(low, high, 1 if use.absorber.admits(use.from_layout(layout)) else price)
