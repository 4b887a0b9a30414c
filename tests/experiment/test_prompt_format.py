"""Runs whose prompts are raw, and runs that ask in chat: what the model sees, what records hold, and what is refused before weights load."""

import copy
import json
import logging

import pytest
from chat_models import BOS, NO_SYSTEM, SYSTEM_LEFT_OUT, TEMPLATE, saved
from omegaconf import OmegaConf
from running import composed, run

from specexp.errors import UserError
from specexp.experiment.places import OwnModels
from specexp.experiment.sides import DecoderSide
from specexp.models.pair import load_tokenizer
from specexp.tracking.records import read_records

ALONE = ("model_pair=custom", "method=prompt_lookup", "max_new_tokens=3")  # one model, no draft
CHAT = {"dataset.prompt_format": "chat"}
RENDERED = BOS + "[user] def add(a, b):\n[assistant]\n"


def own(tmp_path, *rows, name="own.jsonl"):
    """Overrides for a data file with these prompts or conversations."""
    keys = ({"prompt": row} if isinstance(row, str) else {"messages": row} for row in rows)
    file = tmp_path / name
    file.write_text("".join(json.dumps({"id": str(number)} | row) + "\n" for number, row in enumerate(keys)))
    return ("dataset=prompts", f"dataset.path={file}")


def says(*turns):
    """A conversation in which the user and the assistant take turns."""
    return [{"role": ("user", "assistant")[turn % 2], "content": words} for turn, words in enumerate(turns)]


@pytest.fixture
def asked(monkeypatch):
    """The ids that the sides were asked, in their order."""
    prompts, generate = [], DecoderSide.generate

    def noting(side, prompt, *rest):
        prompts.append(list(prompt))
        return generate(side, prompt, *rest)

    monkeypatch.setattr(DecoderSide, "generate", noting)
    return prompts


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """refused(model, prompt, settings) -> the sentence, which comes before any weights are loaded."""
    monkeypatch.setattr(OwnModels, "open", lambda *_: pytest.fail("too late"))
    base = composed(*ALONE, *own(tmp_path, "x"))

    def call(model, prompt, settings):
        config = copy.deepcopy(base)
        own(tmp_path, prompt)
        for key, value in ({"model_pair.target.name": model} | settings).items():
            OmegaConf.update(config, key, value)
        with pytest.raises(UserError) as told:
            run(config, tmp_path / "refused")
        return str(told.value)

    return call


def summary(directory):
    return json.loads((directory / "summary.json").read_text())


def test_a_chat_is_rendered_once_and_records_hold_what_the_model_saw(tmp_path, asked, capsys):
    place = saved(tmp_path / "model", bos=True, template=TEMPLATE)
    data = own(tmp_path, "def add(a, b):", says("one", "two", "three"))
    chat = (*ALONE, f"model_pair.target.name={place}", *data, "dataset.prompt_format=chat", "dataset.system_prompt=Be brief.")
    run(composed(*chat), tmp_path / "run")
    prompts = [record.prompt for record in read_records(tmp_path / "run")]
    begun = BOS + "[system] Be brief.\n"
    assert prompts == [
        begun + "[user] def add(a, b):\n[assistant]\n",
        begun + "[user] one\n[assistant] two\n[user] three\n[assistant]\n",
    ]
    tokenizer = load_tokenizer(place)
    assert all(ids[0] == 0 and 0 not in ids[1:] for ids in asked) and {tokenizer.decode(ids) for ids in asked} == set(prompts)
    assert summary(tmp_path / "run")["prompt_format"] == "chat" and summary(tmp_path / "run")["template_unused"] is False
    assert "prompts were raw" not in capsys.readouterr().out


def test_template_arguments_and_a_template_of_ones_own(tmp_path):
    place = saved(tmp_path / "model", template=TEMPLATE)
    chat = (*ALONE, f"model_pair.target.name={place}", *own(tmp_path, "x"), "dataset.prompt_format=chat")
    run(composed(*chat, "chat_template_args={enable_thinking: false}"), tmp_path / "a")
    assert read_records(tmp_path / "a")[0].prompt.endswith("[assistant] <no thoughts>\n")
    run(composed(*chat, "chat_template=plain"), tmp_path / "b")
    assert read_records(tmp_path / "b")[0].prompt == "x"
    (tmp_path / "own.jinja").write_text("Q: {{ messages[0].content }}")
    run(composed(*chat, f"chat_template={tmp_path}/own.jinja"), tmp_path / "c")
    assert read_records(tmp_path / "c")[0].prompt == "Q: x"


def test_a_pair_says_how_it_is_asked_and_a_data_set_may_differ(tmp_path):
    place = saved(tmp_path / "model", template=TEMPLATE)
    chat = (*ALONE, f"model_pair.target.name={place}", *own(tmp_path, "x"), "model_pair.prompt_format=chat")
    run(composed(*chat), tmp_path / "a")
    run(composed(*chat, "dataset.prompt_format=raw"), tmp_path / "b")
    assert [read_records(tmp_path / name)[0].prompt for name in "ab"] == [BOS + "[user] x\n[assistant]\n", "x"]


@pytest.mark.parametrize("change", ["template", "data"])
def test_a_run_goes_on_only_with_the_prompts_that_its_model_saw(tmp_path, change):
    template = tmp_path / "own.jinja"
    template.write_text("Q: {{ messages[0].content }}")
    data = own(tmp_path, "one", "two")
    chat = (*ALONE, "model_pair.target.name=asset:tiny/draft", *data, "dataset.prompt_format=chat", f"chat_template={template}")
    run(composed(*chat), tmp_path / "run")
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines(keepends=True)
    if change == "template":
        (tmp_path / "run" / "records.jsonl").write_text(lines[0])  # killed after the first record
        template.write_text("Question: {{ messages[0].content }}")
    else:
        own(tmp_path, "one", "three")  # of a finished run
    words = {"template": "a record of 0 whose prompt the chat template writes otherwise now", "data": "a record of 1 whose prompt the data set no longer has"}
    with pytest.raises(UserError, match=words[change]):
        run(composed(*chat), tmp_path / "run")


def test_raw_prompts_of_a_chat_model_are_said_once(tmp_path, capsys, caplog):
    place = saved(tmp_path / "model", bos=True, template=TEMPLATE)
    raw = (*ALONE, f"model_pair.target.name={place}")
    with caplog.at_level(logging.WARNING):
        run(composed(*raw, *own(tmp_path, "def add(a, b):", "x")), tmp_path / "run")
    found = summary(tmp_path / "run")
    assert found["prompt_format"] == "raw" and found["template_unused"] is True
    assert capsys.readouterr().out.count("The prompts were raw, though the tokenizer has a chat template") == 1
    assert [record.message for record in caplog.records if "raw" in record.message] == [
        "the prompts are raw, though the tokenizer has a chat template; dataset.prompt_format=chat asks as in a chat."
    ]


def test_a_file_of_rendered_prompts_gets_no_second_bos_token(tmp_path, capsys, caplog, asked):
    place = saved(tmp_path / "model", bos=True, template=TEMPLATE)
    with caplog.at_level(logging.WARNING):
        run(composed(*ALONE, f"model_pair.target.name={place}", *own(tmp_path, RENDERED)), tmp_path / "run")
    assert all(ids[0] == 0 and 0 not in ids[1:] for ids in asked) and asked
    assert read_records(tmp_path / "run")[0].prompt == RENDERED
    assert [record.message for record in caplog.records] == [f"1 prompts begin with {BOS}, which the tokenizer writes before every text; it is given once."]
    assert summary(tmp_path / "run")["template_unused"] is False  # the file's author used it
    assert "prompts were raw" not in capsys.readouterr().out


def test_a_system_prompt_that_the_template_leaves_out_is_said(tmp_path, caplog):
    place = saved(tmp_path / "model", template=SYSTEM_LEFT_OUT)
    chat = (*ALONE, f"model_pair.target.name={place}", *own(tmp_path, "x"), "dataset.prompt_format=chat", "dataset.system_prompt=Be brief.")
    with caplog.at_level(logging.WARNING):
        run(composed(*chat), tmp_path / "run")
    assert "the chat template does not write the system prompt, so the model does not see it." in [record.message for record in caplog.records]


def test_a_template_without_the_bos_token_that_raw_prompts_have_is_said(tmp_path, caplog):
    place = saved(tmp_path / "model", bos=True, template=TEMPLATE.removeprefix("{{ bos_token }}"))
    chat = (*ALONE, f"model_pair.target.name={place}", *own(tmp_path, "x"), "dataset.prompt_format=chat")
    with caplog.at_level(logging.WARNING):
        run(composed(*chat), tmp_path / "run")
    assert [record.message for record in caplog.records] == [
        f"the chat template does not write {BOS}, which the tokenizer puts before every raw prompt."
    ]


def test_what_cannot_be_asked_is_refused_before_weights(tmp_path, refused):
    bare, fitted = "asset:tiny/draft", saved(tmp_path / "model", bos=True, template=NO_SYSTEM)
    assert "asset:tiny/draft has no chat template, which dataset.prompt_format=chat needs: give chat_template=plain" in refused(bare, "x", CHAT)
    assert "chat_template=plain goes with dataset.prompt_format=chat only" in refused(bare, "x", {"chat_template": "plain"})
    arguments = {"chat_template_args": {"enable_thinking": False}}
    assert "chat_template_args={'enable_thinking': False} goes with dataset.prompt_format=chat only" in refused(fitted, "x", arguments)
    assert "System role not supported" in refused(fitted, "x", CHAT | {"dataset.system_prompt": "x"})
    assert "does not read enable_thought" in refused(fitted, "x", CHAT | {"chat_template_args": {"enable_thought": False}})
    assert "0 was put into a chat template before, and would be twice" in refused(fitted, RENDERED, CHAT)
    assert "the prompt of 0 is empty" in refused(bare, says(""), CHAT | {"chat_template": "plain"})
