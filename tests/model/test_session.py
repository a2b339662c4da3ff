"""Turns and branches over kept caches against one long prompt that is read afresh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from packed_rows import picture
from torch import Tensor, nn

from kernels.testing import assert_close
from model.choosing import Choosing
from model.config import ModelConfig
from model.generation import Generated, GeneratedImage, GeneratedText, GenerationOptions, generate
from model.mm_interleaved import MMInterleaved
from model.prompts import Items, Prompt
from model.scoring import score_options
from model.session import Session

DRAWN = GenerationOptions(max_new_tokens=6, max_images=2, steps=2, choosing=Choosing(temperature=1.0, top_p=0.9))
WAYS = {
    "drawn": DRAWN,
    "greedy text": replace(DRAWN, mode="text", choosing=Choosing(repetition_penalty=1.3)),
    "beams": replace(DRAWN, choosing=Choosing(beams=3)),
    "picture": replace(DRAWN, mode="image"),
}


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """How many pictures or rows go into each call of a module."""
    sizes: list[int] = []
    handle = module.register_forward_hook(lambda _module, arguments, _result: sizes.append(len(arguments[0])))
    yield sizes
    handle.remove()


def as_items(model: MMInterleaved, result: Generated) -> Items:
    """What was generated, as it would stand in a prompt."""
    px = model.config.shape.image_px
    return tuple(
        piece.ids if isinstance(piece, GeneratedText) else model.image_decoder.reencode(piece.pixels[None], px)[0] for piece in result
    )


def assert_same(actual: list[Generated], expected: list[Generated]) -> None:
    for mine, theirs in zip(actual, expected, strict=True):
        assert [type(piece) for piece in mine] == [type(piece) for piece in theirs]
        for one, other in zip(mine, theirs, strict=True):
            if isinstance(one, GeneratedImage) and isinstance(other, GeneratedImage):
                assert_close(one.pixels, other.pixels, "model")
            else:
                assert one == other


@pytest.mark.parametrize("way", WAYS)
def test_turns_give_what_one_long_prompt_gives(talkative: MMInterleaved, config: ModelConfig, way: str) -> None:
    options = WAYS[way]
    names = ["a", "b"]
    said: list[Items] = [((5, 6), picture(0, config), (7,)), ((8, 9),)]
    turns: list[list[Items]] = [[((10,), picture(1, config)), ((11, 12),)], [(), (picture(2, config), (13,))]]
    session = Session.begin(talkative, [Prompt(name, items) for name, items in zip(names, said, strict=True)])
    with counted(talkative.visual_tokenizer.encoder) as encoded:
        for turn in [*turns, None]:
            afresh = generate(talkative, [Prompt(name, items) for name, items in zip(names, said, strict=True)], options)
            encoded.clear()
            answers = session.generate(options)
            assert_same(answers, afresh)
            drawn = sum(isinstance(piece, GeneratedImage) for answer in answers for piece in answer)
            # A picture that nothing follows yet is not read.
            assert sum(encoded) == (0 if options.mode == "image" else drawn)
            said = [(*items, *as_items(talkative, answer)) for items, answer in zip(said, answers, strict=True)]
            if turn is not None:
                encoded.clear()
                session.read(turn)
                given = sum(isinstance(item, Tensor) for items in turn for item in items)
                assert sum(encoded) == given + (drawn if options.mode == "image" else 0)
                said = [(*items, *more) for items, more in zip(said, turn, strict=True)]


def test_branches_give_what_whole_prompts_give(talkative: MMInterleaved, config: ModelConfig) -> None:
    prefix: Items = ((5, 6), picture(0, config))
    endings: list[Items] = [((7,),), (picture(1, config), (8, 9)), ((10, 11, 12), picture(2, config))]
    whole = [Prompt(str(number), (*prefix, *ending)) for number, ending in enumerate(endings)]
    expected = generate(talkative, whole, DRAWN)
    trunk = Session.begin(talkative, [Prompt("other", ((20,),)), Prompt("trunk", prefix)])
    with counted(talkative.visual_tokenizer.encoder) as encoded, counted(talkative.mm_decoder) as read:
        branched = trunk.branch([Prompt(str(number), ending) for number, ending in enumerate(endings)], conversation=1)
        assert (encoded, read) == ([2], [3])
        assert_same(branched.generate(DRAWN), expected)
    assert_same(trunk.generate(DRAWN)[1:], generate(talkative, [Prompt("trunk", prefix)], DRAWN))
    branched.read([(picture(3, config),)] * 3)


def test_options_are_scored_after_a_turn_without_reading_it_again(talkative: MMInterleaved, config: ModelConfig) -> None:
    first, answer, second = ((5, 6), picture(0, config)), (7, 8), ((9,), picture(1, config))
    options = [(10,), (11, 12, 13), (14, 15)]
    session = Session.begin(talkative, [Prompt("x", ((3,),)), Prompt("p", first)])
    session.read([(), (answer, *second)])
    with counted(talkative.visual_tokenizer.encoder) as encoded, counted(talkative.mm_decoder) as read:
        scores = session.score(options, conversation=1, batch=2)
        assert (encoded, read) == ([], [2, 1])
    assert scores == pytest.approx(score_options(talkative, Prompt("p", (*first, answer, *second)), options), rel=1e-5)
    with counted(talkative.visual_tokenizer.encoder) as encoded:
        score_options(talkative, Prompt("p", first), options, batch=1)
        assert encoded == [1]


def test_a_call_that_fails_leaves_the_conversation_as_it_was(talkative: MMInterleaved, config: ModelConfig) -> None:
    session = Session.begin(talkative, [Prompt("a", ((5, 6), picture(0, config)))])
    expected = generate(talkative, [Prompt("a", ((5, 6), picture(0, config)))], DRAWN)
    with pytest.raises(ValueError, match="outside the model's vocabulary"):
        session.read([((config.vocab_size,),)])

    def broken(name: str, piece: object) -> None:
        raise OSError("the listener went away")

    with pytest.raises(OSError, match="went away"):
        session.generate(DRAWN, broken)
    assert_same(session.generate(DRAWN), expected)


def test_a_conversation_that_is_full_is_named(talkative: MMInterleaved, config: ModelConfig) -> None:
    longest = config.shape.max_row_tokens
    session = Session.begin(talkative, [Prompt("long", ((5,) * (longest - 2),))])
    assert session.tokens == [longest - 1]
    with pytest.raises(ValueError, match=rf"'long' has {longest + 4} tokens; the model reads at most {longest}"):
        session.read([((6,) * 5,)])
    assert session.generate(replace(DRAWN, mode="text")) == [[]]
    assert isinstance(session.generate(replace(DRAWN, mode="image"))[0][0], GeneratedImage)
    with pytest.raises(ValueError, match="no room to read the picture"):
        session.generate(DRAWN)


def test_turns_and_numbers_that_fit_no_conversation_are_named(talkative: MMInterleaved) -> None:
    session = Session.begin(talkative, [Prompt("a", ((5,),)), Prompt("b", ((6,),))])
    with pytest.raises(ValueError, match="3 turns for 2 conversations; give one to each"):
        session.read([(), (), ()])
    for number in (-1, 2):
        with pytest.raises(ValueError, match=f"there is no conversation {number}; the session has 2"):
            session.score([(5,)], conversation=number)
        with pytest.raises(ValueError, match=f"there is no conversation {number}"):
            session.branch([Prompt("c", ())], conversation=number)
