"""Codes as files to hear."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...tokenizer import AudioTokenizer, write_audio


def write_spans(audio_tokenizer: AudioTokenizer, spans: Sequence[Any], name: Path) -> dict[Path, np.ndarray]:
    """Decode spans of codes into `name.wav`, or, if there are several, `name-1.wav` ...; -> audio (T,) by file"""
    name.parent.mkdir(parents=True, exist_ok=True)
    written = {}
    for k, span in enumerate(spans):
        path = name.with_name(f"{name.name}-{k + 1}.wav" if len(spans) > 1 else f"{name.name}.wav")
        written[path] = np.asarray(audio_tokenizer.decode(span))
        write_audio(path, written[path], audio_tokenizer.output_sampling_rate)
    return written
