"""A speech LM's folder for plain transformers: text and audio -> inputs, and what was written -> audio.

B batch, L length in ids, M features of a batch, T samples.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import (
    AutoProcessor,
    BatchFeature,
    GenerationConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SequenceFeatureExtractor,
)
from transformers.utils import PROCESSOR_NAME

from ..tokenizer import AudioTokenizer
from ..tokenizer.audio import is_batch, load_audio
from ..tokenizer.files import write_whole
from .features import SpeechLMConfig
from .info import SpeechLMInfo
from .sampling import Sampling
from .templates import Prompt, Segment, Template, control_names
from .vocabulary import Vocabulary

_COPY = "audio_tokenizer"  # where a copy of the codec stands, relative to the folder
_LONGEST_S = 30.0  # what plain `generate` writes at most


class SpeechLMProcessor(ProcessorMixin):
    """Prompts for a speech LM, and the sound of what it writes; text is decoded by `processor.tokenizer`.

    The codec is loaded when it is first needed. It is not an attribute in the sense of `ProcessorMixin`, which would
    load it twice, and write absolute paths.

    Args:
        feature_extractor: of the codec.
        tokenizer: of the LM, with control and audio tokens.
        codebook_sizes: number of codes of each codebook.
        info: the tasks that the LM knows, its voices, and where the codec is, as an object or as its JSON.
        audio_codec: the codec, where it is loaded already.
    """

    def __init__(
        self,
        feature_extractor: SequenceFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        codebook_sizes: Sequence[int] = (8192,),
        info: SpeechLMInfo | dict[str, Any] | None = None,
        audio_codec: AudioTokenizer | None = None,
    ) -> None:
        super().__init__(feature_extractor, tokenizer)
        self.info = SpeechLMInfo.from_json(info) if isinstance(info, dict) else info or SpeechLMInfo()
        self.vocabulary = Vocabulary(tokenizer, codebook_sizes, control_names(self.info.templates))
        self._codec = audio_codec
        self._source: tuple[str, dict[str, Any]] = (".", {})

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> "SpeechLMProcessor":  # type: ignore[override]
        """A folder that `SpeechLM.save_pretrained` wrote, or a hub id; kwargs as in transformers."""
        processor = super().from_pretrained(source, **kwargs)
        hub: dict[str, Any] = {key: kwargs[key] for key in ("revision", "token", "cache_dir") if key in kwargs}
        processor._source = (str(source), hub)
        return processor

    def save_pretrained(self, save_directory: str | Path, max_shard_size: Any = None) -> None:  # type: ignore[override]
        """Write tokenizer, description and, unless `info` names another place, the codec.

        Args:
            max_shard_size: unused; `push_to_hub` of transformers gives it.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary.save(folder)
        if self.info.audio_tokenizer == _COPY:
            self.audio_tokenizer.save_pretrained(folder / _COPY)
        write_whole(folder / PROCESSOR_NAME, json.dumps(self.to_dict(), indent=1).encode())

    def to_dict(self) -> dict[str, Any]:
        """What processor_config.json says."""
        return {
            "processor_class": type(self).__name__,
            "feature_extractor": self.feature_extractor.to_dict(),
            "codebook_sizes": list(self.vocabulary.codebook_sizes),
            "info": asdict(self.info),
        }

    @property
    def audio_tokenizer(self) -> AudioTokenizer:
        """The codec."""
        if self._codec is None:
            (source, hub), name = self._source, self.info.audio_tokenizer
            if name == _COPY and not Path(source).is_dir():
                source = snapshot_download(source, allow_patterns=[f"{_COPY}/*"], **hub)
            copy = Path(source) / name
            self._codec = AudioTokenizer.from_pretrained(copy if copy.is_dir() else name)
        return self._codec

    # Text and audio -> ids.

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        voice: str | Sequence[str] | None = None,
        reference: Any = None,
        reference_text: str | Sequence[str] | None = None,
        task: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """What is given for a task -> what the LM continues.

        Everything is one item or a list; one item serves a whole list of others.

        Args:
            text: to be spoken.
            audio: a path, array, tensor, ... as `AudioTokenizer` takes it: to be enhanced, separated, converted, ...
            sampling_rate: of arrays, in Hz; by default the codec's.
            voice: one of `info.voices`; the first by default.
            reference: audio of the voice to speak with.
            reference_text: what is said in it.
            task: name of one of `info.templates`; by default the first that reads just what is given.
            return_tensors: "pt", or lists.

        Returns:
            input_ids and attention_mask (B, L), padded on the left; features (M, D) where the task reads them.

        Raises:
            ValueError: no task of the model reads this.
        """
        given = {
            "text": text,
            "audio": audio,
            "voice": voice,
            "reference": reference,
            "reference_text": reference_text,
        }
        template = self._template(task, {name for name, value in given.items() if value is not None})
        given["voice"] = self._voices(voice)
        fields = {s.field: self._values(s, given[_argument(s)], sampling_rate) for s in _read(template)}
        size = max(map(len, fields.values()))
        if not {len(values) for values in fields.values()} <= {1, size}:
            raise ValueError(f"lists must be equally long, found { {k: len(v) for k, v in fields.items()} }")
        rows = [{field: values[i % len(values)] for field, values in fields.items()} for i in range(size)]
        return _left_padded([self._prompt(template, row) for row in rows], self.vocabulary, return_tensors)

    def _template(self, task: str | None, given: set[str]) -> Template:
        """The task, or the first that reads what is given; what is only to be continued comes last."""
        plain = [template for template in self.info.templates if template.target.kind != "aligned"]  # no phases there
        known = sorted(plain, key=lambda template: len(template.segments) == 1)
        optional = {"voice"} if self.info.voices else set()
        fitting = [t for t in known if (needed := {_argument(s) for s in _read(t)}) - optional <= given <= needed]
        if task is not None:
            fitting = [self.info.template(task)] if self.info.template(task) in fitting else []
        if not fitting:
            tasks = [f"{t.name} reads {', '.join(_argument(segment) for segment in _read(t))}" for t in known]
            raise ValueError(
                f"{task or 'no task of this model'} reads just {', '.join(sorted(given)) or 'nothing'}, as was given: "
                f"{'; '.join(tasks) or 'it was trained for none'}"
            )
        return fitting[0]

    def _voices(self, voice: str | Sequence[str] | None) -> str | Sequence[str] | None:
        """Those asked for, or the first."""
        known = self.info.voices
        if voice is None or not known:
            return known[0] if known else voice
        unknown = sorted({*([voice] if isinstance(voice, str) else voice)} - {*known})
        if unknown:
            raise ValueError(f"no voice is called {unknown[0]!r}: this model knows {', '.join(known)}")
        return voice

    def _values(self, segment: Segment, value: Any, sampling_rate: int | None) -> list[Any]:
        """One item or a list -> a list of texts, ids (N * K,) or features (N, D)."""
        if segment.kind == "text":
            return [value] if isinstance(value, str) else list(value)
        if segment.kind == "codes":
            encoded = self.audio_tokenizer(value, sampling_rate)
            pairs = zip(encoded["input_ids"], encoded["attention_mask"].bool(), strict=True)
            return [ids[mask] for ids, mask in pairs]
        codec = self.audio_tokenizer.codec
        waves = [
            torch.from_numpy(self.audio_tokenizer.feature_extractor.prepare(*load_audio(item, sampling_rate)))
            for item in (value if is_batch(value) else [value])
        ]
        return [codec.extract_features(wave[None].to(codec.device))[0].cpu() for wave in waves]

    def _prompt(self, template: Template, row: dict[str, Any]) -> Prompt:
        length = (1, 1)  # plain `generate` has its own
        if len(template.segments) == 1:
            return template.prompt(self.vocabulary, length, target_prefix=row[template.target.field])
        return template.prompt(self.vocabulary, length, **row)

    # Ids -> audio.

    @torch.no_grad()
    def decode(self, ids: Any) -> Tensor | list[Tensor]:  # type: ignore[override]
        """What was written -> audio (T,) at the codec's output rate; a list of them for a batch of ids.

        Of ids that hold `<|speech|>`, what follows the last one is decoded; other than audio ids are left out. No audio
        id, no samples. The streams of a separation follow each other.

        Args:
            ids: (L,), or (B, L), or a list of rows of any lengths.
        """
        if isinstance(ids, list | tuple) and all(isinstance(i, int) for i in ids):
            ids = torch.tensor(ids, dtype=torch.long)
        if isinstance(ids, Tensor) and ids.ndim == 1:
            return self.decode([ids])[0]
        rows = [self._written(torch.as_tensor(row).tolist()) for row in ids]
        heard = iter(self.audio_tokenizer.batch_decode([row for row in rows if row]))
        return [torch.from_numpy(next(heard)) if row else torch.empty(0) for row in rows]

    def batch_decode(self, ids: Any) -> list[Tensor]:  # type: ignore[override]
        """As `decode`, of several rows."""
        return [self.decode(torch.as_tensor(row)) for row in ids]  # type: ignore[misc]

    def _written(self, ids: list[int]) -> list[int]:
        """The codes of whole frames: each codebook's in its place."""
        speech = self.vocabulary.control("speech")
        if speech in ids:
            ids = ids[len(ids) - ids[::-1].index(speech) :]
        sizes, codes = self.vocabulary.codebook_sizes, list[int]()
        for code in self.vocabulary.codes(ids):
            k = len(codes) % len(sizes)
            if sum(sizes[:k]) <= code < sum(sizes[: k + 1]):
                codes.append(code)
        return codes[: len(codes) // len(sizes) * len(sizes)]


def speech_generation_config(
    vocabulary: Vocabulary, audio_tokenizer: AudioTokenizer, rows: int, positions: int, templates: Sequence[Template]
) -> GenerationConfig:
    """With which plain `generate` writes speech, and nothing else, as far as it can: it knows no phases.

    Args:
        rows: of the embedding.
        positions: that the model has.
        templates: where all of them write text, nothing is kept from being written.
    """
    sampling, keep = Sampling(), {*vocabulary.audio_range, vocabulary.control("end")}
    writes_speech = not templates or any(template.target.kind != "text" for template in templates)
    return GenerationConfig(
        max_new_tokens=min(round(_LONGEST_S * audio_tokenizer.tokens_per_second), positions // 2),
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        eos_token_id=vocabulary.control("end"),
        pad_token_id=vocabulary.control("pad"),
        suppress_tokens=[i for i in range(rows) if i not in keep] if writes_speech else None,
        sampling_rate=audio_tokenizer.output_sampling_rate,
    )


def _read(template: Template) -> tuple[Segment, ...]:
    """What is given; of a template with nothing but a target, its beginning."""
    return template.segments[:-1] or template.segments


def _argument(segment: Segment) -> str:
    """The argument of the processor that fills a segment."""
    if segment.control == "voice":
        return "voice"
    if segment.control == "reference":
        return "reference_text" if segment.kind == "text" else "reference"
    return "text" if segment.kind == "text" else "audio"


def _left_padded(prompts: list[Prompt], vocabulary: Vocabulary, return_tensors: str | None) -> BatchFeature:
    length, pad = max(len(prompt.ids) for prompt in prompts), vocabulary.control("pad")
    missing = [length - len(prompt.ids) for prompt in prompts]
    values: dict[str, Any] = {
        "input_ids": [[pad] * n + prompt.ids for n, prompt in zip(missing, prompts, strict=True)],
        "attention_mask": [[0] * n + [1] * (length - n) for n in missing],
    }
    features = [prompt.features for prompt in prompts if prompt.features is not None]
    if features:
        values["features"] = torch.cat(features)
    return BatchFeature(values, tensor_type=return_tensors)


AutoProcessor.register(SpeechLMConfig, SpeechLMProcessor, exist_ok=True)
