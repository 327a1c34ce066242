"""Which tokens of a conversation are of a response, with templates of many kinds."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from flasc_flwr.app.tasks.instruction.chat_template import (
    TEMPLATES,
    ChatTemplate,
    RefusedError,
)
from flasc_flwr.app.tasks.instruction.chat_tokens import (
    chat_tokens,
    ends,
    prompt_tokens,
)
from tests.app import chat_tokenizers as kinds
from tests.app.chat_tokenizers import chat_tokenizer

IGNORED = -100
# Kind of tokenizer, template, what ends a response.
FAMILIES = {
    "chatml": ("bytes", kinds.CHATML, "<|im_end|>"),
    "generation": ("bytes", kinds.GENERATION, "<|im_end|>"),
    "llama3": ("bytes", kinds.LLAMA3, "<|eot_id|>"),
    "llama2": ("metaspace", kinds.LLAMA2, "</s>"),
    "mistral": ("metaspace", kinds.MISTRAL, "</s>"),
    "gemma": ("replaced", kinds.GEMMA, "<end_of_turn>"),
    "alpaca": ("bytes", TEMPLATES["alpaca"], "</s>"),
    "alpaca-words": ("metaspace", TEMPLATES["alpaca"], "</s>"),
    "chatml-words": ("replaced", TEMPLATES["chatml"], "<|im_end|>"),
}
RESPONSES = {
    "words": "The answer is 42, as you know.",
    "code": "def add(a, b):\n    return a + b\n\nprint(add(1, 2))",
    "like the prompt": "What is the answer to this question?",
    "other scripts": "naïve ☃ Ünïcödé 答え 🙂",
    "one letter": "I",
    "the marks of a template": "### Response:\nassistant\n[INST] user",
    "spaces inside": "a   b\n\n\nc",
}


def of(family):
    kind, template, end = FAMILIES[family]
    tokenizer = chat_tokenizer(kind)
    config = SimpleNamespace(chat_template=template, model="a model")
    return ChatTemplate.of(tokenizer, config), end


def chat(*texts, system=None):
    said = [
        {"role": ("user", "assistant")[n % 2], "content": text}
        for n, text in enumerate(texts)
    ]
    return ([{"role": "system", "content": system}] if system else []) + said


def runs(targets):
    """Return the tokens of each response."""
    found, before = [], IGNORED
    for target in targets:
        if target != IGNORED and before == IGNORED:
            found.append([])
        if target != IGNORED:
            found[-1].append(target)
        before = target
    return found


def decoded(template, tokens):
    return template.tokenizer.decode(tokens, skip_special_tokens=False)


def same(one, other):
    """Compare texts of tokenizers that write an unknown letter as <unk>, too."""
    one, other = (re.sub(r"\s", "", text) for text in (one, other))
    pattern = re.escape(one).replace(re.escape("<unk>"), ".+?")
    return re.fullmatch(pattern, other) is not None


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_response_and_its_end_are_learnt(family, response):
    template, end = of(family)
    tokens = chat_tokens(template, chat("What is it?", response), 10**6)
    (learnt,) = runs(tokens.targets)
    assert same(decoded(template, learnt), response + end)
    if template.tokenizer.unk_token_id not in learnt and FAMILIES[family][0] == "bytes":
        # Bytes come back as they are: not one character more or less.
        assert decoded(template, learnt) == response + end
    assert tokens.ids[tokens.start] == learnt[0] and tokens.targets[0] == IGNORED
    assert not (tokens.cut_prompt or tokens.cut_response)


@pytest.mark.parametrize("family", ["chatml", "llama3", "alpaca"])
@settings(max_examples=60, deadline=None)
@given(prompt=st.text(min_size=1), response=st.text(min_size=1))
def test_whatever_is_written_exactly_the_response_is_learnt(family, prompt, response):
    template, end = of(family)
    shown = response.strip() if family == "llama3" else response
    assume(shown.strip() and prompt.strip())
    tokens = chat_tokens(template, chat(prompt, response), 10**6)
    (learnt,) = runs(tokens.targets)
    text = decoded(template, learnt)
    assert text.endswith(shown + end)
    # A token may hold spaces of both the template and the response.
    assert not text.removesuffix(shown + end).strip()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_response_of_several_turns_is_learnt(family):
    template, end = of(family)
    texts = ("Hello!", "I am fine.", "What is it?", "It is 42.", "Why?", "As I know.")
    tokens = chat_tokens(template, chat(*texts), 10**6)
    learnt = runs(tokens.targets)
    assert len(learnt) == 3
    for run, text in zip(learnt, texts[1::2], strict=True):
        ended = text + end if run is learnt[-1] or "alpaca" not in family else text
        assert same(decoded(template, run), ended)
    assert tokens.ids[tokens.start] == learnt[-1][0]


def test_a_token_that_takes_in_the_spaces_after_it_is_not_of_the_response():
    """As Phi's <|assistant|> does."""
    tokenizer = chat_tokenizer(additional_special_tokens=[])
    names = ["<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(n, rstrip=True) for n in names]}
    )
    text = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + "
    text += "'<|end|>\n' }}{% endfor %}"
    template = ChatTemplate.of(
        tokenizer, SimpleNamespace(chat_template=text, model="a model")
    )
    for response in ("I am fine.", "  I am fine.", "\nI am fine. "):
        tokens = chat_tokens(template, chat("Hello!", response), 10**6)
        (learnt,) = runs(tokens.targets)
        assert decoded(template, learnt).split() == ["I", "am", "fine.<|end|>"] or (
            decoded(template, learnt) == "I am fine. <|end|>"
        )


@pytest.mark.parametrize("family", ["generation"])
def test_transformers_own_mask_agrees(family):
    template, _ = of(family)
    messages = chat("Hello!", "I am fine.", "Add 1, 2", "def add(a, b):\n    return a")
    theirs = template.tokenizer.apply_chat_template(
        messages,
        chat_template=template.text,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    ours = chat_tokens(template, messages, 10**6)
    size = len(ours.ids)
    assert theirs["input_ids"][:size] == ours.ids
    assert [t != IGNORED for t in ours.targets] == [
        bool(m) for m in theirs["assistant_masks"][:size]
    ]
    assert not any(theirs["assistant_masks"][size:])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_before_a_response_are_those_to_answer_after(family):
    template, _ = of(family)
    messages = chat("Hello!", "I am fine.", "What is the answer?", "The answer is 42.")
    tokens = chat_tokens(template, messages, 10**6)
    assert prompt_tokens(template, messages[:-1], 10**6) == tokens.ids[: tokens.start]


def test_a_generation_prompt_is_what_comes_before_a_response():
    for family in ("chatml", "llama3", "gemma"):
        template, _ = of(family)
        messages = chat("What is the answer?")
        theirs = template.tokenizer.apply_chat_template(
            messages,
            chat_template=template.text,
            add_generation_prompt=True,
            return_dict=True,
        )
        assert prompt_tokens(template, messages, 10**6) == theirs["input_ids"]


def test_what_ends_an_answer():
    expected = {"chatml": ["</s>", "<|im_end|>"], "mistral": ["</s>"]}
    expected["gemma"] = ["</s>", "<end_of_turn>"]
    for family, names in expected.items():
        template, _ = of(family)
        found = template.tokenizer.convert_ids_to_tokens(ends(template))
        assert sorted(found) == sorted(names)


@pytest.mark.parametrize("family", ["chatml", "llama2", "gemma", "alpaca"])
def test_the_middle_of_the_prompt_is_cut_first(family):
    template, end = of(family)
    prompt = "What is it? " + " ".join(f"number {n}" for n in range(40)) + " Well?"
    messages = chat(prompt, "The answer is 42.")
    whole = chat_tokens(template, messages, 10**6)
    length = len(whole.ids) - 60
    tokens = chat_tokens(template, messages, length)
    assert len(tokens.ids) == length and tokens.cut_prompt and not tokens.cut_response
    assert runs(tokens.targets) == runs(whole.targets)
    text = decoded(template, tokens.ids)
    # Both ends of the prompt, and all that the template writes, are still there.
    assert "What is it?" in text and "Well?" in text and "number 20" not in text
    before = decoded(template, whole.ids).partition("What is it?")[0]
    assert text.startswith(before)


def test_a_response_longer_than_the_room_is_cut_and_counted():
    template, _ = of("chatml")
    messages = chat("What is it?", "The answer is 42. " * 50)
    whole = chat_tokens(template, messages, 10**6)
    tokens = chat_tokens(template, messages, 100)
    assert len(tokens.ids) == 100 and tokens.cut_response
    (learnt,) = runs(tokens.targets)
    assert learnt == runs(whole.targets)[0][: len(learnt)]
    # No room for a response at all: nothing is learnt.
    nothing = chat_tokens(template, messages, 20)
    assert runs(nothing.targets) == []


def test_a_long_conversation_loses_its_oldest_turns_first():
    template, _ = of("llama2")
    turns = chat(*["Hello! How are you?", "I am fine."] * 6, system="Be brief.")
    whole = chat_tokens(template, turns, 10**6)
    tokens = chat_tokens(template, turns, len(whole.ids) // 2)
    text = decoded(template, tokens.ids)
    assert tokens.cut_prompt and len(tokens.ids) <= len(whole.ids) // 2
    assert 2 <= len(runs(tokens.targets)) < 6 and text.count("Be brief.") == 1
    assert runs(tokens.targets) == runs(whole.targets)[-len(runs(tokens.targets)) :]


def test_a_long_conversation_keeps_what_its_developer_says():
    template, _ = of("chatml")
    turns = chat(*["Hello! How are you?", "I am fine."] * 6)
    turns = [{"role": "developer", "content": "Be brief."}, *turns]
    whole = chat_tokens(template, turns, 10**6)
    tokens = chat_tokens(template, turns, len(whole.ids) // 2)
    text = decoded(template, tokens.ids)
    assert tokens.cut_prompt and text.count("Be brief.") == 1


def test_a_template_that_changes_a_response_refuses_it():
    tokenizer = chat_tokenizer()
    config = SimpleNamespace(chat_template=kinds.THINKING, model="a model")
    template = ChatTemplate.of(tokenizer, config)
    fine = chat("Hello!", "I am fine.", "Why?", "<think>hm</think>As I know.")
    assert len(runs(chat_tokens(template, fine, 10**6).targets)) == 2
    changed = chat("Hello!", "<think>hm</think>I am fine.", "Why?", "As I know.")
    with pytest.raises(RefusedError, match="changes the texts of messages"):
        chat_tokens(template, changed, 10**6)


def test_what_a_template_refuses_is_said():
    template, _ = of("gemma")
    with pytest.raises(RefusedError, match="System role not supported"):
        chat_tokens(template, chat("Hi", "Hello!", system="Be brief."), 10**6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "chat-template must be set with a model whose tokenizer has none"),
        ("template.jinja", "must be Jinja text, the absolute path of a file with it"),
        ("{{ messages[0].content }}", "leaves some out|does not show every response"),
        ("{% for m in messages %}{{ m.content", "must be a template .* which fails"),
        ("{{ raise_exception('no') }}", "which fails: no"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes"),
        ("{{ ''.__class__.__mro__ }}{{ messages }}", "which fails"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(text, expected):
    config = SimpleNamespace(chat_template=text, model="a model")
    with pytest.raises(ValueError, match=expected):
        ChatTemplate.of(chat_tokenizer(), config)


def test_a_template_is_read_from_a_file(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text(kinds.LLAMA3)
    config = SimpleNamespace(chat_template=str(file), model="a model")
    assert ChatTemplate.of(chat_tokenizer(), config).text == kinds.LLAMA3
    config.chat_template = ""
    own = chat_tokenizer(template=kinds.CHATML)
    assert ChatTemplate.of(own, config).text == kinds.CHATML
