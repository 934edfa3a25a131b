"""SemantiCodec (Liu et al., 2024, arXiv 2405.00233) through the package of its authors, which does not come with ours.

B batch, K codebooks (semantic, acoustic), N frames, T samples, D width.

AudioMAE looks at patches of 0.16 s by 16 mel bands: the 4 or 8 frames of a block are bands of the same stretch of time,
not stretches after each other. Decoding draws from a diffusion model, 10.24 s at a time however short the audio is;
the noise is seeded for each item, so that the same codes give the same sound.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.constants import HF_HUB_CACHE
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..focalcodec.checkpoint import HUB_ARGUMENTS
from .adapter import CodecAdapter, CodecConfig
from .official import read_config

NAME = "semanticodec"  # stands for the published weights
_RATE = 16000  # Hz
_SEGMENT = 163840  # samples, 10.24 s: what AudioMAE sees at once
_MEL_FRAMES = 1024  # of a segment
_PATCH = 2560  # samples, 0.16 s: the width of a patch
_BANDS = 8  # patches above each other
_INSTALL = (
    "SemantiCodec runs in the package of its authors, which is on GitHub only. In an environment of its own, with "
    "torch, torchvision and torchaudio of one build (all three from the same index): pip install "
    "git+https://github.com/haoheliu/SemantiCodec-inference timm librosa einops tqdm Pillow matplotlib requests scipy"
)


class SemantiCodecConfig(PreTrainedConfig):
    """What the package is asked for; the defaults are those of the FocalCodec paper, 650 bit/s.

    Args:
        token_rate: ids per second of both codebooks together: 25, 50 or 100.
        semantic_vocab_size: codes of the semantic codebook: 4096, 8192, 16384 or 32768; the acoustic one has 8192.
        ddim_steps: of the diffusion.
        cfg_scale: strength of the classifier-free guidance.
        seed: of the noise that decoding starts from.

    `codebook_sizes` is added where the weights are loaded: as many codes as were found there.

    Raises:
        ValueError: a rate or a size that was not published.
    """

    model_type = "focallm_semanticodec"

    token_rate: int = 50
    semantic_vocab_size: int = 8192
    ddim_steps: int = 50
    cfg_scale: float = 2.0
    seed: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        for name, published in (("token_rate", (25, 50, 100)), ("semantic_vocab_size", (4096, 8192, 16384, 32768))):
            if getattr(self, name) not in published:
                raise ValueError(f"{name} must be one of {published}, found {getattr(self, name)}")
        super().__post_init__(**kwargs)


class SemantiCodecModel(PreTrainedModel):
    """The package's model with waveforms in memory instead of files.

    Args:
        config: what the package is asked for.
        checkpoint_path: a folder with encoder.ckpt, decoder.ckpt and codebook_idx/; fetched from the hub by default.
        cache_dir: where what is fetched is kept; by default where everything of the hub is.

    Raises:
        ImportError: no such package, or it does not work here.
    """

    config_class = SemantiCodecConfig
    config: SemantiCodecConfig
    main_input_name = "waveform"

    def __init__(
        self, config: SemantiCodecConfig, checkpoint_path: str | None = None, cache_dir: str | Path | None = None
    ) -> None:
        super().__init__(config)
        try:
            from semanticodec import SemantiCodec as Official
            from semanticodec.utils import extract_kaldi_fbank_feature
        except (ImportError, RuntimeError) as error:  # builds of torch and torchvision that differ: a RuntimeError
            raise ImportError(f"{_INSTALL}\nThe import failed with: {error}") from error
        with contextlib.redirect_stdout(sys.stderr):  # it greets on stdout, which may be a table's
            self.official = Official(
                config.token_rate,
                config.semantic_vocab_size,
                ddim_sample_step=config.ddim_steps,
                cfg_scale=config.cfg_scale,
                checkpoint_path=checkpoint_path,
                cache_path=str(cache_dir or HF_HUB_CACHE),
            )
        self._mel = extract_kaldi_fbank_feature
        # A plain attribute there: it would neither move with the weights nor count among them.
        encoder = self.official.encoder
        encoder.register_buffer("centroid_npy", encoder.__dict__.pop("centroid_npy"))
        config.codebook_sizes = [len(encoder.centroid_npy), encoder.codebook_size]

    def encode(self, waveform: Tensor) -> Tensor:
        """(1, 1, T) -> codes (1, 2, N) int64, those of the package for a file with these samples."""
        wave = waveform[0].cpu()
        wave = F.pad(wave, (0, _SEGMENT - wave.shape[1] % _SEGMENT))  # a whole segment of silence after whole segments
        mel = self._mel(wave, _RATE, target_length=wave.shape[1] // _SEGMENT * _MEL_FRAMES)["ta_kaldi_fbank"]
        return self.official.encoder(mel[None].to(self.device))[:, : _frames(self.config, waveform.shape[2])].mT

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (1, 2, N) -> (1, 1, T)"""
        self.official.decoder.device = self.device  # a plain attribute, too
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.config.seed)
            return torch.from_numpy(self.official.decode(codes.mT)).float()


class SemantiCodec(CodecAdapter):
    """Always both codebooks, the semantic one first."""

    model_class = SemantiCodecModel

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "SemantiCodec":
        """Open the published weights with the package, which fetches them (4 GB) and reads its own pickles.

        Args:
            source: `"semanticodec"`, or a folder of `save_pretrained`; what lies there as encoder.ckpt, decoder.ckpt
                and codebook_idx/ is used instead of the hub's.
            num_codebooks: 2.
            kwargs: those of `SemantiCodecConfig`; `cache_dir`. Other arguments of the hub concern config.json alone.

        Raises:
            ImportError: the package is missing or does not work; the message says how it is installed.
            ValueError: one codebook, or an option that is unknown or was not published.
        """
        if num_codebooks not in (None, 2):
            raise ValueError(f"SemantiCodec decodes both of its codebooks only, found num_codebooks={num_codebooks}")
        options = {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
        if unknown := sorted(options.keys() - SemantiCodecConfig.__annotations__.keys()):
            raise ValueError(f"SemantiCodec has no options {unknown}, only {list(SemantiCodecConfig.__annotations__)}")
        saved = {} if str(source) == NAME else read_config(source, kwargs)
        named: dict[str, Any] = {**saved, **options, "name_or_path": str(source)}
        config = SemantiCodecConfig(**named)
        folder = Path(source, kwargs.get("subfolder", ""))
        weights = str(folder) if (folder / "encoder.ckpt").is_file() else None
        return cls(SemantiCodecModel(config, weights, kwargs.get("cache_dir")))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the options, not the weights: the package opens nothing but its own files, and fetches them again."""
        self.model.config.save_pretrained(folder)
        self._extractor().save_pretrained(folder)

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Number of frames for a number of samples: whole patches, one more than begun where the last is full."""
        return _frames(self.model.config, torch.as_tensor(num_samples))

    def code_vectors(self) -> list[Tensor]:
        """(codebook_size, D) of the semantic centroids and of the acoustic codebook."""
        encoder = self.model.official.encoder
        codes = torch.arange(encoder.codebook_size, device=self.device)
        return [encoder.centroid_npy, encoder.quantizer.get_output_from_indices(codes[None])[0].detach()]

    @staticmethod
    def _codebooks(config: Any) -> tuple[int, int]:
        return 2, 2

    @staticmethod
    def _describe(config: Any, num_codebooks: int) -> CodecConfig:
        sizes = tuple(config.codebook_sizes)
        stacked = 100 // config.token_rate  # patches that share a code: 1, 2 above each other, or 2 by 2
        block = _BANDS if stacked == 1 else _BANDS // 2
        return CodecConfig(
            _RATE, _PATCH * stacked // _BANDS, max(sizes), num_codebooks, sizes=sizes, frames_per_block=block
        )


def _frames(config: SemantiCodecConfig, num_samples: Any) -> Any:
    """Number of frames, as the package counts but for its rounding.

    It counts in floating point, which in 6 % of all lengths yields one more: a band of a patch behind the audio.
    """
    return (num_samples // _PATCH + 1) * (_BANDS * config.token_rate // 100)
