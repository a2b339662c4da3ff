"""Tiny random models in folders as their library saves them, and an endpoint of this machine that answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
)

WORDS = ("KEEP", "a", "photo", "of", "the", "temple", "flower", "red", "house", "with", "sky", "tree", "water", "describe", "picture")
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
_TEXT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def words(framed: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, so that a random model speaks in them; `framed` puts a start and an end around a text."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def save_blip(folder: Path) -> Path:
    """A BLIP."""
    torch.manual_seed(0)
    tokenizer = words(framed=True)
    text = _TEXT | {"encoder_hidden_size": 32, "intermediate_size": 48, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0}
    config = BlipConfig(vision_config=_VISION, text_config=text | tokens, projection_dim=16)
    _speaking(BlipForConditionalGeneration(config)).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def save_blip2(folder: Path) -> Path:
    """A BLIP-2 around an OPT."""
    torch.manual_seed(0)
    tokenizer = words()
    former = _TEXT | {"vocab_size": 30, "intermediate_size": 48, "encoder_hidden_size": 32, "cross_attention_frequency": 1}
    opt = OPTConfig(
        **_TEXT,
        vocab_size=len(tokenizer) + 1,
        ffn_dim=48,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    config = Blip2Config(
        vision_config=_VISION, qformer_config=former, text_config=opt.to_dict(), num_query_tokens=4, image_token_index=len(tokenizer)
    )
    _speaking(Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    Blip2Processor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


def save_llava(folder: Path) -> Path:
    """A conversational model: a LLaVA with a chat template."""
    torch.manual_seed(0)
    tokenizer = words()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    llama = LlamaConfig(**_TEXT, vocab_size=len(tokenizer), intermediate_size=48, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION),
        text_config=llama,
        image_token_index=len(tokenizer) - 1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        pictures, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=template, num_additional_image_tokens=1
    )
    processor.save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIP with both towers."""
    torch.manual_seed(0)
    tokenizer = words()
    text = _TEXT | {"vocab_size": len(tokenizer), "intermediate_size": 48, "max_position_embeddings": 16, "eos_token_id": 2}
    CLIPModel(CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)).save_pretrained(folder)
    tokenizer.model_max_length = 16
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def _speaking(model: Any) -> Any:
    """Weights wide enough that pictures change what is said, and no special token among it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
            if "crossattention.output.dense" in name or "vision_model" in name or "language_projection" in name:
                parameter.mul_(8)
            if "class_embedding" in name:
                parameter.zero_()
            if name.endswith("predictions.bias"):
                parameter[:4] = -1000
            if name.endswith("decoder.final_layer_norm.bias"):  # an OPT has no bias at its head: a direction that is always there, ...
                parameter[0] = 1
            if name.endswith("decoder.embed_tokens.weight"):  # ... and special tokens that point away from it
                parameter[:4, 0] = -100
    return model


class Endpoint(ThreadingHTTPServer):
    """Chat completions on loopback. `behaviour(request body, number of the request)` gives (status, bytes, seconds to wait)."""

    daemon_threads = True
    behaviour: Any
    asked: list[dict[str, Any]]
    headers: list[dict[str, str]]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


def completion(text: Any, finish: str = "stop", **more: Any) -> bytes:
    """A well-formed answer."""
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}], **more}).encode()


@contextmanager
def endpoint(behaviour: Any) -> Iterator[Endpoint]:
    """The server while the block runs."""
    server = Endpoint(("127.0.0.1", 0), _Handler)
    server.behaviour, server.asked, server.headers = behaviour, [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.lock:
            self.server.asked.append({"path": self.path, **body})
            self.server.headers.append(dict(self.headers))
            number = len(self.server.asked)
        status, data, wait_s = self.server.behaviour(body, number)
        try:
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            size = 20 if wait_s else len(data) or 1
            for start in range(0, len(data), size):
                time.sleep(wait_s)
                self.wfile.write(data[start : start + size])
                self.wfile.flush()
        except OSError:
            pass

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""


def prompt_of(body: dict[str, Any]) -> str:
    """The words of a request."""
    return "".join(part["text"] for part in body["messages"][0]["content"] if part["type"] == "text")


def pictures_of(body: dict[str, Any]) -> int:
    """How many pictures a request has."""
    return sum(part["type"] == "image_url" for part in body["messages"][0]["content"])
