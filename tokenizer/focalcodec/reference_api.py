"""Methods with the names of the reference implementation, for code that was written against it.

Each runs a section of the pipeline offline, between sig (B, T) waveform, feats (B, frames, D), lats (B, N, K) unit
latents, codes (B, N, K) signs, toks (B, N) integers and qfeats (B, frames', D) decompressed features. `length` (B,) is
relative to the longest item, as in the reference.
"""

from typing import Any

import torch
from torch import Tensor

from .knn import nearest


class StageMethods:
    """Mixin of `FocalCodecModel`. New code should call `encode` and `decode`."""

    # Provided by the model.
    compressor: Any
    quantizer: Any
    decompressor: Any
    decoder: Any
    dtype: Any
    __call__: Any
    encode: Any
    extract_features: Any
    _new_state: Any

    def sig_to_feats(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, frames, D)"""
        return self.extract_features(sig, _mask(sig, length))

    def sig_to_lats(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, N, K)"""
        return self.encode(sig, _mask(sig, length)).latents

    def sig_to_toks(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, N)"""
        return self.encode(sig, _mask(sig, length)).audio_codes[:, 0]

    def sig_to_codes(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, N, K)"""
        return self.lats_to_codes(self.sig_to_lats(sig, length))

    def sig_to_qfeats(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, frames', D)"""
        return self.codes_to_qfeats(self.sig_to_codes(sig, length))

    def sig_to_sig(self, sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, T')"""
        return self(sig, _mask(sig, length)).audio_values[:, 0]

    @torch.no_grad()
    def feats_to_lats(self, feats: Tensor) -> Tensor:
        """(B, frames, D) -> (B, N, K)"""
        return self.quantizer.normalize(self.compressor(feats, None, self._new_state(feats)))

    def feats_to_toks(self, feats: Tensor) -> Tensor:
        """(B, frames, D) -> (B, N)"""
        return self.lats_to_toks(self.feats_to_lats(feats))

    def feats_to_codes(self, feats: Tensor) -> Tensor:
        """(B, frames, D) -> (B, N, K)"""
        return self.lats_to_codes(self.feats_to_lats(feats))

    def feats_to_qfeats(self, feats: Tensor) -> Tensor:
        """(B, frames, D) -> (B, frames', D)"""
        return self.codes_to_qfeats(self.feats_to_codes(feats))

    @torch.no_grad()
    def feats_to_sig(
        self,
        feats: Tensor,
        matching_set: Tensor | None = None,
        topk: int = 4,
        output_length: int | None = None,
    ) -> Tensor:
        """Decode continuous or decompressed features (B, frames, D) to a waveform (B, T); see `decode`."""
        if matching_set is not None:
            feats = self.knn(feats, matching_set, topk).mean(dim=2)
        sig = self.decoder(feats, None, self._new_state(feats))
        if output_length is None:
            return sig
        return sig[:, torch.arange(output_length, device=sig.device).clamp(max=sig.shape[1] - 1)]

    def lats_to_toks(self, lats: Tensor) -> Tensor:
        """(B, N, K) -> (B, N)"""
        return self.quantizer.codes_to_tokens(lats)

    def lats_to_codes(self, lats: Tensor) -> Tensor:
        """(B, N, K) -> (B, N, K)"""
        return self.quantizer.latents_to_codes(lats)

    def lats_to_qfeats(self, lats: Tensor) -> Tensor:
        """(B, N, K) -> (B, frames', D)"""
        return self.codes_to_qfeats(self.lats_to_codes(lats))

    def toks_to_codes(self, toks: Tensor) -> Tensor:
        """(B, N) -> (B, N, K)"""
        return self.quantizer.tokens_to_codes(toks, self.dtype)

    def toks_to_qfeats(self, toks: Tensor) -> Tensor:
        """(B, N) -> (B, frames', D)"""
        return self.codes_to_qfeats(self.toks_to_codes(toks))

    def toks_to_sig(self, toks: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N) -> (B, T); further arguments as in `feats_to_sig`."""
        return self.feats_to_sig(self.toks_to_qfeats(toks), *args, **kwargs)

    def codes_to_toks(self, codes: Tensor) -> Tensor:
        """(B, N, K) -> (B, N)"""
        return self.quantizer.codes_to_tokens(codes)

    @torch.no_grad()
    def codes_to_qfeats(self, codes: Tensor) -> Tensor:
        """(B, N, K) -> (B, frames', D)"""
        return self.decompressor(codes, None, self._new_state(codes))

    def codes_to_sig(self, codes: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, K) -> (B, T); further arguments as in `feats_to_sig`."""
        return self.feats_to_sig(self.codes_to_qfeats(codes), *args, **kwargs)

    def knn(self, feats: Tensor, matching_set: Tensor, topk: int = 4) -> Tensor:
        """Find the nearest rows (B, N, topk, D) of a matching set (P, D), nearest first."""
        return nearest(feats, matching_set, topk)


def _mask(sig: Tensor, length: Tensor | None) -> Tensor | None:
    """Convert relative lengths (B,) to a padding mask (B, T)."""
    if length is None:
        return None
    sizes = (length.to(sig.device) * sig.shape[-1]).round()[:, None]
    return torch.arange(sig.shape[-1], device=sig.device) < sizes
