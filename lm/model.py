"""A decoder-only transformer with a vocabulary and a codec: everything that one folder holds.

B batch, L length of a sequence.
"""

import json
import re
import string
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from ..data.token_store import write_whole
from ..tokenizer import AudioTokenizer
from ..tokenizer.focalcodec.loading import load_strictly, read_json
from .generation import Generation, LengthWindow, Sampling, generate
from .vocabulary import Vocabulary

MINI = Path(__file__).parent / "weights" / "mini"  # the weights inside the package
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 768},
}
_FILE = "speech_lm.json"


@dataclass(frozen=True)
class SpeechLMInfo:
    """What a saved speech LM says about itself (`speech_lm.json`)."""

    task: str
    audio_tokenizer: str = "audio_tokenizer"  # "mini", a hub id, or a path relative to the folder, where a copy stands
    length_window: LengthWindow | None = None  # seconds of speech per character, seen in training
    voices: tuple[str, ...] = ()  # speakers seen in training


class SpeechLM:
    """A causal LM that reads and writes text and speech.

    Args:
        model: any transformers causal LM whose embedding covers the vocabulary.
        vocabulary: text, control and audio ids.
        audio_tokenizer: the codec whose codes the audio ids stand for.
        info: task, lengths and voices, saved with the model.
    """

    def __init__(
        self, model: PreTrainedModel, vocabulary: Vocabulary, audio_tokenizer: AudioTokenizer, info: SpeechLMInfo
    ) -> None:
        if vocabulary.audio_vocab_size != audio_tokenizer.vocab_size:
            raise ValueError(
                f"the vocabulary has {vocabulary.audio_vocab_size} audio ids but the codec has "
                f"{audio_tokenizer.vocab_size} tokens: this LM was trained on another codec"
            )
        self.model, self.vocabulary, self.audio_tokenizer, self.info = model, vocabulary, audio_tokenizer, info

    @classmethod
    def from_config(
        cls,
        config: str | dict[str, Any],
        audio_tokenizer: AudioTokenizer,
        vocabulary: Vocabulary | None = None,
        task: str = "tts",
    ) -> "SpeechLM":
        """A fresh Llama-shaped model.

        Args:
            config: a name in `SIZES`, or fields of `transformers.LlamaConfig`.
            audio_tokenizer: the codec.
            vocabulary: of the text; without one its units are the printable characters of ASCII.
        """
        if isinstance(config, str) and config not in SIZES:
            raise ValueError(f"no LM size is called {config!r}: choose from {list(SIZES)} or give LlamaConfig fields")
        fields = SIZES[config] if isinstance(config, str) else config
        vocabulary = vocabulary or Vocabulary.characters([string.printable], audio_tokenizer.vocab_size)
        llama = LlamaConfig(
            **{"max_position_embeddings": 4096, "tie_word_embeddings": True, **fields},
            vocab_size=vocabulary.padded_size,
            pad_token_id=vocabulary.control("pad"),
            bos_token_id=None,
            eos_token_id=vocabulary.control("end"),
        )
        return cls(AutoModelForCausalLM.from_config(llama), vocabulary, audio_tokenizer, SpeechLMInfo(task))

    @classmethod
    def from_base(cls, base: str | Path, audio_tokenizer: AudioTokenizer, task: str = "tts") -> "SpeechLM":
        """Turn any causal LM (folder or hub id) into a speech LM: new rows start at the mean of the old ones."""
        vocabulary = Vocabulary.extend(AutoTokenizer.from_pretrained(base), audio_tokenizer.vocab_size)
        model = load_strictly(AutoModelForCausalLM.from_pretrained, base, (), {}, None)
        model.resize_token_embeddings(len(vocabulary), pad_to_multiple_of=64, mean_resizing=True)
        return cls(model, vocabulary, audio_tokenizer, SpeechLMInfo(task))

    @classmethod
    def from_pretrained(cls, source: str | Path = "mini", **kwargs: Any) -> "SpeechLM":
        """Load a folder that `save_pretrained` wrote, a hub id, or `"mini"`, the weights inside the package.

        Raises:
            OSError: nothing there, or no speech LM, or no safetensors weights.
            ValueError: weights or descriptions that are damaged or do not fit.
        """
        folder = _folder(source)
        values = read_json(folder / _FILE)
        try:
            window = values.pop("length_window")
            voices = tuple(values.pop("voices"))
            info = SpeechLMInfo(**values, length_window=window and LengthWindow(**window), voices=voices)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{folder / _FILE} does not describe a speech LM ({error}): train or copy it again"
            ) from None
        codec = folder / info.audio_tokenizer
        audio_tokenizer = AudioTokenizer.from_pretrained(codec if codec.is_dir() else info.audio_tokenizer)
        options = {"dtype": torch.float32, **kwargs}
        model = load_strictly(AutoModelForCausalLM.from_pretrained, folder, (), options, None)
        return cls(model.eval(), Vocabulary.load(folder), audio_tokenizer, info)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write LM, vocabulary and codec into one folder; the LM part opens in plain transformers.

        A codec that `info` names ("mini", a hub id) is not copied.
        """
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.vocabulary.save(folder)
        if self.info.audio_tokenizer == "audio_tokenizer":
            self.audio_tokenizer.save_pretrained(folder / "audio_tokenizer")
        write_whole(folder / _FILE, json.dumps(asdict(self.info), indent=1).encode())

    @property
    def device(self) -> torch.device:
        """Where the LM is."""
        return self.model.device

    def to(self, device: str | torch.device) -> "SpeechLM":
        """Move the LM and the codec."""
        self.model.to(torch.device(device))  # type: ignore[arg-type]  # the stub of transformers misses torch's own
        self.audio_tokenizer.to(device)
        return self

    def generate(
        self,
        prompt: list[int] | Tensor,
        length: tuple[int, int] | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Generation:
        """Write the speech that follows a prompt.

        Args:
            prompt: (L,) ids, up to and including `<|speech|>`.
            length: the fewest and the most audio ids to write; the end token is impossible before the fewest. By
                default as many as the model has positions for.
            sampling: how; `Sampling()` by default.
            seed: of the sampling.
        """
        if isinstance(prompt, str):
            raise ValueError("a prompt is a list of ids, found a text: make one with a template, as focallm.tasks does")
        prompt = torch.as_tensor(prompt, device=self.device)
        length = length or (1, self.model.config.max_position_embeddings - len(prompt))
        return generate(self.model, self.vocabulary, prompt, length, sampling or Sampling(), seed)


def _folder(source: str | Path) -> Path:
    """A folder with a speech LM, from "mini", its path, or a hub id."""
    folder = MINI if str(source) == "mini" else Path(source)
    if not folder.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)):
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "*.md"]))
        except (OSError, HfHubHTTPError) as error:
            raise OSError(f"{source} is no folder, and the hub does not give it: {error}") from None
    if not (folder / _FILE).is_file():
        raise OSError(
            f"{folder} holds no {_FILE}, so it is not a speech LM: name the `model` folder of a training run "
            "(focallm train), a hub id, or mini"
        )
    return folder
