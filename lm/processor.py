"""A transformers processor for speech LMs: text and audio to prompts, and generated ids to audio.

With it the folder of a speech LM works in plain transformers. B batch, L length in ids, M features of a batch, T
samples, N token frames, K codebooks, D feature width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoProcessor,
    BatchFeature,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SequenceFeatureExtractor,
)
from transformers.utils import PROCESSOR_NAME

from ..data.phonemes import WORD_START
from ..tokenizer.audio import load_audio
from ..tokenizer.audio_tokenizer import AudioTokenizer
from ..tokenizer.configs import errors_named, read_json
from ..tokenizer.hub import find_file, find_folder, hub_options, remote_code_explained, trusts_remote_code
from ..tokenizer.waveform import is_batch
from .features import SpeechLMConfig
from .info import SpeechLMInfo
from .loading import CODEC_FOLDER, LEXICON_FILE, processor_config, read_lexicon, write_info, write_processor
from .model import SpeechLM
from .pieces import AlignedGeneration
from .templates import Prompt, Segment, Template, control_names
from .vocabulary import Vocabulary


class SpeechLMProcessor(ProcessorMixin):
    """Prepares prompts for a speech LM, and decodes its output to audio. `processor.tokenizer` decodes text.

    The codec is loaded when it is first needed. It is not an attribute in the sense of `ProcessorMixin`, which would
    load it twice and write absolute paths.

    Args:
        feature_extractor: of the codec.
        tokenizer: of the LM, with control and audio tokens.
        codebook_sizes: number of codes of each codebook.
        info: description of the LM (its tasks, voices and codec), as an object or as its JSON.
        audio_codec: the codec, if it is loaded already.
        lexicon: phonemes by word, if it is loaded already.
    """

    def __init__(
        self,
        feature_extractor: SequenceFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        codebook_sizes: Sequence[int] = (8192,),
        info: SpeechLMInfo | dict[str, Any] | None = None,
        audio_codec: AudioTokenizer | None = None,
        lexicon: dict[str, str] | None = None,
    ) -> None:
        super().__init__(feature_extractor, tokenizer)
        if isinstance(info, dict):
            info = SpeechLMInfo.from_json(info, "info")
        self.info = info or SpeechLMInfo()
        self.vocabulary = Vocabulary(tokenizer, codebook_sizes, control_names(self.info.templates))
        self._codec = audio_codec
        self._lexicon = lexicon
        # Folder or hub id from which the codec is loaded, and options of the hub.
        self._source: tuple[str, dict[str, Any]] = (".", {})

    @classmethod
    def from_lm(cls, lm: SpeechLM) -> "SpeechLMProcessor":
        """Return the processor that `AutoProcessor` loads from the saved folder of an LM."""
        codec = lm.audio_tokenizer
        vocabulary = lm.vocabulary
        return cls(codec.feature_extractor, vocabulary.tokenizer, vocabulary.codebook_sizes, lm.info, codec, lm.lexicon)

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> "SpeechLMProcessor":  # type: ignore[override]
        """Load a folder that `SpeechLM.save_pretrained` wrote, or a hub id; kwargs as in transformers."""
        path = find_file(source, PROCESSOR_NAME, kwargs)
        if path is None:
            raise OSError(f"{source} has no {PROCESSOR_NAME}: name the folder of a speech LM, or a hub id")
        read_json(path)
        options = dict(kwargs) if Path(source).is_dir() else {**kwargs, **hub_options(kwargs)}
        options["trust_remote_code"] = trusts_remote_code(kwargs)
        with remote_code_explained(source), errors_named(source):
            processor = super().from_pretrained(source, **options)
        processor._source = (str(source), kwargs)
        return processor

    def save_pretrained(self, save_directory: str | Path, max_shard_size: Any = None) -> None:  # type: ignore[override]
        """Write tokenizer, description and, unless `info` refers to it elsewhere, the codec.

        Args:
            save_directory: folder to write to.
            max_shard_size: ignored; `push_to_hub` of transformers passes it.
        """
        folder = Path(save_directory)
        codec = self.audio_tokenizer if self.info.audio_tokenizer == CODEC_FOLDER else None
        write_processor(folder, self.to_dict(), self.vocabulary, codec)
        write_info(folder, self.info, self.lexicon)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of processor_config.json."""
        return processor_config(self.feature_extractor, self.vocabulary, self.info)

    @property
    def lexicon(self) -> dict[str, str]:
        """Phonemes by word, for a model that reads phonemes; loaded on first use."""
        if self._lexicon is None:
            path = find_file(self._source[0], LEXICON_FILE, self._source[1])
            self._lexicon = read_lexicon(Path(path).parent) if path else {}
        return self._lexicon

    @property
    def audio_tokenizer(self) -> AudioTokenizer:
        """The codec, loaded on first use."""
        if self._codec is None:
            source, options = self._source
            name = self.info.audio_tokenizer
            folder = Path(source)
            if name == CODEC_FOLDER:
                folder = find_folder(source, [f"{CODEC_FOLDER}/*"], options)
            self._codec = AudioTokenizer.from_pretrained(folder / name if (folder / name).is_dir() else name)
        return self._codec

    def speech_lm(self, model: PreTrainedModel) -> SpeechLM:
        """Return the speech LM of a causal LM and what this processor has loaded."""
        return SpeechLM(model, self.vocabulary, self.audio_tokenizer, self.info, self.lexicon)

    # Text and audio to ids.

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
        """Turn the inputs of a task into what the LM continues.

        Each input is one item or a list of items. A single item is used for all items of the other lists.

        Args:
            text: to speak.
            audio: to enhance, separate, convert, ...: a path, array, tensor, ... as `AudioTokenizer` takes it.
            sampling_rate: of arrays, in Hz; by default the codec's.
            voice: one of `info.voices`; the first by default.
            reference: audio of the voice to speak with.
            reference_text: transcript of the reference.
            task: name of one of `info.templates`; by default the first that reads exactly these inputs.
            return_tensors: "pt" for tensors; lists by default.

        Returns:
            input_ids and attention_mask (B, L), padded on the left; features (M, D) if the task reads them. For aligned
            speech the ids hold no text, and `custom_generate` reads it: `model.generate(**inputs)`.

        Raises:
            ValueError: no task of the model reads these inputs, or lists differ in length.
        """
        inputs = {
            "text": text,
            "audio": audio,
            "voice": voice,
            "reference": reference,
            "reference_text": reference_text,
        }
        template = self._find_template(task, inputs)
        inputs["voice"] = self._check_voice(voice)
        columns = {}
        for segment in _input_segments(template):
            columns[segment.field] = self._values(segment, inputs[_argument(segment)], sampling_rate)
        if template.target.kind == "aligned":
            columns["text"] = [text] if isinstance(text, str) else list(text or [])
        batch_size = max(map(len, columns.values()))
        for field, values in columns.items():
            if len(values) not in (1, batch_size):
                raise ValueError(
                    f"lists must be equally long, or one item for all, found {len(values)} for {field} and {batch_size}"
                )
        rows = []
        for i in range(batch_size):
            # A column of one value has the same value in every row.
            rows.append({field: values[i % len(values)] for field, values in columns.items()})
        batch = _pad_left([self._prompt(template, row) for row in rows], self.vocabulary, return_tensors)
        if template.target.kind == "aligned":
            batch["custom_generate"] = AlignedGeneration(self.speech_lm, template, rows)
        return batch

    def _find_template(self, task: str | None, inputs: dict[str, Any]) -> Template:
        """Return the template of the task, or of the first task that reads exactly the inputs that are not None."""
        names = {name for name, value in inputs.items() if value is not None}
        optional = {"voice"} if self.info.voices else set()
        fitting = []
        descriptions = []
        for template in sorted(self.info.templates, key=_preference):
            if template.target.kind == "text" and not self._writes_only_text:
                continue
            arguments = list(dict.fromkeys(map(_argument, _input_segments(template))))
            if template.target.kind == "aligned":
                arguments.append("text")
            descriptions.append(f"{template.name} reads {', '.join(arguments)}")
            if set(arguments) - optional <= names <= set(arguments):
                fitting.append(template)
        if task is not None:
            wanted = self.info.template(task)
            if wanted.target.kind == "text" and not self._writes_only_text:
                raise ValueError(
                    f"{task} writes text, but with a model that also writes speech, `generate` of transformers writes "
                    "only speech: call SpeechLM.generate, or the function of the task, such as focallm.transcribe"
                )
            fitting = [wanted] if wanted in fitting else []
        if not fitting:
            advice = f". Its tasks have functions: {', '.join(self.info.calls)}" if self.info.calls else ""
            raise ValueError(
                f"{task or 'no task of this model'} reads exactly {', '.join(sorted(names)) or 'nothing'}: "
                f"{'; '.join(descriptions) or 'it was trained for none'}{advice}"
            )
        return fitting[0]

    @property
    def _writes_only_text(self) -> bool:
        return {template.target.kind for template in self.info.templates} == {"text"}

    def _check_voice(self, voice: str | Sequence[str] | None) -> str | Sequence[str] | None:
        """Return the voices asked for, or else the first voice of the model if it has some."""
        known = self.info.voices
        if not known:
            return voice
        if voice is None:
            return known[0]
        for name in [voice] if isinstance(voice, str) else voice:
            if name not in known:
                raise ValueError(f"no voice is called {name!r}: this model knows {', '.join(known)}")
        return voice

    def _values(self, segment: Segment, value: Any, sampling_rate: int | None) -> list[Any]:
        """Convert one item or a list of items to a list of texts, ids (N * K,) or features (N, D)."""
        if segment.kind == "text":
            return [value] if isinstance(value, str) else list(value)
        if segment.kind == "codes":
            encoded = self.audio_tokenizer(value, sampling_rate)
            masks = encoded["attention_mask"].bool()
            return [ids[mask] for ids, mask in zip(encoded["input_ids"], masks, strict=True)]
        codec = self.audio_tokenizer.codec
        features = []
        for item in value if is_batch(value) else [value]:
            wave = self.audio_tokenizer.feature_extractor.prepare(*load_audio(item, sampling_rate))
            features.append(codec.extract_features(torch.from_numpy(wave)[None].to(codec.device))[0].cpu())
        return features

    def _prompt(self, template: Template, row: dict[str, Any]) -> Prompt:
        # Plain `generate` limits the length by max_new_tokens instead.
        length = (1, 1)
        if template.target.kind == "aligned":
            # Only a start: `AlignedGeneration` reads the text.
            return template.prompt(self.vocabulary, length, units=[WORD_START], **row)
        if len(template.segments) == 1:
            return template.prompt(self.vocabulary, length, target_prefix=row[template.target.field])
        return template.prompt(self.vocabulary, length, **row)

    # Ids to audio.

    @torch.no_grad()
    def decode(self, ids: Any) -> Tensor | list[Tensor]:  # type: ignore[override]
        """Decode generated ids to audio (T,) at the codec's output rate.

        Of ids that contain `<|speech|>`, what follows the last one is decoded. Ids that are not audio are left out, and
        a row without audio ids gives no samples. The streams of a separation follow each other.

        Args:
            ids: (L,), (B, L), or a list of rows of any lengths.

        Returns:
            Audio (T,), or a list of it for several rows.

        Raises:
            ValueError: there are no audio ids, because aligned speech was generated without its text.
        """
        if isinstance(ids, list | tuple) and all(isinstance(i, int) for i in ids):
            ids = torch.tensor(ids, dtype=torch.long)
        if isinstance(ids, Tensor) and ids.ndim == 1:
            return self.decode([ids])[0]
        audios: list[Tensor] = [torch.empty(0)] * len(ids)
        rows: list[int] = []
        codes: list[list[int]] = []
        for row, row_ids in enumerate(ids):
            row_codes = self._codes(torch.as_tensor(row_ids).tolist())
            if row_codes:
                rows.append(row)
                codes.append(row_codes)
            elif self.info.writes_only_aligned_speech:
                raise ValueError(
                    "there is no speech in these ids: this model reads the text phoneme by phoneme, and `generate` of "
                    "transformers needs all that the processor returns for it, as in model.generate(**inputs), and no "
                    "batch of a pipeline: call focallm.speak(text, model=...)"
                )
        # The codec decodes only rows that have codes.
        for row, wave in zip(rows, self.audio_tokenizer.batch_decode(codes), strict=True):
            audios[row] = torch.from_numpy(wave)
        return audios

    def batch_decode(self, ids: Any) -> list[Tensor]:  # type: ignore[override]
        """Decode several rows of ids, see `decode`."""
        return [self.decode(torch.as_tensor(row)) for row in ids]  # type: ignore[misc]

    def _codes(self, ids: list[int]) -> list[int]:
        """Return the codes of whole frames in generated ids; a code at the turn of another codebook is left out."""
        speech_id = self.vocabulary.control("speech")
        if speech_id in ids:
            ids = ids[len(ids) - ids[::-1].index(speech_id) :]
        sizes = self.vocabulary.codebook_sizes
        K = len(sizes)
        codes: list[int] = []
        for code in self.vocabulary.codes(ids):
            k = len(codes) % K
            if sum(sizes[:k]) <= code < sum(sizes[: k + 1]):
                codes.append(code)
        return codes[: len(codes) // K * K]


def _preference(template: Template) -> int:
    """Order the templates that read the same inputs: aligned speech first, as in `speak`."""
    if template.target.kind == "aligned":
        return 0
    # Continuation comes last, because it takes the same arguments as tasks that have a separate target.
    return 2 if len(template.segments) == 1 else 1


def _input_segments(template: Template) -> tuple[Segment, ...]:
    """Return the input segments; if a template has only a target, the target, whose start is then the input."""
    return template.segments[:-1] or template.segments


def _argument(segment: Segment) -> str:
    """Return the name of the processor argument that fills a segment."""
    if segment.control == "voice":
        return "voice"
    if segment.control == "reference":
        return "reference_text" if segment.kind == "text" else "reference"
    return "text" if segment.kind == "text" else "audio"


def _pad_left(prompts: list[Prompt], vocabulary: Vocabulary, return_tensors: str | None) -> BatchFeature:
    width = max(len(prompt.ids) for prompt in prompts)
    pad_id = vocabulary.control("pad")
    input_ids = []
    attention_mask = []
    features = []
    for prompt in prompts:
        num_padding = width - len(prompt.ids)
        input_ids.append([pad_id] * num_padding + prompt.ids)
        attention_mask.append([0] * num_padding + [1] * len(prompt.ids))
        if prompt.features is not None:
            features.append(prompt.features)
    values: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
    if features:
        values["features"] = torch.cat(features)
    return BatchFeature(values, tensor_type=return_tensors)


AutoProcessor.register(SpeechLMConfig, SpeechLMProcessor, exist_ok=True)
