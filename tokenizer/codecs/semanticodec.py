"""SemantiCodec (Liu et al., 2024, arXiv 2405.00233). It needs the package of its authors, which is not a dependency.

AudioMAE, the encoder, sees patches of 0.16 s by 16 mel bands. Therefore the 4 or 8 frames of a block are different
bands of the same time, and do not follow each other. Decoding samples from a diffusion model, always 10.24 s at a time.
The noise is seeded for each item, so that the same codes give the same audio.

B batch, K codebooks (semantic, acoustic), N frames, T samples, D feature width.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..codec_card import write_codec_card
from ..focalcodec.checkpoint import read_config
from ..hub import HUB_ARGUMENTS
from .adapter import CodecAdapter, CodecConfig

NAME = "semanticodec"  # the name of the published weights
_SAMPLING_RATE = 16000  # Hz
_SEGMENT = 163840  # samples, 10.24 s: the input of AudioMAE
_MEL_FRAMES = 1024  # of a segment
_PATCH = 2560  # samples, 0.16 s: the width of a patch
_BANDS = 8  # patches of the same time
_PUBLISHED = {"token_rate": (25, 50, 100), "semantic_vocab_size": (4096, 8192, 16384, 32768)}
_INSTALL = (
    "SemantiCodec needs the package of its authors, which is only on GitHub. Install it into its own environment, with "
    "torch, torchvision and torchaudio of one build (all three from the same index): pip install "
    "git+https://github.com/haoheliu/SemantiCodec-inference timm librosa einops tqdm Pillow matplotlib requests scipy"
)


@strict
class SemantiCodecConfig(PreTrainedConfig):
    """Options of the package; the defaults are those of the FocalCodec paper, 650 bit/s.

    `codebook_sizes` is added when the weights are loaded.

    Args:
        token_rate: ids per second of both codebooks together: 25, 50 or 100.
        semantic_vocab_size: codes of the semantic codebook: 4096, 8192, 16384 or 32768. The acoustic one has 8192.
        ddim_steps: steps of the diffusion.
        cfg_scale: strength of the classifier-free guidance.
        seed: of the noise from which decoding starts.

    Raises:
        ValueError: A rate or a size that was not published.
    """

    model_type = "focallm_semanticodec"

    token_rate: int = 50
    semantic_vocab_size: int = 8192
    ddim_steps: int = 50
    cfg_scale: float = 2.0
    seed: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        for name, published in _PUBLISHED.items():
            if getattr(self, name) not in published:
                raise ValueError(f"{name} must be one of {published}, found {getattr(self, name)}")
        super().__post_init__(**kwargs)


class SemantiCodecModel(PreTrainedModel):
    """The model of the package, for waveforms in memory instead of files.

    Args:
        config: options of the package.
        checkpoint_path: a folder with encoder.ckpt, decoder.ckpt and codebook_idx/. They are downloaded by default.
        cache_dir: folder for downloads; by default the cache of the hub.

    Raises:
        ImportError: The package is missing, or does not work here.
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
        except (ImportError, RuntimeError) as error:
            # Different builds of torch and torchvision raise a RuntimeError.
            raise ImportError(f"{_INSTALL}\nThe import failed with: {error}") from error
        # The package prints a greeting, but stdout may be a table.
        with contextlib.redirect_stdout(sys.stderr):
            self.official = Official(
                config.token_rate,
                config.semantic_vocab_size,
                ddim_sample_step=config.ddim_steps,
                cfg_scale=config.cfg_scale,
                checkpoint_path=checkpoint_path,
                cache_path=str(cache_dir or HF_HUB_CACHE),
            )
        self._mel = extract_kaldi_fbank_feature
        # A plain attribute would neither move to a device with the weights nor be hashed with them.
        encoder = self.official.encoder
        encoder.register_buffer("centroid_npy", encoder.__dict__.pop("centroid_npy"))
        config.codebook_sizes = [len(encoder.centroid_npy), encoder.codebook_size]

    def encode(self, waveform: Tensor) -> Tensor:
        """(1, 1, T) -> codes (1, 2, N) int64, those of the package for a file with these samples."""
        samples = waveform[0].cpu()
        # As in the package, a segment of silence follows whole segments.
        samples = F.pad(samples, (0, _SEGMENT - samples.shape[1] % _SEGMENT))
        num_mel_frames = samples.shape[1] // _SEGMENT * _MEL_FRAMES
        mel = self._mel(samples, _SAMPLING_RATE, target_length=num_mel_frames)["ta_kaldi_fbank"]
        codes = self.official.encoder(mel[None].to(self.device))
        return codes[:, : _count_frames(self.config, waveform.shape[2])].mT

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (1, 2, N) -> (1, 1, T)"""
        # This attribute does not follow when the weights are moved.
        self.official.decoder.device = self.device
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.config.seed)
            return torch.from_numpy(self.official.decode(codes.mT)).float()


class SemantiCodec(CodecAdapter):
    """SemantiCodec with the methods of `FocalCodecModel`. It always uses both codebooks, the semantic one first."""

    model_class = SemantiCodecModel

    @classmethod
    def from_pretrained(cls, source: str | Path, num_codebooks: int | None = None, **kwargs: Any) -> "SemantiCodec":
        """Load the published weights with the package, which downloads them (4 GB) and reads its own pickles.

        Args:
            source: `"semanticodec"`, or a folder of `save_pretrained`. If the folder also holds encoder.ckpt,
                decoder.ckpt and codebook_idx/, nothing is downloaded.
            num_codebooks: 2.
            kwargs: fields of `SemantiCodecConfig`, and `cache_dir`. Other options of the hub are for config.json only.

        Raises:
            ImportError: The package is missing or does not work; the message says how to install it.
            ValueError: One codebook, or an option that is unknown or was not published.
        """
        if num_codebooks not in (None, 2):
            raise ValueError(f"SemantiCodec decodes both of its codebooks only, found num_codebooks={num_codebooks}")
        options = {key: value for key, value in kwargs.items() if key not in HUB_ARGUMENTS}
        known = SemantiCodecConfig.__annotations__
        unknown = sorted(options.keys() - known.keys())
        if unknown:
            raise ValueError(f"SemantiCodec has no options {unknown}, only {list(known)}")
        saved = {} if str(source) == NAME else read_config(source, kwargs)
        fields: dict[str, Any] = {**saved, **options, "name_or_path": str(source)}
        config = SemantiCodecConfig(**fields)
        folder = Path(source, kwargs.get("subfolder", ""))
        weights = str(folder) if (folder / "encoder.ckpt").is_file() else None
        return cls(SemantiCodecModel(config, weights, kwargs.get("cache_dir")))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the options, but not the weights: the package can only read its own files, and downloads them again."""
        self.model.config.save_pretrained(folder)
        self.make_feature_extractor().save_pretrained(folder)
        write_codec_card(folder, self)

    def num_tokens(self, num_samples: Tensor | int) -> Tensor:
        """Return the number of frames for a number of samples, in whole patches. A full last patch adds another one."""
        return _count_frames(self.model.config, torch.as_tensor(num_samples))

    def code_vectors(self) -> list[Tensor]:
        """Return (codebook_size, D) of the semantic and of the acoustic codebook."""
        encoder = self.model.official.encoder
        codes = torch.arange(encoder.codebook_size, device=self.device)
        return [encoder.centroid_npy, encoder.quantizer.get_output_from_indices(codes[None])[0].detach()]

    @staticmethod
    def _count_codebooks(config: Any) -> tuple[int, int]:
        return 2, 2

    @staticmethod
    def _make_config(config: Any, num_codebooks: int) -> CodecConfig:
        sizes = tuple(config.codebook_sizes)
        # A code stands for one patch, two patches above each other, or two by two.
        patches_per_code = 100 // config.token_rate
        return CodecConfig(
            sampling_rate=_SAMPLING_RATE,
            samples_per_token=_PATCH * patches_per_code // _BANDS,
            codebook_size=max(sizes),
            num_quantizers=num_codebooks,
            sizes=sizes,
            frames_per_block=_BANDS if patches_per_code == 1 else _BANDS // 2,
        )


def _count_frames(config: SemantiCodecConfig, num_samples: Any) -> Any:
    """Return the number of frames for a number of samples (an int or a tensor)."""
    # The package computes this in floating point. In 6 % of all lengths that gives one frame more, a band of a patch
    # after the end of the audio.
    return (num_samples // _PATCH + 1) * (_BANDS * config.token_rate // 100)
