"""A user's own prompts, to compare speed: nothing is scored."""

from specexp.assets import asset_path
from specexp.datasets.example import Example, Score, check_settings, subset
from specexp.datasets.files import read_jsonl, read_lines
from specexp.errors import UserError


class Prompts:
    """path: jsonl with `id` and `prompt`, or (any other ending) a text with one prompt a line."""

    def __init__(self, path: str | None = None, limit: int | None = None, subset_seed: int | None = None, max_new_tokens: int = 128,
                 stop_strings: tuple[str, ...] = (), name: str = "prompts"):
        if path is None:
            raise UserError("dataset=prompts needs a file: add dataset.path=FILE (jsonl with id and prompt, or one prompt a line).")
        self.stop_strings = check_settings(limit, subset_seed, max_new_tokens, stop_strings)
        self.limit, self.subset_seed, self.max_new_tokens = limit, subset_seed, max_new_tokens
        self.path, self.name = path, name

    def examples(self) -> list[Example]:
        path = asset_path(self.path)
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            found = [Example(row["id"], row["prompt"]) for row in read_jsonl(path, ("id", "prompt"))]
        else:
            found = [Example(f"{self.name}/{number}", line) for number, line in read_lines(path)]
        return subset(found, self.limit, self.subset_seed)

    def score(self, example: Example, text: str) -> Score:
        return {}

    def metrics(self, scores: list[list[Score]]) -> dict[str, float]:
        return {}

    def sample_line(self, example: Example, text: str) -> None:
        return None
