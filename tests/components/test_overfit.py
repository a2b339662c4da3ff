"""Every family of recipes learns sixteen documents by heart: near-zero losses, and its pictures drawn again."""

from __future__ import annotations

from pathlib import Path

import pytest
from overfitting import DOCUMENTS, Family, learn

QUICK = {
    "vqa": Family({"question": 8, "caption": 8}, steps=100, rows=2, image_weight=0.0),
    "grounding": Family({"referring": 16}, steps=120, rows=2, image_weight=0.0),
}
"""What draws nothing, as in Tables 12 and 13."""
DRAWING = {
    "pretraining": Family(
        {"caption": 4, "question": 4, "referring": 4, "segmentation": 2, "story": 2}, steps=2000, rows=4, learning_rate=2e-3
    ),
    "segmentation": Family({"segmentation": 16}, steps=150, rows=2, learning_rate=4e-3),
    "story": Family({"story": 16}, steps=1500, rows=2),
    "story_joint": Family({"story": 16}, steps=1500, rows=2, data={"stories": "joint"}),
    "style": Family({"style": 16}, steps=2000, rows=4, learning_rate=2e-3),
    "decompose": Family({"decompose": 16}, steps=1500, rows=2),
}
"""The losses are near their floor long before a picture can be told from another: in the first 300 updates of `style` what is drawn is a
blur on the right ground, made from the earlier pictures alone, and exchanging the conditions changes no loss."""
FAMILIES = {**QUICK, **DRAWING}
NEAR = 0.05
"""Nats a token above what a perfect memory of the set would have."""
FLOOR = 0.1
"""Of the image loss of the untrained model: what a diffusion model is asked to undo is noise, so no memory makes it 0."""
PSNR = 18.0
"""Mean over the pictures, dB. Two of them that a reader takes for different ones are about 20 dB apart."""


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.faults) for name in DRAWING)])
def test_sixteen_documents_are_learned_by_heart(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    assert sum(family.kinds.values()) == DOCUMENTS
    learned = learn(family, tmp_path)
    told = f"text {learned.text[0]:.4f} to {learned.text[1]:.4f}, best {learned.best_text:.4f}"
    if len(learned.drawn):
        told += f"; image {learned.image[0]:.4f} to {learned.image[1]:.4f}, {len(learned.drawn)} pictures"
        told += f", {learned.recognised:.3f} recognised, PSNR {float(learned.psnr.mean()):.1f} dB"
    print(f"{name}: {told}")
    assert learned.text[0] > learned.best_text + 10 * NEAR, "there was something to learn"
    assert learned.text[1] < learned.best_text + NEAR
    if not family.image_weight:
        return
    assert learned.image[1] < FLOOR * learned.image[0]
    assert learned.recognised == 1.0
    assert float(learned.psnr.mean()) > PSNR
