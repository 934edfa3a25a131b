"""A decoder-only transformer with a vocabulary and a codec: everything that one folder holds.

B batch, L length of a sequence.
"""

import json
import math
import string
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict
from numbers import Integral
from pathlib import Path
from typing import Any, overload

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, PreTrainedModel

from ..data.phonemes import PAUSES, spell_out, text_to_units
from ..tokenizer import AudioTokenizer
from ..tokenizer.files import whole_files, write_whole
from . import lora
from .embeddings import EmbeddingInit, adapt_to_vocabulary, add_projector, check_init, init_from_codes
from .features import language_model, max_positions
from .generation import Generation, as_prompt, generate, stream
from .info import INFO_FILE, SpeechLMInfo
from .loading import HUB, LEXICON_FILE, find_folder, load_base, load_model, read_info, read_lexicon, write_card
from .lora import LoRA
from .processor import SpeechLMProcessor, speech_generation_config
from .sampling import Sampling
from .templates import Prompt
from .vocabulary import Vocabulary

_TOGETHER = 16  # prompts of a batch: more would be faster on some machines, and too much for others

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 768},
}


class SpeechLM:
    """A causal LM that reads and writes text and speech.

    Args:
        model: any transformers causal LM whose embedding covers the vocabulary, a `SpeechLMForConditionalGeneration`
            (which reads features too), or one of these with adapters.
        vocabulary: text, control and audio ids.
        audio_tokenizer: the codec whose codes the audio ids stand for.
        info: task, lengths and voices, saved with the model.
        lexicon: phonemes by word, for a model that reads phonemes.
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
        self.model, self.vocabulary, self.audio_tokenizer, self.info = model, vocabulary, audio_tokenizer, info
        self.lexicon = lexicon or {}

    @classmethod
    def from_config(
        cls,
        config: str | dict[str, Any],
        audio_tokenizer: AudioTokenizer,
        vocabulary: Vocabulary | None = None,
        feature_size: int | None = None,
        embeddings: EmbeddingInit = "mean",
    ) -> "SpeechLM":
        """A fresh Llama-shaped model.

        Args:
            config: a name in `SIZES`, or fields of `transformers.LlamaConfig`.
            audio_tokenizer: the codec.
            vocabulary: of the text; without one its units are the printable characters of ASCII.
            feature_size: width of the continuous features that it also reads, the codec's `feature_dim`.
            embeddings: where audio rows start: as every other row ("mean"), or at the codec's code vectors ("codec").
        """
        check_init(embeddings)
        if isinstance(config, str) and config not in SIZES:
            raise ValueError(f"no LM size is called {config!r}: choose from {list(SIZES)} or give LlamaConfig fields")
        fields = SIZES[config] if isinstance(config, str) else config
        vocabulary = vocabulary or Vocabulary.characters([string.printable], audio_tokenizer.codebook_sizes)
        llama = LlamaConfig(
            **{"max_position_embeddings": 4096, "tie_word_embeddings": True, **fields},
            vocab_size=vocabulary.padded_size,
            pad_token_id=vocabulary.control("pad"),
            bos_token_id=None,
            eos_token_id=vocabulary.control("end"),
        )
        model = AutoModelForCausalLM.from_config(llama)
        if embeddings == "codec":
            init_from_codes(model, vocabulary, audio_tokenizer)
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
            base: a folder or hub id.
            audio_tokenizer: the codec.
            feature_size: as in `from_config`.
            embeddings: where audio rows start: at the mean of the old rows ("mean"), or around it, as the codec's code
                vectors lie ("codec").
            controls: names of further control tokens, for templates of your own.
            kwargs: as in transformers (`dtype`, float32 by default; `revision`, `token`, `attn_implementation`, ...).
        """
        check_init(embeddings)
        hub = {key: kwargs[key] for key in HUB if key in kwargs}
        tokenizer = AutoTokenizer.from_pretrained(base, **hub)
        known = set(tokenizer.get_vocab().values())
        vocabulary = Vocabulary.extend(tokenizer, audio_tokenizer.codebook_sizes, controls)
        model = adapt_to_vocabulary(load_base(base, **kwargs), vocabulary, feature_size, known)
        if embeddings == "codec":
            init_from_codes(model, vocabulary, audio_tokenizer)
        return cls(model, vocabulary, audio_tokenizer, SpeechLMInfo())

    @classmethod
    def from_pretrained(cls, source: str | Path = "mini", **kwargs: Any) -> "SpeechLM":
        """Load a folder that `save_pretrained` or `save_adapter` wrote, a hub id, or `"mini"`, the weights inside.

        kwargs are those of transformers (`revision`, `token`, `cache_dir`, `dtype`, ...).

        Raises:
            OSError: nothing there, or no speech LM, or no safetensors weights, or an adapter whose base is gone.
            ValueError: weights or descriptions that are damaged or do not fit.
        """
        hub = {key: kwargs.pop(key) for key in HUB if key in kwargs}
        folder = find_folder(source, **hub)
        hub.pop("revision", None)  # of this repository, not of the codec's or base's
        info, vocabulary = read_info(folder), Vocabulary.load(folder)
        codec = folder / info.audio_tokenizer
        audio_tokenizer = AudioTokenizer.from_pretrained(codec if codec.is_dir() else info.audio_tokenizer, **hub)
        model = load_model(folder, source, vocabulary, {"dtype": torch.float32, **hub, **kwargs})
        return cls(model.eval(), vocabulary, audio_tokenizer, info, read_lexicon(folder))

    def save_pretrained(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write LM, vocabulary and codec into one folder; the LM part opens in plain transformers.

        A codec that `info` names ("mini", a hub id) is not copied.

        Args:
            folder: where to.
            weights: whole ones, where this process holds but a shard of the model.

        Raises:
            ValueError: the model has adapters.
        """
        if isinstance(self.model, PeftModel):
            raise ValueError("the model has adapters: merge() them first, or write them alone with save_adapter()")
        folder = Path(folder)
        with whole_files(folder) as temporary:
            self.model.save_pretrained(temporary, state_dict=weights)
            self._plain_generation().save_pretrained(temporary)
        self._save_the_rest(folder, "whole")

    def _save_the_rest(self, folder: Path, kind: str) -> None:
        self.processor().save_pretrained(folder)
        facts = {
            "weights": f"{kind}, {type(language_model(self.model)).__name__}",
            "tasks": ", ".join(template.name for template in self.info.templates) or "none yet",
            "codec": f"{self.info.audio_tokenizer}, {self.audio_tokenizer.tokens_per_second:g} tokens per second",
            "parameters": f"{language_model(self.model).num_parameters() / 1e6:.1f} M",
        }
        write_card(folder, facts)
        self.save_info(folder)

    def save_info(self, folder: Path) -> None:
        """Write what the model knows about itself, and its lexicon."""
        write_whole(folder / INFO_FILE, json.dumps(asdict(self.info), indent=1).encode())
        if self.lexicon:
            write_whole(folder / LEXICON_FILE, json.dumps(self.lexicon, ensure_ascii=False, indent=0).encode())

    def processor(self) -> SpeechLMProcessor:
        """What `AutoProcessor` gives for the saved folder, around this codec."""
        tokenizer, sizes = self.vocabulary.tokenizer, self.vocabulary.codebook_sizes
        return SpeechLMProcessor(
            self.audio_tokenizer.feature_extractor, tokenizer, sizes, self.info, self.audio_tokenizer
        )

    def _plain_generation(self) -> GenerationConfig:
        rows = self.model.config.get_text_config().vocab_size
        return speech_generation_config(
            self.vocabulary, self.audio_tokenizer, rows, max_positions(self.model), self.info.templates
        )

    @property
    def code_bits(self) -> int:
        """Bits of a code, where codes that differ in few of them are alike (binary quantizers); 0 for other codecs."""
        binary = self.audio_tokenizer.codec.is_binary
        return (self.vocabulary.audio_vocab_size - 1).bit_length() if binary else 0

    def add_lora(
        self,
        rank: int = LoRA.rank,
        alpha: float = LoRA.alpha,
        dropout: float = LoRA.dropout,
        targets: str | list[str] = LoRA.targets,
    ) -> "SpeechLM":
        """Train only adapters, the new rows and the projector from now on; arguments as `lora.LoRA`."""
        adapted: Any = lora.add_lora(self.model, self.vocabulary, LoRA(rank, alpha, dropout, targets))
        self.model = adapted
        return self

    def save_adapter(self, folder: str | Path) -> None:
        """Write what LoRA trains, and everything that `from_pretrained` needs beside the base.

        Raises:
            ValueError: no adapters, or a base that was never saved.
        """
        if not isinstance(self.model, PeftModel):
            raise ValueError("the model has no adapters: add_lora() makes them, save_pretrained() writes a whole model")
        folder = Path(folder)
        base = lora.base_of(self.model, folder)
        with whole_files(folder) as temporary:
            lora.save_adapter(self.model, temporary, base)
        self._save_the_rest(folder, f"a LoRA adapter of {base}")

    def merge(self) -> "SpeechLM":
        """Put the adapters into the weights: `model` is then a plain one.

        Raises:
            ValueError: no adapters.
        """
        if not isinstance(self.model, PeftModel):
            raise ValueError("the model has no adapters, so there is nothing to merge")
        self.model = lora.merge(self.model)
        return self

    @property
    def device(self) -> torch.device:
        """Where the LM is."""
        return self.model.device

    def to(self, device: str | torch.device) -> "SpeechLM":
        """Move the LM and the codec."""
        self.model.to(torch.device(device))  # type: ignore[arg-type]  # the stub of transformers misses torch's own
        self.audio_tokenizer.to(device)
        return self

    def unit_window(self) -> tuple[int, int]:
        """Fewest and most ids for one unit of text, in a model of aligned speech.

        Raises:
            ValueError: it is none.
        """
        if self.info.longest_unit_s is None:
            raise ValueError("this model was not trained on aligned speech: focallm train tts-aligned")
        K = self.audio_tokenizer.num_codebooks
        return K, K * math.ceil(self.info.longest_unit_s * self.audio_tokenizer.frame_rate)

    def units(self, text: str) -> list[str]:
        """How a text is said, in the phonemes that the model reads: from the lexicon, or as the model spells a word.

        Raises:
            ValueError: no word in the text.
        """
        unknown = [word for word in dict.fromkeys(spell_out(text)) if word not in {*PAUSES, *self.lexicon}]
        return text_to_units(text, {**self.lexicon, **self._pronounce(unknown)}.__getitem__)

    def _pronounce(self, words: list[str]) -> dict[str, str]:
        """The phonemes of words that the lexicon lacks, as the model spells them."""
        if not words:
            return {}
        template = next((t for t in self.info.templates if t.name == "pronounce"), None)
        if template is None:
            raise ValueError(
                f"the model's lexicon lacks {', '.join(words)}, and it has not learnt to pronounce: train it with the "
                "task pronounce, too, as configs/mini/speech.yaml does, or put the phonemes into lexicon.json"
            )
        prompts = [template.prompt(self.vocabulary, (1, 10 + 2 * len(word)), text=word) for word in words]
        written = self.generate(prompts, sampling=Sampling(temperature=0))
        said = ["".join(str(self.vocabulary.tokenizer.decode(one.spans[0])).split()) for one in written]
        return dict(zip(words, said, strict=True))

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
        """Write what follows a prompt, or each of several, `_TOGETHER` at a time.

        Args:
            prompt: what `Template.prompt` makes, a list of those, or (L,) ids after which codes follow.
            length: for ids only: the fewest and the most audio ids to write; the end token is impossible before the
                fewest. By default as many as the model has positions for.
            sampling: how; `Sampling()` by default.
            seed: of the sampling; of each prompt, or one for all. An item of a batch gets what it gets alone.

        Raises:
            ValueError: no prompt, or one that the model cannot read; see `generation.generate`.
        """
        batch = isinstance(prompt, list | tuple) and any(isinstance(one, Prompt) for one in prompt)
        given: Any = prompt if batch else [prompt]
        prompts = [as_prompt(one, length, self.model, self.vocabulary.control("end")) for one in given]
        given_seeds: Any = seed
        seeds = [given_seeds] * len(prompts) if isinstance(seed, Integral) else list(given_seeds)
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, or one for all, found {len(seeds)}")
        sampling = self._checked(sampling or Sampling())
        generations = [
            generation
            for start in range(0, len(prompts), _TOGETHER)
            for generation in generate(
                self.model,
                self.vocabulary,
                prompts[start : start + _TOGETHER],
                sampling,
                seeds[start : start + _TOGETHER],
            )
        ]
        return generations if batch else generations[0]

    def stream(
        self, prompt: Prompt | list[int] | Tensor, sampling: Sampling | None = None, seed: int = 0, chunk: int = 25
    ) -> Generator[list[int], None, Generation]:
        """Write what follows a prompt and give its codes while they come; together they are those of `generate`.

        Args:
            prompt: one prompt with a span of codes; if it has several, the first is given.
            sampling: as `generate`.
            seed: as `generate`.
            chunk: codes at a time; the last ones can be fewer.

        Returns:
            A generator of lists of codes, whose return value is the `Generation`.
        """
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 code, found {chunk}")
        prompt = as_prompt(prompt, None, self.model, self.vocabulary.control("end"))
        if "codes" not in [phase.kind for phase in prompt.phases]:
            raise ValueError("nothing but text is to be written: only codes are streamed; call generate")
        return stream(self.model, self.vocabulary, prompt, self._checked(sampling or Sampling()), seed, chunk)

    def _checked(self, sampling: Sampling) -> Sampling:
        if sampling.bitwise and not self.code_bits:
            raise ValueError("sampling: bitwise needs a codec whose codes are bits (FocalCodec): leave it out")
        return sampling
