"""Run directories like those that finished, failed and unfinished jobs leave, made from hand-written records for the tests of reports."""

import json

import yaml

from specexp.figures.record import Record, Repeat, SideRecord
from specexp.figures.speed import summarise_speed

WORDS = ["def ", "f(x)", ":\n", "    return ", "x < 1", " & ", "y_0", "\n"]


def side(rounds, seconds, passed=True, origins=None, text=None):
    """A side of eight tokens, or of as many as the rounds emit and one more."""
    tokens = 1 + sum(accepted + 1 for _, accepted, *_ in rounds)
    words = [WORDS[i % len(WORDS)] for i in range(tokens)]
    ends = [sum(map(len, words[: i + 1])) for i in range(tokens)]
    made = ["target"] + [o for drafted, accepted, *_ in rounds for o in ["draft"] * accepted + (["resample"] if drafted else ["target"])]
    return SideRecord(
        repeats=(Repeat(tokens, 1, len(rounds), sum(counts[0] for counts in rounds), 0.01, seconds, seconds * 0.8, seconds * 0.15),),
        text=text or "".join(words), finish="length", token_ids=list(range(tokens)), rounds=rounds, origins=origins or made, ends=ends,
        score={"passed": passed}, nll_sum=0.5 * tokens, nll_count=tokens, target_forwards=1 + len(rounds),
        draft_forwards_by_model={"draft": 4 * len(rounds)}, kv_bytes_target=2**20, kv_bytes_draft=2**18,
    )  # fmt: skip


def records(gamma, examples=4, passed=lambda i: True, text=None):
    """Records of a method that keeps two of gamma drafted tokens and is a little faster on each further example."""
    method = lambda i: side([[gamma, 2], [gamma, 2]], 0.3 - 0.01 * i + 0.001 * gamma, passed(i), text=text)
    return [
        Record(f"p/{i}", 0, f"prompt <{i}>", ["baseline", "method"], {"baseline": side([[0, 0]] * 6, 0.6), "method": method(i)})
        for i in range(examples)
    ]


def config(gamma, method):
    return {
        "method": {"name": method, "gamma": gamma, "decoder": {"_target_": "x"}}, "model_pair": {"name": "tiny"}, "dataset": {"name": "microeval"},
        "sampling": {"_target_": "x", "temperature": 0.0}, "cache": {"_target_": "specexp.runners.runner.ModelRunner", "_partial_": True},
        "max_new_tokens": 8, "seed": 0, "dtype": "float32", "repeats": 1,
    }  # fmt: skip


def write_run(directory, gamma=4, method="speculative", made=None, overrides=None, settings=None, **summary):
    """Writes a finished run. settings: further keys of its configuration."""
    made = records(gamma) if made is None else made
    directory.mkdir(parents=True)
    (directory / "records.jsonl").write_text("".join(json.dumps(record.to_json()) + "\n" for record in made))
    names = {"model_pair": "tiny", "method": method, "dataset": "microeval", "weights": "real", "lossless": True, "cache_exact": True, "max_new_tokens": 8}
    scores = [record.method.score for record in made]
    quality = {"pass_at_1": sum(score["passed"] for score in scores) / len(scores)} if "passed" in scores[0] else {}
    figures = names | quality | summarise_speed(made) | summary
    (directory / "summary.json").write_text(json.dumps(figures))
    (directory / "config.yaml").write_text(yaml.safe_dump(config(gamma, method) | (settings or {})))
    write_overrides(directory, overrides or {"method.gamma": gamma})
    return directory


def write_overrides(directory, overrides):
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"{key}={value}" for key, value in overrides.items()]))
    (directory / "specexp.log").write_text("")


def write_failed(directory, error="out of memory.", **overrides):
    write_overrides(directory, overrides or {"method.gamma": 99, "method": "speculative"})
    (directory / "failure.json").write_text(json.dumps({"error": error, "trace": None}))
    return directory
