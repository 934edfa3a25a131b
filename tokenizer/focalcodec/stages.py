"""The reference's method names, for code written against it: stage to stage of the pipeline, offline.

sig (B, T) waveform, feats (B, frames, D), lats (B, N, K) unit latents, codes (B, N, K) signs, toks (B, N) integers,
qfeats (B, frames', D) decompressed features. `length` (B,) is relative to the longest item, as in the reference.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .knn import nearest

if TYPE_CHECKING:
    from .modeling import FocalCodecModel as Model


class StageMethods:
    """Mixed into `FocalCodecModel`; `encode` and `decode` are the calls for new code."""

    def sig_to_feats(self: "Model", sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, frames, D)"""
        return self.extract_features(sig, _mask(sig, length))

    def sig_to_lats(self: "Model", sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, N, K)"""
        return self.encode(sig, _mask(sig, length)).latents

    def sig_to_toks(self: "Model", sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, N)"""
        return self.encode(sig, _mask(sig, length)).audio_codes[:, 0]

    def sig_to_codes(self: "Model", sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, N, K)"""
        return self.lats_to_codes(self.sig_to_lats(sig, length))

    def sig_to_qfeats(self: "Model", sig: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, T) -> (B, frames', D)"""
        return self.codes_to_qfeats(self.sig_to_codes(sig, length))

    def sig_to_sig(self: "Model", sig: Tensor, length: Tensor | None = None) -> Tensor:
        """As long as the input."""
        return self(sig, _mask(sig, length)).audio_values[:, 0]

    @torch.no_grad()
    def feats_to_lats(self: "Model", feats: Tensor) -> Tensor:
        """(B, frames, D) -> (B, N, K)"""
        return self.quantizer.normalize(self.compressor(feats, None, self._new_state(feats)))

    def feats_to_toks(self: "Model", feats: Tensor) -> Tensor:
        """(B, frames, D) -> (B, N)"""
        return self.lats_to_toks(self.feats_to_lats(feats))

    def feats_to_codes(self: "Model", feats: Tensor) -> Tensor:
        """(B, frames, D) -> (B, N, K)"""
        return self.lats_to_codes(self.feats_to_lats(feats))

    def feats_to_qfeats(self: "Model", feats: Tensor) -> Tensor:
        """(B, frames, D) -> (B, frames', D)"""
        return self.codes_to_qfeats(self.feats_to_codes(feats))

    @torch.no_grad()
    def feats_to_sig(
        self: "Model",
        feats: Tensor,
        matching_set: Tensor | None = None,
        topk: int = 4,
        num_splits: int = 1,
        output_length: int | None = None,
    ) -> Tensor:
        """Continuous or decompressed features -> sig; see `decode` for the matching set.

        num_splits is accepted and has no effect: the search is always made in pieces.
        """
        if matching_set is not None:
            feats = self.knn(feats, matching_set, topk, num_splits).mean(dim=2)
        sig = self.decoder(feats, None, self._new_state(feats))
        if output_length is None:
            return sig
        return sig[:, torch.arange(output_length, device=sig.device).clamp(max=sig.shape[1] - 1)]

    def lats_to_toks(self: "Model", lats: Tensor) -> Tensor:
        """(B, N, K) -> (B, N)"""
        return self.quantizer.codes_to_tokens(lats)

    def lats_to_codes(self: "Model", lats: Tensor) -> Tensor:
        """(B, N, K) -> (B, N, K)"""
        return self.quantizer.latents_to_codes(lats)

    def lats_to_qfeats(self: "Model", lats: Tensor) -> Tensor:
        """(B, N, K) -> (B, frames', D)"""
        return self.codes_to_qfeats(self.lats_to_codes(lats))

    def toks_to_codes(self: "Model", toks: Tensor) -> Tensor:
        """(B, N) -> (B, N, K)"""
        return self.quantizer.tokens_to_codes(toks, self.dtype)

    def toks_to_qfeats(self: "Model", toks: Tensor) -> Tensor:
        """(B, N) -> (B, frames', D)"""
        return self.codes_to_qfeats(self.toks_to_codes(toks))

    def toks_to_sig(self: "Model", toks: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Further arguments as in `feats_to_sig`."""
        return self.feats_to_sig(self.toks_to_qfeats(toks), *args, **kwargs)

    def codes_to_toks(self: "Model", codes: Tensor) -> Tensor:
        """(B, N, K) -> (B, N)"""
        return self.quantizer.codes_to_tokens(codes)

    @torch.no_grad()
    def codes_to_qfeats(self: "Model", codes: Tensor) -> Tensor:
        """(B, N, K) -> (B, frames', D)"""
        return self.decompressor(codes, None, self._new_state(codes))

    def codes_to_sig(self: "Model", codes: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Further arguments as in `feats_to_sig`."""
        return self.feats_to_sig(self.codes_to_qfeats(codes), *args, **kwargs)

    def knn(self: "Model", feats: Tensor, matching_set: Tensor, topk: int = 4, num_splits: int = 1) -> Tensor:
        """(B, N, D) and (P, D) -> the nearest rows (B, N, topk, D), nearest first."""
        return nearest(feats, matching_set, topk)


def _mask(sig: Tensor, length: Tensor | None) -> Tensor | None:
    if length is None:
        return None
    sizes = (length.to(sig.device) * sig.shape[-1]).round()[:, None]
    return torch.arange(sig.shape[-1], device=sig.device) < sizes
