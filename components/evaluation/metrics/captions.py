"""CIDEr of the COCO caption protocol: CIDEr-D with n = 4, sigma = 6, scale 10, on the Penn Treebank tokens of pycocoevalcap's jar.

Only the tokenizer is called, not `COCOEvalCap`: that one downloads models and writes its temporary file beside the installed package.
Papers print the score times 100.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from components.evaluation.estimates import MetricUnavailable

LONGEST_NGRAM = 4
SIGMA = 6.0
SCALE = 10.0
_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
_PUNCTUATION = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_LINE_BREAKS = re.compile("[\r\n\v\f\u2028\u2029]")

Tokens = list[str]


def penn_treebank_tokens(captions: Sequence[str]) -> list[Tokens]:
    """Tokens of each caption, lower-cased, without punctuation. Raises MetricUnavailable without Java or without the jar."""
    jar = _tokenizer_jar()
    java = shutil.which("java")
    if java is None:
        raise MetricUnavailable(
            "CIDEr tokenizes with Stanford's PTBTokenizer and there is no `java` on PATH; install a Java runtime (17 is tested)"
        )
    if not captions:
        return []
    # A break that Java sees as a line end would shift every later caption by one, silently.
    lines = [_LINE_BREAKS.sub(" ", caption) for caption in captions]
    with tempfile.TemporaryDirectory(prefix="mmfs-captions-") as folder:
        text = Path(folder, "captions.txt")
        text.write_text("\n".join(lines) + "\n", encoding="utf-8")
        options = ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
        command = [java, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", *options, str(text)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise MetricUnavailable(f"the caption tokenizer failed with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    tokenized = done.stdout.removesuffix("\n").split("\n")
    if len(tokenized) != len(captions):
        raise MetricUnavailable(f"the caption tokenizer returned {len(tokenized)} lines for {len(captions)} captions")
    return [[token for token in line.rstrip().split(" ") if token and token not in _PUNCTUATION] for line in tokenized]


def cider_d(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """Score of each image [N] float64 in 0..10; its mean is the corpus score.

    A score depends on the whole set through the document frequencies, so scores of different sets never mix.
    Raises ValueError for a missing candidate or an image without reference.
    """
    if len(candidates) != len(references) or not all(references):
        raise ValueError(
            f"expected one candidate and at least one reference per image, got {len(candidates)} candidates for {len(references)} images"
        )
    counted = [[_ngrams(reference) for reference in group] for group in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for group_counts in counted:
        frequency.update({ngram for counts in group_counts for ngram in counts})
    log_images = math.log(len(references)) if references else 0.0

    def vectors(counts: Counter[tuple[str, ...]]) -> list[dict[tuple[str, ...], float]]:
        by_length: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST_NGRAM)]
        for ngram, count in counts.items():
            by_length[len(ngram) - 1][ngram] = count * (log_images - math.log(max(1, frequency[ngram])))
        return by_length

    scores = np.zeros(len(candidates))
    for image, (candidate, group, counted_group) in enumerate(zip(candidates, references, counted, strict=True)):
        ours = vectors(_ngrams(candidate))
        total = 0.0
        for reference, counts in zip(group, counted_group, strict=True):
            # The reference code measures length in bigrams.
            difference = max(0, len(candidate) - 1) - max(0, len(reference) - 1)
            penalty = math.exp(-(difference**2) / (2 * SIGMA**2))
            total += penalty * sum(_similarity(a, b) for a, b in zip(ours, vectors(counts), strict=True)) / LONGEST_NGRAM
        scores[image] = SCALE * total / len(group)
    return scores


def _ngrams(tokens: Tokens) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for n in range(1, LONGEST_NGRAM + 1) for i in range(len(tokens) - n + 1))


def _similarity(candidate: dict[tuple[str, ...], float], reference: dict[tuple[str, ...], float]) -> float:
    """Cosine with the candidate's counts clipped to the reference's."""
    norms = math.sqrt(sum(v * v for v in candidate.values())) * math.sqrt(sum(v * v for v in reference.values()))
    dot = sum(min(value, reference[ngram]) * reference[ngram] for ngram, value in candidate.items() if ngram in reference)
    return dot / norms if norms else dot


def _tokenizer_jar() -> Path:
    spec = find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (jar := Path(folder, _JAR)).is_file():
            return jar
    raise MetricUnavailable("CIDEr needs the tokenizer of pycocoevalcap, which is not installed; run `pip install pycocoevalcap==1.2`")
