"""What is dropped of a corpus and why: every threshold with its unit and source. No rule is on unless it is set (docs/filters.md)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.frozen import Frozen

StatedFact = Literal["language", "nsfw", "alignment", "aesthetic", "similarity", "sequence"]


class FilterParams(Frozen):
    """The rules of one corpus, in the order in which they are asked. Documents for evaluation pass all of them."""

    languages: tuple[str, ...] = Field(
        (), description="languages kept, as BCP 47 tags; `en` keeps `en-GB` too; all where empty (LAION-2B is the English part of LAION-5B)"
    )
    nsfw_values: tuple[str, ...] = Field(
        (), description="stated `nsfw` words whose pictures are dropped, in any case; LAION says UNLIKELY, UNSURE and NSFW"
    )
    max_nsfw: float | None = Field(None, ge=0, le=1, description="pictures with a stated `nsfw` probability above it are dropped")
    min_alignment: float | None = Field(None, description="documents with a stated `alignment` of image and text below it are dropped")
    min_caption: int | None = Field(
        None, ge=1, description="captions shorter than it are dropped, in caption_unit; 10 in the paper (section 3.2), without a unit"
    )
    caption_unit: Literal["characters", "words", "tokens"] = Field("characters", description="what min_caption counts")
    caption_tokenizer: str | None = Field(
        None, description="the tokenizer.json that counts tokens, a file below the corpus's folder; exactly with caption_unit `tokens`"
    )
    min_side_px: int | None = Field(None, ge=1, description="pictures with a shorter side below it are dropped, pixels")
    max_side_px: int | None = Field(None, ge=1, description="pictures with a longer side above it are dropped, pixels")
    max_aspect: float | None = Field(None, ge=1, description="pictures with a longer side of more than so many shorter ones are dropped")
    min_aesthetic: float | None = Field(
        None,
        description="pictures with a stated `aesthetic` score below it are dropped; for LAION in the paper, without a value",
    )
    min_similarity: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="pictures with a stated CLIP `similarity` to their text below it are dropped; 0.24 for MMC4 in the paper, 0.1 in CoMM",
    )
    max_images: int | None = Field(None, ge=1, description="pictures kept of a document at most; 6 for MMC4 in the paper")
    kept_images: Literal["drawn", "similar"] = Field(
        "drawn",
        description="which stay beyond max_images: drawn by a keyed shuffle as released, or the most similar; the paper is silent",
    )
    drop_imageless: bool = Field(False, description="drop documents without a picture, except those of kind `text`; MMC4 in the paper")
    single_image_drop: float = Field(
        0.0, ge=0, le=1, description="share of documents with one picture that a keyed coin drops; 0.5 for MMC4 in the paper"
    )
    min_sequence_score: float | None = Field(
        None,
        ge=-2,
        le=2,
        description="documents whose pictures follow each other with less coherence are dropped: mean CLIP similarity of neighbours "
        "less that of all pairs (CoMM), from fields.image_similarity",
    )
    drop_unstated: tuple[StatedFact, ...] = Field(
        (), description="facts that a rule asks for and whose absence drops the picture or document as well; others stay"
    )
    exact_duplicates: bool = Field(False, description="drop documents with the texts and pictures of another of the corpus, byte for byte")
    near_duplicate_bits: int | None = Field(
        None,
        ge=0,
        le=16,
        description="pictures are the same up to so many differing bits of their 64-bit perceptual hash; 6 finds re-encoded, resized and "
        "slightly cropped ones; no search where absent",
    )
    near_duplicate_share: float = Field(
        1.0, gt=0, le=1, description="share of a document's pictures that kept documents must have for it to be dropped"
    )
    near_duplicate_same_text: bool = Field(
        False, description="only where the words are the same too; needed where one picture has many questions"
    )

    @model_validator(mode="after")
    def _values_go_together(self) -> Self:
        if (self.caption_unit == "tokens") != (self.caption_tokenizer is not None):
            raise ValueError("caption_tokenizer is set exactly when caption_unit is `tokens`")
        if self.min_side_px and self.max_side_px and self.min_side_px > self.max_side_px:
            raise ValueError(f"min_side_px ({self.min_side_px}) is above max_side_px ({self.max_side_px})")
        return self

    @property
    def compare_documents(self) -> bool:
        """Whether a rule asks for the other documents of the corpus."""
        return self.exact_duplicates or self.near_duplicate_bits is not None


class DecontaminationParams(Frozen):
    """What no training document may share with evaluation sets. Off while neither corpora nor files are named."""

    corpora: tuple[str, ...] = Field((), description="corpora of this data version whose evaluation documents are protected")
    files: tuple[str, ...] = Field((), description="files of signatures of evaluation sets that are not here, below data/input")
    image_bits: int = Field(
        6, ge=0, le=16, description="pictures are the same up to so many differing bits of their 64-bit perceptual hash"
    )
    words: int = Field(13, ge=2, description="consecutive words that two texts must share; 13 in GPT-3 (arXiv 2005.14165, appendix C)")
    min_words: int = Field(
        8, ge=1, description="texts of fewer words are not compared, those below `words` as a whole; 8 is GPT-3's smallest n-gram"
    )
    common_documents: int = Field(
        10, ge=1, description="words shared by more evaluation documents are a template and count for nothing; GPT-3 ignores those above 10"
    )

    @model_validator(mode="after")
    def _short_is_short(self) -> Self:
        if self.min_words > self.words:
            raise ValueError(f"min_words ({self.min_words}) is above words ({self.words})")
        return self

    @property
    def wanted(self) -> bool:
        """Whether there is an evaluation set to protect."""
        return bool(self.corpora or self.files)
