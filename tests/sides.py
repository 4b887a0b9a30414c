"""Sides of records made by hand."""



def side(tokens=11, rounds=None, ttft=0.1, decode=1.0, ids=None, **others):
    """An autoregressive side unless the arguments say otherwise: one round, one emission per token after the first."""
    rounds = [[0, 0]] * (tokens - 1) if rounds is None else rounds
    return {
        "token_ids": list(range(tokens)) if ids is None else ids, "text": "", "score": {}, "finish": "length",
        "ttft_seconds": ttft, "decode_seconds": decode, "first_tokens": 1, "rounds": rounds, "origins": ["target"] * tokens,
        "nll_sum": 2.0 * tokens, "nll_count": tokens, "target_forwards": 1 + len(rounds), "draft_forwards": 0,
        "target_seconds": None, "draft_seconds": None, "kv_bytes_target": 100, "kv_bytes_draft": 0, "peak_memory_bytes": None, **others,
    }


def record(name, method, baseline=None, **others):
    return {"id": name, "sample": 0, "prompt": "p", "order": ["baseline", "method"], "method": method,
            **({} if baseline is None else {"baseline": baseline}), **others}
