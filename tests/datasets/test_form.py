"""Data sets that ask in chat: messages instead of prompts, from every kind of file, and answers that are scored as those of raw prompts."""

import json

import pytest

from specexp.datasets import Form, transcript
from specexp.datasets.answers import Gsm8k, LineSummaries, Mmlu, Summarisation
from specexp.datasets.humaneval import HumanEval
from specexp.datasets.prompts import LoadPrompts, Prompts, PublicPrompts
from specexp.errors import UserError
from specexp.scoring.texts import STOP_STRINGS

CHAT = {"prompt_format": "chat"}
PROBLEM = {"task_id": "T/0", "prompt": "def one():\n    '''Give 1.'''\n", "entry_point": "one", "test": "def check(c):\n    assert c() == 1\n"}
USER = {"role": "user", "content": "x"}


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_data_set_asks_in_either_form(tmp_path):
    made = {
        Prompts: written(tmp_path / "own.jsonl", {"id": "a", "prompt": "x"}),
        HumanEval: written(tmp_path / "code.jsonl", PROBLEM),
        Summarisation: written(tmp_path / "news.jsonl", {"document": "It rained.", "summary": "Rain."}),
        LineSummaries: written(tmp_path / "lines.jsonl", {"document": "It rained.", "summary": "Rain."}),
    }
    sets = {kind: lambda form, kind=kind, path=path: kind(path=path, **form) for kind, path in made.items()}
    public = {"path": written(tmp_path / "text.jsonl", {"text": "one two"}), "hub_id": "a/b"}
    question = {"path": written(tmp_path / "sums.jsonl", {"question": "1 + 1?", "answer": "#### 2", "choices": ["1", "2"]}), "hub_id": "a/b"}
    choice = {"path": written(tmp_path / "choice.jsonl", {"question": "1 + 1?", "answer": 1, "choices": ["1", "2"]}), "hub_id": "a/b"}
    sets[PublicPrompts] = lambda form: PublicPrompts("public", "text", **public, **form)
    sets[Gsm8k] = lambda form: Gsm8k("gsm8k", "{question}", **question, **form)
    sets[Mmlu] = lambda form: Mmlu("mmlu", "{question} {choices}", **choice, **form)
    sets[LoadPrompts] = lambda form: LoadPrompts(1, **form)
    for kind, make in sets.items():
        [raw], [asked], [led] = make({}).examples(), make(CHAT).examples(), make(CHAT | {"system_prompt": "Be brief."}).examples()
        assert raw.messages == () and asked.prompt == led.prompt == raw.prompt
        assert [message["role"] for message in led.messages] == ["system", "user"] and led.messages[1:] == asked.messages
        assert asked.messages[0]["content"] == raw.prompt or kind is HumanEval
        with pytest.raises(UserError, match="dataset.system_prompt goes with dataset.prompt_format=chat only"):
            make({"system_prompt": "Be brief."})
        with pytest.raises(UserError, match="dataset.prompt_format=talk is unknown: choose one of raw, chat"):
            make({"prompt_format": "talk"})


def test_problems_are_asked_as_an_instruction_and_nothing_ends_the_answer_early(tmp_path):
    path = written(tmp_path / "code.jsonl", PROBLEM)
    raw, chat = HumanEval(path=path), HumanEval(path=path, **CHAT)
    [problem] = chat.examples()
    words = problem.messages[0]["content"]
    assert words.startswith("Complete this Python function.") and "```python\ndef one():\n    '''Give 1.'''\n```" in words
    assert raw.stop_strings == STOP_STRINGS and chat.stop_strings == ()
    assert HumanEval(path=path, stop_strings=("\n\n\n",), **CHAT).stop_strings == ("\n\n\n",)
    [mine] = HumanEval(path=path, instruction="Write it in Python: {prompt}", **CHAT).examples()
    assert mine.messages[0]["content"] == "Write it in Python: " + PROBLEM["prompt"].strip("\n")
    with pytest.raises(UserError, match="has no place for the problem: put {prompt} into it"):
        HumanEval(path=path, instruction="Write it.", **CHAT)
    with pytest.raises(UserError, match="dataset.instruction goes with dataset.prompt_format=chat only"):
        HumanEval(path=path, instruction="Write it: {prompt}")


def test_a_chats_answer_passes_by_the_code_in_it(tmp_path):
    data = HumanEval(path=written(tmp_path / "code.jsonl", PROBLEM), **CHAT)
    [problem] = data.examples()
    answers = {
        "Here it is:\n\n```python\ndef one():\n    return 1\n```\nIt gives 1.": True,
        "Here it is:\n\n```python\ndef one():\n    return 2\n```\nIt gives 2.": False,
        "```python\nimport math\n\ndef half():\n    return math.floor(1.5)\n\ndef one():\n    return half()\n```": True,
        "I cannot do that.": False,
    }
    scores = data.scores([(problem, text) for text in answers])
    assert [score["passed"] for score in scores] == list(answers.values()) and not any(score["passed_raw"] for score in scores)
    assert data.metrics([[score] for score in scores])["pass_at_1"] == 0.5


def test_a_summary_of_one_line_ends_there_only_behind_a_raw_prompt(tmp_path):
    path = written(tmp_path / "lines.jsonl", {"document": "It rained.", "summary": "Rain."})
    assert LineSummaries(path=path).stop_strings == ("\n",) and LineSummaries(path=path, **CHAT).stop_strings == ()
    assert Summarisation(path=path).stop_strings == Summarisation(path=path, **CHAT).stop_strings == ()


def test_a_file_of_conversations(tmp_path):
    talk = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}]
    path = written(tmp_path / "talk.jsonl", {"id": "a", "messages": talk}, {"id": "b", "prompt": "x"})
    first, second = Prompts(path=path, **CHAT).examples()
    assert list(first.messages) == talk and first.prompt == "z" and second.messages == (USER,)
    assert transcript(first.messages) == "system: Be brief.\n\nuser: x\n\nassistant: y\n\nuser: z"
    with pytest.raises(UserError, match="a consists of messages, which only chat templates make prompts of: set dataset.prompt_format=chat"):
        Prompts(path=path).examples()
    with pytest.raises(UserError, match="a has a system prompt of its own"):
        Prompts(path=path, system_prompt="Be long.", **CHAT).examples()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": []}, "line 1 has no list of messages under 'messages'"),
        ({"messages": "x"}, "line 1 has no list of messages"),
        ({"messages": ["x"]}, 'line 1 has the message "x": give each a role and a content'),
        ({"messages": [{"role": "user"}]}, r'line 1 has the message {"role": "user"}'),
        ({"messages": [{"role": "user", "content": None}]}, "line 1 has the message"),
        ({"messages": [USER | {"weight": 1}]}, "and nothing else"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, r"line 1, a message has half a character"),
        ({"messages": [USER, {"role": "assistant", "content": "y"}]}, "line 1 ends with an answer of the assistant, so nothing is asked"),
        ({"messages": [USER], "prompt": "x"}, "line 1 has both a prompt and messages: leave one of them out"),
        ({}, "line 1 lacks 'prompt'"),
    ],
)
def test_a_conversation_of_another_form_is_named(tmp_path, row, words):
    with pytest.raises(UserError, match=words):
        Prompts(path=written(tmp_path / "talk.jsonl", {"id": "a"} | row), **CHAT).examples()


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (" B", "B"),
        ("I think it is hard. The answer is (C).", "C"),
        ("A good way to begin: the second one is wrong.\n\n**Answer:** D", "D"),
        ("The answer is A? No. The answer is B.", "B"),
        ("The answer is a number.", None),
        ("C. Paris", "C"),
    ],
)
def test_the_letter_that_an_answer_names(text, letter):
    assert Mmlu("mmlu", "{question} {choices}", "a/b").given(text) == letter


def test_a_form_is_a_value():
    assert Form() == Form("raw") != Form("chat") and Form("chat", "x").stop_strings(None, ("\n",)) == ()
