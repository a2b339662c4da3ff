"""Beam search against every text there is, against transformers, and against reading each text afresh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from packed_rows import as_if_trained, with_random_start
from torch import Tensor
from transformers import LlamaForCausalLM

from model.beams import Beams, search
from model.build import build_model
from model.choosing import Choosing
from model.config import ModelConfig
from model.decoding import DecodingState
from model.generation import GeneratedImage, GeneratedText, GenerationOptions, generate, generate_text
from model.language_families import FAMILIES
from model.mm_interleaved import MMInterleaved
from model.prompts import Prompt, read_prompts

END, ENTRIES, LIMIT = 0, 4, 4
GREEDY = GenerationOptions(mode="text", max_new_tokens=9)


def odds(ids: tuple[int, ...]) -> Tensor:
    """Log-probabilities after a text: a language model that is a table."""
    generator = torch.Generator().manual_seed(7 + sum((token + 1) * 5**place for place, token in enumerate(ids)))
    return (2 * torch.randn(1, ENTRIES, generator=generator)).log_softmax(-1)


def every_text(ids: tuple[int, ...] = (), total: float = 0.0) -> Iterator[tuple[float, tuple[int, ...]]]:
    for token, value in enumerate(odds(ids)[0].tolist()):
        more = (*ids, token)
        if token == END or len(more) == LIMIT:
            yield total + value, more
        else:
            yield from every_text(more, total + value)


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_enough_beams_find_the_best_of_all_texts(penalty: float) -> None:
    beams = Beams(ENTRIES**LIMIT, penalty, [END], LIMIT)
    while not beams.done:
        beams.advance(torch.cat([odds(ids) for ids in beams.running]))
    assert beams.best() == max((total / len(ids) ** penalty, ids) for total, ids in every_text())[1]


def test_too_few_beams_may_miss_it() -> None:
    """Otherwise the table above would not tell a search from a greedy choice."""
    beams = Beams(1, 0.0, [END], LIMIT)
    while not beams.done:
        beams.advance(torch.cat([odds(ids) for ids in beams.running]))
    assert beams.best() != max(every_text())[1]


def test_a_search_without_room_is_done_at_once() -> None:
    beams = Beams(3, 1.0, [END], 0)
    assert (beams.done, beams.best()) == (True, ())


@pytest.fixture(scope="module")
def llama(config: ModelConfig) -> tuple[LlamaForCausalLM, MMInterleaved]:
    """A random Llama as the library has it and as the language model of ours, where nothing looks at pictures."""
    torch.manual_seed(3)
    theirs = LlamaForCausalLM(FAMILIES["llama"].settings(config.language, config.vocab_size + 2)).eval()
    ours = build_model(replace(config, cross_attention="off", new_head_bias=0.0, frozen_head_bias=0.0), seed=0).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        theirs.lm_head.weight[config.eos_id] *= 3
        ours.mm_decoder.load_state_dict(theirs.model.state_dict())
        ours.text_decoder.head.weight.copy_(theirs.lm_head.weight)
    return theirs, ours


SETTINGS = [
    Choosing(beams=4),
    Choosing(beams=3, length_penalty=0.0),
    Choosing(beams=5, length_penalty=-1.0, min_new_tokens=3),
    Choosing(beams=2, length_penalty=2.0, repetition_penalty=1.3),
    Choosing(beams=5, length_penalty=1.0, repetition_penalty=1.2, min_new_tokens=9),
]


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_it_finds_what_transformers_finds(llama: tuple[LlamaForCausalLM, MMInterleaved], how: Choosing) -> None:
    theirs, ours = llama
    tokens = ours.config.tokens
    prompts = [Prompt(str(number), (tuple(range(3 + number, 5 + 3 * number)),)) for number in range(8)]
    results = generate(ours, prompts, replace(GREEDY, choosing=how))
    ended = []
    for prompt, result in zip(prompts, results, strict=True):
        ids = torch.tensor([[tokens.bos, *(token for text in prompt.items for token in text)]])
        # From embeddings, so that the penalty is not for words of the prompt.
        found = theirs.generate(
            inputs_embeds=theirs.model.embed_tokens(ids),
            attention_mask=torch.ones_like(ids),
            num_beams=how.beams,
            length_penalty=how.length_penalty,
            repetition_penalty=how.repetition_penalty,
            min_new_tokens=how.min_new_tokens,
            max_new_tokens=GREEDY.max_new_tokens,
            early_stopping=False,
            do_sample=False,
            eos_token_id=tokens.eos,
            pad_token_id=tokens.pad,
            suppress_tokens=[tokens.pad, tokens.bos, tokens.boi, tokens.image],
        )[0].tolist()
        text = result[0]
        assert isinstance(text, GeneratedText)
        assert [*text.ids, *([tokens.eos] if text.ended else [])] == found
        ended.append(text.ended)
    assert any(ended) or how.min_new_tokens == GREEDY.max_new_tokens


@pytest.fixture(scope="module")
def talkative(config: ModelConfig) -> MMInterleaved:
    """A model that likes to begin pictures and to end, and is sure of itself."""
    model = as_if_trained(build_model(with_random_start(config), seed=1)).eval()
    with torch.no_grad():
        model.text_decoder.head.weight *= 4
        model.text_decoder.head.bias[config.tokens.boi] = 2.0
        model.text_decoder.head.bias[config.tokens.eos] = 1.0
    return model


@pytest.fixture(scope="module")
def prompts(config: ModelConfig) -> list[Prompt]:
    one, two = torch.rand(2, 3, config.vision.image_px, config.vision.image_px, generator=torch.Generator().manual_seed(0))
    return [Prompt("a", ((5, 6), one, (7,))), Prompt("b", ((8, 9, 10, 11),)), Prompt("c", (one, two, (12,)))]


def test_caches_that_follow_the_beams_hold_what_reading_afresh_finds(talkative: MMInterleaved, prompts: list[Prompt]) -> None:
    eos = talkative.config.tokens.eos

    def afresh(prompt: Prompt, ids: tuple[int, ...]) -> Tensor:
        state = DecodingState(talkative, 1)
        read_prompts(state, [replace(prompt, items=(*prompt.items, ids))])
        return state.logits().float().log_softmax(-1)

    state = DecodingState(talkative, len(prompts))
    with torch.no_grad():
        read_prompts(state, prompts)
        columns = state.valid.shape[1]
        forbid = torch.zeros(talkative.config.vocab_size + 2).index_fill_(0, torch.tensor([0, 1, 40, 41]), -torch.inf)
        found = search(state, [2, 0], [Beams(3, 1.0, [eos], 6) for _ in range(2)], lambda number, ids, logs: logs + forbid)
        for row, text in zip([2, 0], found, strict=True):
            beams = Beams(3, 1.0, [eos], 6)
            while not beams.done:
                beams.advance(torch.cat([afresh(prompts[row], ids) + forbid for ids in beams.running]))
            assert text == beams.best()
    assert state.valid.shape[1] == columns


def test_one_beam_is_greedy(talkative: MMInterleaved, prompts: list[Prompt]) -> None:
    """With no reward for length: a longer text is never better, so the search may not look past an end."""
    ends = [talkative.config.tokens.eos]
    state = DecodingState(talkative, len(prompts))
    forbid = torch.zeros(talkative.config.vocab_size + 2).index_fill_(0, torch.tensor([0, 1, 40, 41]), -torch.inf)
    with torch.no_grad():
        read_prompts(state, prompts)
        found = search(state, [0, 1, 2], [Beams(1, 0.0, ends, 9) for _ in prompts], lambda number, ids, logs: logs + forbid)
    assert [tuple(token for token in ids if token not in ends) for ids in found] == generate_text(talkative, prompts, GREEDY)


@pytest.mark.parametrize("mode", ["text", "interleaved"])
def test_beams_do_not_depend_on_their_neighbours(talkative: MMInterleaved, prompts: list[Prompt], mode: str) -> None:
    options = replace(GREEDY, mode=mode, max_images=2, steps=2, choosing=Choosing(beams=3, repetition_penalty=1.2))  # type: ignore[arg-type]
    heard: list[object] = []
    together = generate(talkative, prompts, options, lambda name, piece: heard.append(piece))
    said = [token for result in together for piece in result if isinstance(piece, GeneratedText) for token in piece.ids]
    assert sorted(piece for piece in heard if isinstance(piece, int)) == sorted(said)
    for prompt, result in zip(prompts, together, strict=True):
        alone = generate(talkative, [prompt], options)[0]
        assert [piece.ids if isinstance(piece, GeneratedText) else "picture" for piece in result] == [
            piece.ids if isinstance(piece, GeneratedText) else "picture" for piece in alone
        ]
        assert sum(len(piece.ids) for piece in result if isinstance(piece, GeneratedText)) <= options.max_new_tokens
    assert any(isinstance(piece, GeneratedImage) for result in together for piece in result) == (mode == "interleaved")


def test_beams_do_not_go_with_a_temperature() -> None:
    with pytest.raises(ValueError, match=r"temperature is 1.0, it must be 0 where beams are searched"):
        Choosing(beams=2, temperature=1.0)
