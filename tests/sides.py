"""Sides of records made by hand."""

from dataclasses import fields, replace

from specexp.figures.record import Record, Repeat, SideRecord

OWN = {each.name for each in fields(SideRecord)}


def side(tokens=11, rounds=None, ttft=0.1, decode=1.0, ids=None, repeats=None, first_tokens=1, target_seconds=None, draft_seconds=None, **others):
    """An autoregressive side unless the arguments say otherwise: one round, one emission per token after the first."""
    rounds = [[0, 0]] * (tokens - 1) if rounds is None else rounds
    usual = {
        "text": "", "finish": "length", "token_ids": list(range(tokens)) if ids is None else ids, "rounds": rounds,
        "origins": ["target"] * tokens, "nll_sum": 2.0 * tokens, "nll_count": tokens, "target_forwards": 1 + len(rounds),
        "kv_bytes_target": 100, "kv_bytes_draft": 0,
    }  # fmt: skip
    made = SideRecord(repeats=repeats or (Repeat(tokens, first_tokens, 0, 0, ttft, decode, target_seconds, draft_seconds),), **usual | others)
    return made if repeats else altered(made)


def altered(made, **values):
    """The side with other values of its own or of its repeats, whose counts follow its rounds."""
    made = replace(made, **{key: value for key, value in values.items() if key in OWN})
    timed = made.timed_rounds
    counts = {"tokens": made.tokens, "rounds": len(timed), "drafted": sum(each[0] for each in timed)}
    times = {key: value for key, value in values.items() if key not in OWN}
    return replace(made, repeats=tuple(replace(repeat, **counts | times) for repeat in made.repeats))


def record(name, method, baseline=None, **others):
    """others: further baselines."""
    sides = {"method": method} | ({} if baseline is None else {"baseline": baseline}) | others
    return Record(name, 0, "p", ["baseline", "method"], sides)


def changed(made, *names, **values):
    """The record with other values of the sides so called."""
    return replace(made, sides={name: altered(own, **values) if name in names else own for name, own in made.sides.items()})


def alone(made):
    """The record without its baselines."""
    return replace(made, sides={"method": made.method})
