"""The ids of prompts: one BOS token whatever spells it, templates with their arguments, and texts for training that begin as prompts do."""

import random
from pathlib import Path

import pytest
from chat_models import BOS, NO_SYSTEM, SYSTEM_LEFT_OUT, TEMPLATE, spaced_tokenizer, tokenizer

from specexp.errors import UserError
from specexp.text import PLAIN_TEMPLATE, Prompter, answered_ids, is_doubled, leading_ids, text_ids, with_template
from specexp.training.texts import beginnings, generated, read

ASKED = [{"role": "user", "content": "def add(a, b):"}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *ASKED]
KINDS = {"bare": {}, "bos": {"bos": True}, "template": {"template": TEMPLATE}, "both": {"bos": True, "template": TEMPLATE}}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    return tokenizer(tmp_path / request.param, **KINDS[request.param])


def test_a_raw_prompt_has_what_the_tokenizer_writes_before_it_once(kind):
    plain = kind("def add", add_special_tokens=False)["input_ids"]
    leading = leading_ids(kind)
    assert leading == kind("def add")["input_ids"][: -len(plain)]
    for text in ("def add", BOS + "def add" if leading else "def add"):
        assert text_ids(kind, text) == Prompter(kind).ids(text) == leading + plain
    assert Prompter(kind).doubles(BOS + "def add") == bool(leading) and not Prompter(kind).doubles("def add")
    assert text_ids(kind, "") == leading and not is_doubled([0, 0], [])


def test_a_rendered_prompt_has_one_bos_token_and_is_what_transformers_makes_of_it(tmp_path):
    for name in ("template", "both"):
        made = tokenizer(tmp_path / name, **KINDS[name])
        prompter = Prompter(made)
        ids = prompter.chat_ids(WITH_SYSTEM)
        assert ids == made.apply_chat_template(WITH_SYSTEM, add_generation_prompt=True, return_dict=True)["input_ids"]
        text = prompter.rendered(WITH_SYSTEM)
        assert text == f"{BOS}[system] Be brief.\n[user] def add(a, b):\n[assistant]\n" and ids.count(0) == 1 and made.decode(ids) == text
        assert prompter.ids(text) == ids  # rendered by the user, and read from a file


def test_the_plain_template_gives_what_a_raw_prompt_of_the_same_words_gives(kind):
    plain = Prompter(with_template(kind, "plain"))
    assert plain.chat_ids(ASKED) == Prompter(kind).ids("def add(a, b):") and plain.chat_ids(WITH_SYSTEM) == plain.ids("Be brief.\n\ndef add(a, b):")
    assert plain.template == PLAIN_TEMPLATE and not plain.is_rendered("def add(a, b):")
    assert plain.chat_ids([{"role": "user", "content": ""}]) == leading_ids(kind)


def test_templates_have_arguments(tmp_path):
    made = tokenizer(tmp_path / "made", template=TEMPLATE)
    assert Prompter(made, {"enable_thinking": False}).rendered(ASKED).endswith("[assistant] <no thoughts>\n")
    assert Prompter(made, {"enable_thinking": True}).rendered(ASKED) == Prompter(made).rendered(ASKED)
    for name, words in (("enable_thought", "does not read enable_thought"), ("messages", "not a user's"), ("thinking", "does not read thinking")):
        with pytest.raises(UserError, match=words):
            Prompter(made, {name: False})


def test_what_a_template_refuses_is_told(tmp_path, monkeypatch):
    made = tokenizer(tmp_path / "made", template=NO_SYSTEM)
    assert Prompter(made).rendered(ASKED)
    with pytest.raises(UserError, match=r"\(System role not supported\); leave out the system prompt"):
        Prompter(made).rendered(WITH_SYSTEM)
    file = tmp_path / "template.jinja"
    for content, words in (
        ("{{ raise_exception('roles must alternate') }}", r"\(roles must alternate\); change their roles"),
        ("{{ messages[0].content + 1 }}", "does not take these messages .*concatenate"),
        ("\n{% for m in messages %}", "cannot be parsed .line 2"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=words):
            Prompter(with_template(made, str(file))).rendered(ASKED)
    file.write_bytes("\ufeff{{ messages[0].content }}\r\n".encode())
    assert Prompter(with_template(made, str(file))).rendered(ASKED) == "def add(a, b):"
    with pytest.raises(UserError, match="the prompt has half a character"):
        Prompter(made).is_rendered("\ud83d")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        with_template(made, str(file))
    with pytest.raises(UserError, match="chat_template=nowhere is no file"):
        with_template(made, "nowhere")
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        Prompter(tokenizer(tmp_path / "bare")).rendered(ASKED)
    monkeypatch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match="cannot be read .*Permission denied.*; give a Jinja file"):
        with_template(made, str(file))


def test_one_of_several_templates_is_chosen_by_its_name(tmp_path):
    made = with_template(tokenizer(tmp_path / "made"), "plain")  # a copy
    made.chat_template = {"default": TEMPLATE, "short": "{{ messages[-1].content }}"}
    assert Prompter(made).rendered(ASKED) == Prompter(with_template(made, "default")).rendered(ASKED)
    assert Prompter(with_template(made, "short")).rendered(ASKED) == "def add(a, b):"
    made.chat_template = {"short": "", "long": ""}
    with pytest.raises(UserError, match="short, long and no default; choose one with chat_template=NAME"):
        Prompter(made).rendered(ASKED)


def test_a_text_that_was_rendered_before_is_noticed(tmp_path):
    both, without = tokenizer(tmp_path / "both", bos=True, template=TEMPLATE), tokenizer(tmp_path / "without", template=TEMPLATE[15:])
    for made in (both, without):
        prompter = Prompter(made)
        for text in (prompter.rendered(ASKED), prompter.rendered(ASKED).rstrip(), Prompter(made, {"enable_thinking": False}).rendered(ASKED)):
            assert prompter.is_rendered(text) or "<no thoughts>" in text
        assert not prompter.is_rendered("def add(a, b):") and not prompter.is_rendered("")
        assert Prompter(made, {"enable_thinking": False}).is_rendered(prompter.rendered(ASKED)) or made is without
    assert not Prompter(tokenizer(tmp_path / "bare")).is_rendered("def add(a, b):\n[assistant]\n")
    assert not Prompter(tokenizer(tmp_path / "polite", template="{{ messages[-1].content }}?")).is_rendered("Who is it?")
    assert not Prompter(tokenizer(tmp_path / "no_system", template=SYSTEM_LEFT_OUT)).is_rendered("def add(a, b):")


# Texts that heads are trained on


def test_texts_for_training_begin_as_prompts_of_the_same_words_do(kind):
    for text in generated(kind, 8, seed=1):
        prompt = kind.decode(text.ids[: text.start], skip_special_tokens=True)
        assert list(text.ids[: text.start]) == Prompter(kind).ids(prompt)
        assert text.ids[-1] == kind.eos_token_id and text.ids[1:-1].count(0) == 0
    document = "The number of apples is three. " * 9
    parts = list(read(kind, [document, BOS + document], 20))
    leading = tuple(leading_ids(kind))
    assert all(part.ids[: len(leading)] == leading and len(part.ids) <= 20 for part in parts) and len(parts) > 8
    assert parts[0].ids == tuple(Prompter(kind).ids(document)[:20]) and (not leading or parts[: len(parts) // 2] == parts[len(parts) // 2 :])
    for begun in beginnings(parts, 0):
        assert begun.ids[: len(leading)] == leading


def test_an_answer_gets_no_space_and_no_bos_token_of_its_own():
    made, rng = spaced_tokenizer(), random.Random(0)
    assert leading_ids(made) == [0] and made("b", add_special_tokens=False)["input_ids"][0] == 3
    for _ in range(50):
        prompt, answer = ("".join(rng.choices("ab \n", k=rng.randint(1, 9))) for _ in range(2))
        ids, start = answered_ids(made, prompt, answer)
        assert ids[:start] == text_ids(made, prompt) and made.decode(ids[start:]) == answer
    assert all(text.ids[0] == 0 and 0 not in text.ids[1:] for text in generated(made, 4, 0))


def test_an_answer_whose_beginning_belongs_to_the_prompts_last_token_is_tokenised_alone(tmp_path):
    made = tokenizer(tmp_path / "bare")
    ids, start = answered_ids(made, "def add", "ress(a):")
    assert ids[:start] == text_ids(made, "def add") and made.decode(ids) == "def address(a):"
