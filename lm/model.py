"""`SpeechLM`: a decoder-only transformer with its vocabulary and codec, everything that one folder holds.

B batch, L length of a sequence, K codebooks.
"""

import math
import string
from collections.abc import Generator, Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from ..data.phonemes import split_spoken, text_to_units, word_units
from ..data.pronunciation import pronounce_words
from ..tokenizer.audio_tokenizer import AudioTokenizer
from ..tokenizer.configs import errors_named
from ..tokenizer.files import whole_files
from ..tokenizer.hub import push_folder, trusts_remote_code
from ..tokenizer.remote_code import write_remote_code
from . import lora
from .card import write_lm_card
from .embeddings import EmbeddingInit, adapt_to_vocabulary, add_projector, check_init, init_from_codes
from .features import SpeechLMForConditionalGeneration, language_model
from .generation import CodeChunk, Generation, generate, stream
from .info import SpeechLMInfo
from .loading import (
    PACKAGED_MODELS,
    check_finite,
    find_folder,
    load_base,
    load_codec_of,
    load_model,
    make_llama,
    processor_config,
    read_info,
    read_lexicon,
    write_generation_config,
    write_info,
    write_processor,
)
from .lora import LoRA
from .prompt_checks import as_prompt, check_prompt, check_streamable
from .sampling import Sampling
from .templates import Prompt
from .vocabulary import Vocabulary, load_text_tokenizer


class SpeechLM:
    """A causal LM that reads and writes text and speech.

    Args:
        model: a transformers causal LM whose embedding covers the vocabulary, a `SpeechLMForConditionalGeneration`,
            which also reads features, or one of these with adapters.
        vocabulary: text, control and audio ids.
        audio_tokenizer: the codec of the audio ids.
        info: tasks, lengths and voices, saved with the model.
        lexicon: phonemes by word, for a model that reads phonemes.

    Raises:
        ValueError: model, vocabulary and codec do not fit together.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        audio_tokenizer: AudioTokenizer,
        info: SpeechLMInfo,
        lexicon: dict[str, str] | None = None,
    ) -> None:
        if vocabulary.audio_vocab_size != audio_tokenizer.vocab_size:
            raise ValueError(
                f"the vocabulary has {vocabulary.audio_vocab_size} audio ids but the codec has "
                f"{audio_tokenizer.vocab_size} tokens: this LM was trained on another codec"
            )
        rows = model.config.get_text_config().vocab_size
        if rows < len(vocabulary):
            raise ValueError(
                f"the model has {rows} rows for a vocabulary of {len(vocabulary)} ids: it has another vocabulary, or "
                "is a base; SpeechLM.from_base adds the rows"
            )
        self.model = model
        self.vocabulary = vocabulary
        self.audio_tokenizer = audio_tokenizer
        self.info = info
        self.lexicon = lexicon or {}

    def __repr__(self) -> str:
        causal_lm = language_model(self.model)
        config = causal_lm.config
        tokenizer = self.audio_tokenizer
        return (
            f"SpeechLM({type(causal_lm).__name__}, {self.model.num_parameters() / 1e6:.1f} M parameters, "
            f"{config.num_hidden_layers} layers of width {config.hidden_size}, {len(self.vocabulary)} ids; "
            f"tasks: {', '.join(self.info.tasks) or 'none'}; {len(self.info.voices)} voices; "
            f"codec: {type(tokenizer.codec).__name__}, "
            f"{tokenizer.tokens_per_second:g} tokens per second; device: {self.device})"
        )

    @classmethod
    def from_config(
        cls,
        config: str | dict[str, Any],
        audio_tokenizer: AudioTokenizer,
        vocabulary: Vocabulary | None = None,
        feature_size: int | None = None,
        embeddings: EmbeddingInit = "mean",
    ) -> "SpeechLM":
        """Make a Llama-shaped model with fresh weights.

        Args:
            config: a name in `loading.SIZES`, or fields of `transformers.LlamaConfig`.
            audio_tokenizer: the codec.
            vocabulary: by default its text tokens are the printable ASCII characters.
            feature_size: width of continuous features that the model also reads, `feature_dim` of a codec.
            embeddings: initialization of the audio rows: like every other row ("mean"), or from the codec's code
                vectors ("codec").
        """
        check_init(embeddings)
        vocabulary = vocabulary or Vocabulary.characters([string.printable], audio_tokenizer.codebook_sizes)
        model = make_llama(config, vocabulary)
        if embeddings == "codec":
            init_from_codes(model, vocabulary, audio_tokenizer.codec)
        if feature_size is not None:
            model = add_projector(model, vocabulary, feature_size)
        return cls(model, vocabulary, audio_tokenizer, SpeechLMInfo())

    @classmethod
    def from_base(
        cls,
        base: str | Path,
        audio_tokenizer: AudioTokenizer,
        feature_size: int | None = None,
        embeddings: EmbeddingInit = "mean",
        controls: Iterable[str] = (),
        **kwargs: Any,
    ) -> "SpeechLM":
        """Turn any causal LM into a speech LM.

        Args:
            base: a folder, a hub id, or "mini". A speech LM also passes on its lexicon.
            audio_tokenizer: the codec.
            feature_size: as in `from_config`.
            embeddings: initialization of new rows: the mean of the old rows ("mean"), or around it, like the codec's
                code vectors ("codec").
            controls: names of further control tokens, for custom templates.
            kwargs: as in transformers (`dtype`, float32 by default; `revision`, `token`, `attn_implementation`, ...).
        """
        check_init(embeddings)
        tokenizer = load_text_tokenizer(PACKAGED_MODELS.get(str(base), base), kwargs)
        known_ids = set(tokenizer.get_vocab().values())
        vocabulary = Vocabulary.extend(tokenizer, audio_tokenizer.codebook_sizes, controls)
        model = adapt_to_vocabulary(load_base(base, **kwargs), vocabulary, feature_size, known_ids)
        if embeddings == "codec":
            init_from_codes(model, vocabulary, audio_tokenizer.codec)
        return cls(model, vocabulary, audio_tokenizer, SpeechLMInfo(), read_lexicon(base))

    @classmethod
    def from_pretrained(cls, source: str | Path = "mini", **kwargs: Any) -> "SpeechLM":
        """Load a speech LM.

        Args:
            source: a folder that `save_pretrained` or `save_adapter` wrote, a hub id, or "mini" (in the package).
            kwargs: as in transformers (`revision`, `token`, `cache_dir`, `dtype`, ...).

        Raises:
            OSError: there is no speech LM, or none with safetensors weights, or it is an adapter whose base is missing.
            ValueError: weights or descriptions are damaged, or do not fit together.
        """
        folder = find_folder(source, kwargs)
        with errors_named(folder):
            vocabulary = Vocabulary.load(folder, trusts_remote_code(kwargs))
            info = read_info(folder)
            audio_tokenizer = load_codec_of(folder, info, kwargs)
            # The revision belongs to this repository, not to that of the base.
            kwargs.pop("revision", None)
            model = load_model(folder, source, vocabulary, {"dtype": torch.float32, **kwargs})
            return cls(model.eval(), vocabulary, audio_tokenizer, info, read_lexicon(folder))

    def save_pretrained(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write LM, vocabulary and codec into one folder, whose LM part also loads in plain transformers.

        The codec is not copied if `info` refers to it by a name ("mini") or a hub id.

        Args:
            folder: to write to.
            weights: the complete weights, if this process holds only a shard of the model.

        Raises:
            ValueError: the model has adapters, or weights that are not finite.
        """
        if lora.has_adapters(self.model):
            raise ValueError("the model has adapters: merge() them first, or write them alone with save_adapter()")
        check_finite(self.model.state_dict() if weights is None else weights)
        folder = Path(folder)
        with whole_files(folder) as temporary:
            self.model.save_pretrained(temporary, state_dict=weights)
            if isinstance(self.model, SpeechLMForConditionalGeneration):
                auto_classes = ("AutoModel", "AutoModelForCausalLM", "AutoModelForTextToWaveform")
                classes = dict.fromkeys(auto_classes, "SpeechLMForConditionalGeneration")
                classes["AutoConfig"] = "SpeechLMConfig"
                write_remote_code(temporary, CONFIG_NAME, SpeechLMForConditionalGeneration, classes)
            write_generation_config(temporary, self.model, self.vocabulary, self.audio_tokenizer, self.info)
            self._save_common_files(temporary)
        write_lm_card(folder, language_model(self.model), self.info, self.audio_tokenizer, "whole")

    def _save_common_files(self, folder: Path) -> None:
        """Write all files except the weights and the model card."""
        self.save_processor(folder)
        write_info(folder, self.info, self.lexicon)

    def push_to_hub(self, repo: str, **kwargs: Any) -> str:
        """Upload what `save_pretrained` writes, or `save_adapter` if there are adapters; see `hub.push_folder`."""
        is_adapter = lora.has_adapters(self.model)
        return push_folder(self.save_adapter if is_adapter else self.save_pretrained, repo, **kwargs)

    def save_processor(self, folder: Path) -> None:
        """Write what `AutoProcessor` loads, with a copy of the codec unless `info` refers to it elsewhere."""
        config = processor_config(self.audio_tokenizer.feature_extractor, self.vocabulary, self.info)
        write_processor(folder, config, self.vocabulary, self.audio_tokenizer)

    @property
    def code_bits(self) -> int:
        """Number of bits of a code, for a binary codec, whose codes are similar if few bits differ; 0 for others."""
        if not self.audio_tokenizer.codec.is_binary:
            return 0
        return (self.vocabulary.audio_vocab_size - 1).bit_length()

    def add_lora(
        self,
        rank: int = LoRA.rank,
        alpha: float = LoRA.alpha,
        dropout: float = LoRA.dropout,
        targets: str | list[str] = LoRA.targets,
    ) -> "SpeechLM":
        """Add adapters, and freeze all but these, the new rows and the projector; arguments as in `LoRA`."""
        adapted: Any = lora.add_lora(self.model, self.vocabulary, LoRA(rank, alpha, dropout, targets))
        self.model = adapted
        return self

    def save_adapter(self, folder: str | Path) -> None:
        """Write the weights that LoRA trains, and everything else that `from_pretrained` needs besides the base.

        Raises:
            ValueError: the model has no adapters, its base was never saved, or weights are not finite.
        """
        if not lora.has_adapters(self.model):
            raise ValueError("the model has no adapters: add_lora() makes them, save_pretrained() writes a whole model")
        check_finite(self.model.state_dict())
        folder = Path(folder)
        base = lora.base_of(self.model, folder)
        with whole_files(folder) as temporary:
            lora.save_adapter(self.model, temporary, base)
            self._save_common_files(temporary)
        write_lm_card(folder, language_model(self.model), self.info, self.audio_tokenizer, f"a LoRA adapter of {base}")

    def merge(self) -> "SpeechLM":
        """Merge the adapters into the weights, so that `model` is a plain model again.

        Raises:
            ValueError: the model has no adapters.
        """
        if not lora.has_adapters(self.model):
            raise ValueError("the model has no adapters, so there is nothing to merge")
        self.model = lora.merge(self.model)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the LM."""
        return self.model.device

    def to(self, device: str | torch.device) -> "SpeechLM":
        """Move the LM and the codec."""
        self.model.to(torch.device(device))  # type: ignore[arg-type]  # a gap in the stubs of transformers
        self.audio_tokenizer.to(device)
        return self

    def unit_window(self) -> tuple[int, int]:
        """Return the minimum and maximum number of ids for one unit of text, for a model of aligned speech.

        Raises:
            ValueError: the model was trained on other tasks.
        """
        if self.info.longest_unit_s is None:
            raise ValueError("this model was not trained on aligned speech: focallm train tts-aligned")
        K = self.audio_tokenizer.num_codebooks
        return K, K * math.ceil(self.info.longest_unit_s * self.audio_tokenizer.frame_rate)

    def units(self, text: str) -> list[str]:
        """Return the phonemes of a text, from the lexicon, or as they are guessed (see `data.pronunciation`).

        Raises:
            ValueError: the text has no word, or mainly words that the model cannot read.
        """
        return self.read(text)[0]

    def read(self, text: str) -> tuple[list[str], list[str]]:
        """Return the phonemes of a text, as `units` does, and its words as they are spoken.

        Every word has a first phoneme, which begins with "▁". Words that are left out do not count.
        """
        guess = self._guess_phonemes if "pronounce" in self.info.tasks else None
        phonemes = pronounce_words(text, self.lexicon, guess)
        words = []
        for part in split_spoken(text):
            if word_units(phonemes.get(part, "")):
                words.append(part)
        return text_to_units(text, phonemes.__getitem__), words

    def _guess_phonemes(self, words: list[str]) -> dict[str, str]:
        """Return the phonemes of words as the model spells them."""
        template = self.info.template("pronounce")
        prompts = [template.prompt(self.vocabulary, (1, 10 + 2 * len(word)), text=word) for word in words]
        phonemes = {}
        for word, generation in zip(words, self.generate(prompts, sampling=Sampling(temperature=0)), strict=True):
            decoded = str(self.vocabulary.tokenizer.decode(generation.spans[0]))
            phonemes[word] = "".join(decoded.split())
        return phonemes

    @overload
    def generate(
        self,
        prompt: Prompt | list[int] | Tensor,
        length: tuple[int, int] | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: Sequence[Prompt],
        length: None = None,
        sampling: Sampling | None = None,
        seed: int | Sequence[int] = 0,
    ) -> list[Generation]: ...

    def generate(
        self,
        prompt: Prompt | list[int] | Tensor | Sequence[Prompt],
        length: tuple[int, int] | None = None,
        sampling: Sampling | None = None,
        seed: int | Sequence[int] = 0,
    ) -> Generation | list[Generation]:
        """Generate the output of a prompt, or of each of several prompts.

        Each item depends only on its own prompt and seed, except where rounding decides (docs/tasks.md).

        Args:
            prompt: from `Template.prompt`, a list of those, or (L,) ids, which a span of codes follows.
            length: minimum and maximum number of audio ids, for plain ids only; by default all remaining positions.
            sampling: `Sampling()` by default.
            seed: of each prompt, or one for all.

        Raises:
            ValueError: as in `generation.generate`, a prompt is invalid, or the sampling needs another codec.
        """
        is_batch = isinstance(prompt, list | tuple) and any(isinstance(item, Prompt) for item in prompt)
        items: Any = prompt if is_batch else [prompt]
        sampling = sampling or Sampling()
        prompts = self.check_prompts(items, sampling, length)
        seeds: Any = [seed] * len(prompts) if isinstance(seed, Integral) else seed
        generations = generate(self.model, self.vocabulary, prompts, sampling, seeds)
        return generations if is_batch else generations[0]

    def stream(
        self, prompt: Prompt | list[int] | Tensor, sampling: Sampling | None = None, seed: int = 0, chunk: int = 25
    ) -> Generator[list[int], None, Generation]:
        """Generate the output of a prompt, and yield its codes as they are written; they equal those of `generate`.

        Args:
            prompt: one prompt with a span of codes; if it has several, the first is yielded.
            sampling: as in `generate`.
            seed: as in `generate`.
            chunk: number of codes to yield at a time; the last chunk may be smaller.

        Returns:
            A generator of lists of codes, whose return value is the `Generation`.

        Raises:
            ValueError: as in `generate`, or the prompt has no span of codes.
        """
        sampling = sampling or Sampling()
        prompts = self.check_prompts([prompt], sampling)
        check_streamable(prompts, chunk)
        return _codes_of(stream(self.model, self.vocabulary, prompts[0], sampling, seed, chunk))

    def check_prompts(
        self, prompts: Sequence[Any], sampling: Sampling, length: tuple[int, int] | None = None
    ) -> list[Prompt]:
        """Return prompts as `generate` needs them.

        Args:
            prompts: as in `generate`, but always several.
            sampling: how ids will be sampled.
            length: as in `generate`.

        Raises:
            ValueError: a prompt is invalid, too long for the model or would make it babble, or the sampling needs
                another codec.
        """
        if sampling.bitwise and not self.code_bits:
            raise ValueError("sampling: bitwise needs a codec whose codes are bits (FocalCodec): leave it out")
        checked = []
        for item in prompts:
            prompt = as_prompt(item, length, self.model, self.vocabulary.control("end"))
            self.info.check_prompt(prompt)
            check_prompt(self.model, prompt, sampling.guidance > 1)
            checked.append(prompt)
        return checked


def _codes_of(chunks: Generator[CodeChunk, None, Generation]) -> Generator[list[int], None, Generation]:
    while True:
        try:
            chunk = next(chunks)
        except StopIteration as stop:
            return stop.value
        if chunk.codes:
            yield chunk.codes
