"""Standardised walltime improvement: the speedup that given costs per pass would make, whatever the machine did.

SWI = tokens x cost(target) / sum over models of passes x cost (Cascade Speculative Drafting, arXiv:2312.11462, section 5; drafters without
a model are free). A pass costs the same however many tokens it scores, which flatters long drafts: see `efficiency` for what was measured.
"""

from collections.abc import Mapping, Sequence

from specexp.evaluation.quotient import quotient


def swi_figures(sides: Sequence[dict], tables: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """`swi_TABLE` for each table of costs per pass, in any unit, of "target" and the draft models by name.

    None where a model ran that the table lacks, or nothing ran.
    """
    passes = {"target": sum(side["target_forwards"] for side in sides)}
    for side in sides:
        for name, count in side["draft_forwards_by_model"].items():
            passes[name] = passes.get(name, 0) + count
    tokens = sum(len(side["token_ids"]) for side in sides)
    return {f"swi_{name}": _swi(tokens, passes, costs) for name, costs in tables.items()}


def _swi(tokens: int, passes: Mapping[str, int], costs: Mapping[str, float]) -> float | None:
    if any(count and name not in costs for name, count in passes.items()):
        return None
    return quotient(tokens * costs.get("target", 0.0), sum(count * costs[name] for name, count in passes.items() if count))
