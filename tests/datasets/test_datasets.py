"""Data sets: examples and subsets, scores and metrics, and one sentence for each fault in a file."""

import codecs
import gzip
import inspect
import json
import os
import re
import socket
from pathlib import Path

import pytest

import specexp.datasets.files
from specexp.assets import asset_path
from specexp.datasets import Example, subset
from specexp.datasets.answers import Gsm8k, Mmlu, Summarisation, number_in
from specexp.datasets.files import TextFile, texts
from specexp.datasets.humaneval import HumanEval
from specexp.datasets.prompts import Prompts, PublicPrompts
from specexp.errors import UserError
from specexp.scoring.sandbox import Sandbox

CONF = Path(__file__).parents[2] / "conf" / "dataset"
PROBLEM = {"task_id": "T/0", "prompt": "def one():\n", "entry_point": "one", "test": "def check(c):\n    assert c() == 1\n"}
ARTICLES = [{"id": "a", "document": "A storm hit {Stafford}.", "summary": "A storm hit Stafford."},
            {"id": "b", "document": "Rain.", "summary": "It rained."}]


def jsonl(path: Path, rows: list) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


# ---------------------------------------------------------------- configuration
@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("[!_]*.yaml")))
def test_keys_are_constructor_parameters(name):
    from hydra import compose, initialize_config_dir
    from hydra.utils import get_class
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        node = OmegaConf.to_container(compose(overrides=[f"+dataset={name}"]).dataset)
    cls = get_class(node.pop("_target_"))
    assert set(node) == set(inspect.signature(cls).parameters) and node["name"] == name
    if "sandbox" in node:
        assert set(node["sandbox"]) - {"_target_"} == set(inspect.signature(Sandbox).parameters)
    defaults = {key: parameter.default for key, parameter in inspect.signature(cls).parameters.items() if key != "sandbox"}
    if name in ("humaneval", "xsum", "prompts"):  # the class's own configuration says what the class says
        said = {key: tuple(value) if isinstance(value, list) else value for key, value in node.items() if key != "sandbox"}
        assert said.pop("prompt_format") == "${oc.select:model_pair.prompt_format,raw}" and defaults.pop("prompt_format") == "raw"
        assert said == defaults


@pytest.mark.parametrize("name", ["microeval", "microsum", "humaneval"])
def test_shipped_data_sets_instantiate(name):
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        dataset = instantiate(compose(overrides=[f"+dataset={name}", "dataset.limit=3", "+sandbox=auto"]).dataset)
    examples = dataset.examples()
    assert len(examples) == 3 and all(example.prompt for example in examples)
    assert isinstance(dataset.stop_strings, tuple) and "\n" in dataset.stop_strings[0]


def test_asset_paths():
    assert asset_path("asset:microeval.jsonl") == Path(__file__).parents[2] / "specexp" / "assets" / "microeval.jsonl"
    assert asset_path("some/file.jsonl") == Path("some/file.jsonl")
    assert asset_path("~/file.jsonl") == Path.home() / "file.jsonl"


# ---------------------------------------------------------------- subsets
NUMBERED = [Example(str(number), "") for number in range(50)]


def test_limit_takes_the_first_or_a_seeded_choice():
    assert subset(NUMBERED, 3, None) == NUMBERED[:3]
    assert subset(NUMBERED, None, 7) == subset(NUMBERED, 99, 7) == NUMBERED
    chosen = subset(NUMBERED, 10, 7)
    assert chosen == subset(NUMBERED, 10, 7) != subset(NUMBERED, 10, 8)
    assert chosen != NUMBERED[:10] and len(set(chosen)) == 10 and chosen == sorted(chosen, key=NUMBERED.index)


def test_ids_are_unique():
    with pytest.raises(UserError, match="two examples with the id '3'"):
        subset([*NUMBERED, NUMBERED[3]], None, None)


@pytest.mark.parametrize("settings, key", [
    ({"limit": 0}, "dataset.limit=0"), ({"limit": -1}, "dataset.limit=-1"), ({"limit": "ten"}, "dataset.limit=ten"),
    ({"limit": True}, "dataset.limit=True"), ({"limit": 1.5}, "dataset.limit=1.5"), ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ({"max_new_tokens": None}, "max_new_tokens=None"), ({"subset_seed": "x"}, "dataset.subset_seed=x"),
    ({"stop_strings": [""]}, "dataset.stop_strings"), ({"stop_strings": "\n"}, "dataset.stop_strings"),
])
@pytest.mark.parametrize("cls", [HumanEval, Summarisation, Prompts])
def test_settings_that_mean_nothing_are_refused(cls, settings, key):
    with pytest.raises(UserError, match=key):
        cls(path="prompts.txt", **settings)


# ---------------------------------------------------------------- files
@pytest.mark.parametrize("line, complaint", [
    ('{"task_id": "T/1"', r"problems.jsonl line 3 is not JSON"),
    ('[1]', r"problems.jsonl line 3 is not an object: write one with task_id, prompt, entry_point, test"),
    (json.dumps({**PROBLEM, "task_id": "T/1", "prompt": None}), r"problems.jsonl line 3 has 'prompt' = null"),
    (json.dumps({key: value for key, value in PROBLEM.items() if key != "entry_point"}), r"problems.jsonl line 3 lacks 'entry_point'"),
    (json.dumps(PROBLEM), "two examples with the id 'T/0'"),
])
def test_malformed_lines_are_named(tmp_path, line, complaint):
    with pytest.raises(UserError, match=complaint):
        HumanEval(path=jsonl(tmp_path / "problems.jsonl", [PROBLEM, "", line])).examples()


@pytest.mark.parametrize("name, content, complaint", [
    ("absent.jsonl", None, "does not exist"), ("empty.jsonl", b"\n\n", "is empty"), ("latin.jsonl", b"\xe9", "cannot be read"),
    ("broken.jsonl.gz", b"no gzip", "cannot be read"), ("cut.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:20], "cannot be read"),
])
@pytest.mark.parametrize("cls", [HumanEval, Summarisation, Prompts])
def test_unreadable_files_are_named(tmp_path, cls, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} {complaint}.*dataset.path="):
        cls(path=str(tmp_path / name)).examples()


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Prompts(path=str(tmp_path)).examples()


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "txt", "txt.gz", "csv", "md"])
def test_a_byte_order_mark_belongs_to_no_text(tmp_path, ending):
    lines = ['{"id": "1", "prompt": "hello there"}', '{"id": "2", "prompt": "é"}'] if "jsonl" in ending else ["hello there", "é"]
    content = codecs.BOM_UTF8 + "\r\n".join(lines).encode()
    (tmp_path / f"mine.{ending}").write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    assert [example.prompt for example in Prompts(path=str(tmp_path / f"mine.{ending}")).examples()] == ["hello there", "é"]
    assert next(texts([tmp_path / f"mine.{ending}"], "prompt")).startswith("hello") if ending in ("jsonl", "txt", "md") else True


@pytest.mark.parametrize(("encoding", "told"), [
    ("utf-16", "(it is UTF-16, not UTF-8): save it as UTF-8 (iconv -f UTF-16 -t UTF-8 FILE > NEW_FILE), or give dataset.path="),
    ("utf-16-le", "(it is UTF-16, not UTF-8)"), ("utf-32", "(it is UTF-32, not UTF-8)"),
    ("latin-1", "(line 2 has the byte 0xe9, which is not UTF-8): save it as UTF-8 (iconv -f LATIN1 -t UTF-8"),
])
@pytest.mark.parametrize("ending", ["jsonl", "txt"])
def test_another_encoding_is_told(tmp_path, encoding, told, ending):
    (tmp_path / f"mine.{ending}").write_text('{"id": "1", "prompt": "x"}\n{"id": "2", "prompt": "é"}\n', encoding=encoding)
    with pytest.raises(UserError, match=re.escape(f"mine.{ending} cannot be read {told}")):
        Prompts(path=str(tmp_path / f"mine.{ending}")).examples()


HALF = "an emoji cut in half \ud83d"


@pytest.mark.parametrize(("dataset", "row", "where"), [
    (lambda path: Prompts(path=path), {"id": "a", "prompt": HALF}, r"line 1, 'prompt' has half a character \('\\ud83d' at place 21\)"),
    (lambda path: Prompts(path=path), {"id": HALF, "prompt": "x"}, "line 1, 'id' has half"),
    (lambda path: HumanEval(path=path), {**PROBLEM, "test": HALF}, "line 1, 'test' has half"),
    (lambda path: Summarisation(path=path), {"document": HALF, "summary": "x"}, "line 1, 'document' has half"),
    (lambda path: Summarisation(path=path), {"document": "x", "summary": "\ude00"}, "line 1, 'summary' has half"),
    (lambda path: Summarisation(path=path), {"id": HALF, "document": "x", "summary": "x"}, "row 1, 'id' has half"),
    (lambda path: Gsm8k("g", "{question}", "", path=path), {"question": HALF, "answer": "#### 1"}, "row 1, 'question' has half"),
    (lambda path: Mmlu("m", "{question}{choices}", "", path=path), {"question": "x", "choices": [HALF], "answer": 0}, "row 1, choices has half"),
    (lambda path: PublicPrompts("p", "text", "", path=path), {"text": HALF}, "row 1, 'text' has half"),
    (lambda path: TextFile(path, "text"), {"text": HALF}, "line 1, 'text' has half"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_half_a_character_is_told_with_its_place(tmp_path, dataset, row, where):
    chosen = dataset(jsonl(tmp_path / "mine.jsonl", [row]))
    with pytest.raises(UserError, match=f"mine.jsonl {where}"):
        chosen.read() if isinstance(chosen, TextFile) else chosen.examples()


def test_what_a_data_set_does_not_read_may_be_anything(tmp_path):
    rows = [{"id": "a", "prompt": "two halves \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "note": HALF}]
    assert Prompts(path=jsonl(tmp_path / "mine.jsonl", rows)).examples() == [Example("a", "two halves 😀")]


def test_stop_strings_are_whole():
    with pytest.raises(UserError, match="dataset.stop_strings has half a character"):
        Prompts(path="x", stop_strings=["END", HALF])


def test_ids_may_be_numbers(tmp_path):
    rows = [{"id": 7, "prompt": "x"}, {"id": 7.5, "prompt": "y"}, {"id": "8", "prompt": "z"}, {"id": 10**400, "prompt": "large"}]
    assert [example.id for example in Prompts(path=jsonl(tmp_path / "mine.jsonl", rows)).examples()] == ["7", "7.5", "8", str(10**400)]
    assert HumanEval(path=jsonl(tmp_path / "mine.jsonl", [{**PROBLEM, "task_id": 11}])).examples()[0].id == "11"
    assert Summarisation(path=jsonl(tmp_path / "mine.jsonl", [{"id": 3, "document": "x", "summary": "y"}])).examples()[0].id == "3"
    for wrong in ([{"id": 7, "prompt": "x"}, {"id": "7", "prompt": "y"}], [{"id": True, "prompt": "x"}], [{"id": None, "prompt": "x"}],
                  [{"id": float("nan"), "prompt": "x"}], [{"id": [1], "prompt": "x"}]):
        with pytest.raises(UserError, match="two examples with the id '7'|has 'id' = .*, which is not a text: put it in quotes"):
            Prompts(path=jsonl(tmp_path / "mine.jsonl", wrong)).examples()
    for wrong in (None, True, [1]):
        with pytest.raises(UserError, match="has 'id' = .*, which is not a text"):
            Summarisation(path=jsonl(tmp_path / "mine.jsonl", [{"id": wrong, "document": "x", "summary": "y"}])).examples()


def test_a_number_of_thousands_of_digits_is_told(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"id": %s, "prompt": "x"}' % ("9" * 5000))
    with pytest.raises(UserError, match="line 1 is not JSON"):
        Prompts(path=str(tmp_path / "mine.jsonl")).examples()


# ---------------------------------------------------------------- HumanEval
class CountingSandbox(Sandbox):
    runs = 0

    def run(self, program, test):
        self.runs += 1
        return super().run(program, test)


@pytest.fixture
def problems(tmp_path):
    path = jsonl(tmp_path / "problems.jsonl", [PROBLEM, {**PROBLEM, "task_id": "T/1"}])
    return HumanEval(path=path, sandbox=CountingSandbox(timeout_seconds=20.0))


def test_humaneval_is_the_packaged_164():
    examples = HumanEval().examples()
    assert len(examples) == 164 and examples[0].id == "HumanEval/0" and examples[0].entry_point == "has_close_elements"
    assert "check(" in examples[0].test


def test_scores_are_sanitised_and_raw(problems):
    example = problems.examples()[0]
    right, rambling, wrong = "    return 1\n", "    return 1\n\ndef helper(:\n", "    return 2\n"
    assert problems.score(example, right) == {"passed": True, "passed_raw": True, "reason": "passed"}
    assert problems.score(example, rambling) == {"passed": True, "passed_raw": False, "reason": "passed"}
    score = problems.score(example, wrong)
    assert score == {"passed": False, "passed_raw": False, "reason": score["reason"]} and "AssertionError" in score["reason"]
    assert problems.sample_line(example, rambling) == {"task_id": "T/0", "completion": "    return 1\n"}


def test_a_test_that_is_never_called_does_not_pass(problems):
    assert not problems.score(problems.examples()[0], "    raise ValueError\n\ndef check(c): pass\n")["passed_raw"]


def test_the_same_program_is_run_once(problems):
    first, second = problems.examples()
    for _ in range(3):
        problems.score(first, "    return 1\n")
    assert problems.sandbox.runs == 1
    problems.score(second, "    return 1\n")
    assert problems.sandbox.runs == 2


def test_humaneval_metrics(problems):
    def sample(clean, raw=False):
        return {"passed": clean, "passed_raw": raw, "reason": ""}

    one = problems.metrics([[sample(True, True)], [sample(True)], [sample(False)], [sample(False)]])
    assert one == {"pass_at_1": 0.5, "pass_at_1_raw": 0.25}
    ten = problems.metrics([[sample(i == 0) for i in range(10)], [sample(False)] * 12])
    assert ten == pytest.approx({"pass_at_1": 0.05, "pass_at_1_raw": 0.0, "pass_at_10": 0.5})
    assert problems.metrics([]) == {}


# ---------------------------------------------------------------- summaries
def test_articles_from_jsonl_and_parquet_are_the_same(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ARTICLES), tmp_path / "articles.parquet")
    from_parquet = Summarisation(path=str(tmp_path / "articles.parquet")).examples()
    from_jsonl = Summarisation(path=jsonl(tmp_path / "articles.jsonl", ARTICLES)).examples()
    assert from_parquet == from_jsonl and [article.id for article in from_jsonl] == ["a", "b"]
    assert from_jsonl[0].prompt == "Generate a short Summary for this article: A storm hit {Stafford}."


def test_malformed_parquet_is_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "text.parquet").write_text("no parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"document": "d"}]), tmp_path / "lacking.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"document": [], "summary": []}), tmp_path / "hollow.parquet")
    complaints = {"text": "not readable parquet", "hollow": "is empty", "lacking": "row 1 lacks 'summary'", "absent": "does not exist"}
    for name, complaint in complaints.items():
        with pytest.raises(UserError, match=f"{name}.parquet.*{complaint}"):
            Summarisation(path=str(tmp_path / f"{name}.parquet")).examples()


def test_articles_without_ids_are_numbered_and_templates_apply(tmp_path):
    path = jsonl(tmp_path / "articles.jsonl", [{"document": "d", "summary": "s"}] * 2)
    assert [(article.id, article.prompt) for article in Summarisation(path=path, template="{document} TL;DR", name="mine").examples()] == [
        ("mine/0", "d TL;DR"), ("mine/1", "d TL;DR")]
    with pytest.raises(UserError, match="no place for the article"):
        Summarisation(path=path, template="Summarise!")


def test_summaries_are_scored_by_rouge(tmp_path):
    dataset = Summarisation(path=jsonl(tmp_path / "articles.jsonl", ARTICLES))
    storm, rain = dataset.examples()
    scores = [[dataset.score(storm, " A storm hit Stafford!\n")], [dataset.score(rain, "Sun"), dataset.score(rain, "it")]]
    assert scores[0] == [{"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}] and scores[1][1]["rouge1"] == pytest.approx(2 / 3)
    assert json.loads(json.dumps(scores)) == scores
    assert dataset.metrics(scores) == pytest.approx({"rouge1": (1 + 2 / 3) / 3, "rouge2": 1 / 3, "rougeL": (1 + 2 / 3) / 3})
    assert dataset.metrics([]) == {} and dataset.sample_line(storm, "x") is None


@pytest.fixture
def unreachable_hub(monkeypatch):
    import datasets
    import huggingface_hub

    for name in list(os.environ):
        if name.lower() in ("https_proxy", "all_proxy"):
            monkeypatch.delenv(name)
    for module in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")


def test_an_unreachable_hub_is_a_sentence_with_both_ways_out(unreachable_hub):
    """And nobody else is cut off from it."""
    with pytest.raises(UserError, match=r"EdinburghNLP/xsum.*connect to the network, or give dataset.path="):
        Summarisation().examples()
    import huggingface_hub

    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_the_probe_tells_an_open_port_from_a_closed_one(unreachable_hub):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert specexp.datasets.files._answers("127.0.0.1", port)
    specexp.datasets.files._answers.cache_clear()
    assert not specexp.datasets.files._answers("127.0.0.1", port)


# ---------------------------------------------------------------- prompts
def test_prompts_from_text_and_jsonl(tmp_path):
    (tmp_path / "mine.txt").write_text("First one\n\n  Second é\n", encoding="utf-8")
    dataset = Prompts(path=str(tmp_path / "mine.txt"))
    assert dataset.examples() == [Example("prompts/1", "First one"), Example("prompts/3", "  Second é")]
    rows = [{"id": "x", "prompt": "two\nlines"}]
    assert Prompts(path=jsonl(tmp_path / "mine.jsonl", rows)).examples() == [Example("x", "two\nlines")]
    assert dataset.score(dataset.examples()[0], "text") == {} and dataset.metrics([[{}]]) == {} and dataset.stop_strings == ()


def test_prompts_need_a_file():
    with pytest.raises(UserError, match=r"add dataset\.path=FILE"):
        Prompts()


def test_gsm8k_reads_the_last_number():
    dataset = Gsm8k("gsm8k", "Q: {question}", "nobody/nothing", path="asset:microsums.jsonl", limit=2)
    first, _ = dataset.examples()
    assert first.prompt.startswith("Q: Ann has 3 apples") and first.answer == "7"
    for text, right in (("3 + 5 = 8, 8 - 1 = 7.", True), ("7 then 8", False), ("It is $7.00", True), ("none", False), ("1,007", False)):
        assert dataset.score(first, text)["correct"] is right
    assert dataset.metrics([[dataset.score(first, "7")], [dataset.score(first, "8")]]) == {"accuracy": 0.5}
    assert number_in("1,234.50 and -2,000") == "-2000" and number_in("1,234.50") == "1234.5" and number_in("100") == "100"


def test_mmlu_reads_the_first_letter_on_its_own():
    dataset = Mmlu("mmlu", "{question}\n{choices}\nAnswer:", "nobody/nothing", path="asset:microchoice.jsonl", limit=1)
    [first] = dataset.examples()
    assert first.prompt == "Which of these is a colour?\nA. green\nB. stone\nC. bread\nD. seven\nAnswer:" and first.answer == "A"
    for text, right in ((" A", True), ("(A) green", True), ("The answer is B, not A.", False), ("Apples", False)):
        assert dataset.score(first, text)["correct"] is right


def test_public_prompts_are_cut_and_named(tmp_path):
    rows = [{"question_id": 81, "turns": ["one two three four", "x"]}, {"question_id": 82, "turns": ["short"]}]
    dataset = PublicPrompts("specbench", "turns.0", "nobody/nothing", path=jsonl(tmp_path / "q.jsonl", rows), id_key="question_id", min_words=2, max_words=3)
    assert dataset.examples() == [Example("specbench/81", "one two three")]


def test_of_a_large_data_set_only_the_given_files_are_fetched_and_read(tmp_path, monkeypatch):
    """C4's training set is 300 GB, and belongs to the same configuration as the one file that is wanted."""
    import datasets

    def fetched(hub_id, repo_type, revision, allow_patterns):
        assert (hub_id, repo_type, revision, allow_patterns) == ("allenai/c4", "dataset", "main", WANTED)
        return str(tmp_path / "c4")

    WANTED = "en/c4-validation.00000-of-00008.json.gz"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    for name, word in {WANTED: "wanted", "en/c4-validation.00001-of-00008.json.gz": "other"}.items():
        (path := tmp_path / "c4" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps({"text": f"{word} page"}).encode()))
    c4 = PublicPrompts("c4", "text", "allenai/c4", split="train", files=WANTED)
    assert [example.prompt for example in c4.examples()] == ["wanted page"]


@pytest.mark.parametrize("files", [None, "data/python/*"])
def test_a_hub_out_of_reach_is_one_sentence_for_files_too(unreachable_hub, files):
    with pytest.raises(UserError, match=r"nobody/nothing \(test\) is neither in the local cache nor to be had"):
        PublicPrompts("x", "text", "nobody/nothing", files=files).examples()


@pytest.mark.parametrize(("key", "rows", "words"), [
    ("turns.0", [{"turns": []}], "lacks 'turns.0'"), ("turns", [{"turns": 3}], "no text but int"), ("turns.0", [{"turns": ["a"]}], "lower dataset.min_words"),
])
def test_public_prompts_of_another_form(tmp_path, key, rows, words):
    with pytest.raises(UserError, match=words):
        PublicPrompts("x", key, "nobody/nothing", path=jsonl(tmp_path / "q.jsonl", rows), min_words=2).examples()


@pytest.mark.parametrize("words", [{"min_words": 0}, {"min_words": 3, "max_words": 2}])
def test_lengths_that_leave_no_public_prompt_are_refused(words):
    with pytest.raises(UserError, match="leave no prompt"):
        PublicPrompts("x", "turns.0", "nobody/nothing", **words)


@pytest.mark.parametrize(("kind", "row"), [(Gsm8k, {"question": "?", "answer": "no number"}), (Mmlu, {"question": "?", "choices": ["a"], "answer": 1})])
def test_answers_of_another_form(tmp_path, kind, row):
    with pytest.raises(UserError, match="row 1 has no"):
        kind("x", "{question}{choices}", "nobody/nothing", path=jsonl(tmp_path / "q.jsonl", [row])).examples()
    with pytest.raises(UserError, match="no place for question"):
        kind("x", "{choices}", "nobody/nothing")


def test_summaries_under_other_names(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"id": "a", "article": "Rain.", "highlights": "It rained."}])
    [article] = Summarisation(path=path, document_key="article", summary_key="highlights").examples()
    assert article.summary == "It rained." and article.prompt.endswith("Rain.")
