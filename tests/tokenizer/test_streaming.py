"""Streaming equals offline processing, for any number of chunks at a time and for several streams side by side."""

import copy

import pytest
import torch
from torch import Tensor

from focallm.tokenizer import FocalCodecConfig, FocalCodecModel

CHUNK = 1280


@pytest.fixture(scope="module")
def model(codec) -> FocalCodecModel:
    return codec("tiny_50hz_causal")  # its attention window is 8 chunks: the signals below fill it several times


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 30])
def test_any_number_of_chunks_at_a_time(model: FocalCodecModel, chunks: int) -> None:
    waveform = _noise(30 * CHUNK)
    whole = model.encode(waveform)
    tokens, audio = _stream(model, waveform, chunks * CHUNK)
    assert torch.equal(tokens, whole.audio_codes)
    torch.testing.assert_close(audio, model.decode(whole.audio_codes).audio_values, atol=1e-4, rtol=0)


def test_chunks_of_changing_size(model: FocalCodecModel) -> None:
    waveform = _noise(30 * CHUNK)
    stream = model.stream()
    parts = waveform.split([CHUNK * n for n in (1, 7, 2, 11, 1, 8)], dim=1)
    tokens = torch.cat([stream.encode(part) for part in parts], dim=2)
    assert torch.equal(tokens, model.encode(waveform).audio_codes)


@pytest.mark.parametrize("name", ["lookahead 0", "window of two chunks", "no refiner"])
def test_other_causal_configurations(model: FocalCodecModel, name: str) -> None:
    config = copy.deepcopy(model.config.to_dict())
    changes = {
        "lookahead 0": {"encoder": {"lookahead_size": 0}, "decompressor": {"lookahead_size": 0}},
        "window of two chunks": {"encoder": {"window_size": 8}, "compressor": {"window_size": 3}},
        "no refiner": {"decompressor": {"lookahead_size": 0, "last_window_size": None}},
    }[name]
    parts = {part: config[part] | changes.get(part, {}) for part in ("encoder", "compressor", "decompressor")}
    other = FocalCodecModel(FocalCodecConfig(**parts, quantizer=config["quantizer"], decoder=config["decoder"])).eval()
    own = other.state_dict()
    own.update(
        {key: value for key, value in model.state_dict().items() if key in own and own[key].shape == value.shape}
    )
    other.load_state_dict(own)
    chunk = other.config.chunk_length
    assert chunk == (320 if name == "lookahead 0" else CHUNK)
    waveform = _noise(25 * chunk)
    whole = other.encode(waveform)
    for size in (chunk, 3 * chunk):
        tokens, audio = _stream(other, waveform, size)
        assert torch.equal(tokens, whole.audio_codes)
        torch.testing.assert_close(audio, other.decode(whole.audio_codes).audio_values, atol=1e-4, rtol=0)


def test_a_chunk_is_a_multiple_of_that_of_the_refiner(model: FocalCodecModel) -> None:
    config = model.config.to_dict()
    config["decompressor"]["lookahead_size"] = 5
    parts = ("encoder", "compressor", "quantizer", "decompressor", "decoder")
    assert FocalCodecConfig(**{part: config[part] for part in parts}).chunk_length == 12 * 320  # of 4 and of 6 frames


def test_streams_of_one_batch_are_reset_at_different_times(model: FocalCodecModel) -> None:
    stream = model.stream(batch_size=3)
    begin = torch.tensor([0, 4, 13])  # chunk at which the signal of each stream begins
    signals = _noise(20 * CHUNK, batch=3)
    tokens, audio = [], []
    for step in range(20):
        if step in (4, 13):
            stream.reset([int((begin == step).nonzero())] if step == 4 else begin == step)
        tokens.append(stream.encode(signals[:, step * CHUNK : (step + 1) * CHUNK]))
        audio.append(stream.decode(tokens[-1]))
    for i, start in enumerate(begin.tolist()):
        alone_tokens, alone_audio = _stream(model, signals[i : i + 1, start * CHUNK :], CHUNK)
        assert torch.equal(torch.cat(tokens[start:], dim=2)[i : i + 1], alone_tokens)
        torch.testing.assert_close(torch.cat(audio[start:], dim=2)[i : i + 1], alone_audio, atol=1e-4, rtol=0)


def test_reset_restarts_the_stream(model: FocalCodecModel) -> None:
    stream, waveform = model.stream(), _noise(3 * CHUNK + 500)
    first = stream.encode(waveform)
    stream.reset()
    assert torch.equal(stream.encode(waveform), first)


def test_an_incomplete_last_chunk(model: FocalCodecModel) -> None:
    waveform = _noise(5 * CHUNK + 700)  # the window is not full yet, so the result equals that of offline use
    tokens, audio = _stream(model, waveform, CHUNK)
    whole = model.encode(waveform)
    assert torch.equal(tokens, whole.audio_codes)
    torch.testing.assert_close(audio, model.decode(whole.audio_codes).audio_values, atol=1e-4, rtol=0)


def test_a_last_chunk_padded_with_zeros_equals_the_padded_signal(model: FocalCodecModel) -> None:
    waveform = torch.nn.functional.pad(_noise(20 * CHUNK + 700), (0, CHUNK - 700))
    tokens, _ = _stream(model, waveform, CHUNK)
    assert torch.equal(tokens, model.encode(waveform).audio_codes)


def test_an_incomplete_chunk_ends_the_stream(model: FocalCodecModel) -> None:
    stream = model.stream(batch_size=2)
    tokens = stream.encode(_noise(CHUNK + 320, batch=2))
    with pytest.raises(ValueError, match="stream 0 has ended: its last chunk was not a multiple of 1280 samples"):
        stream.encode(_noise(CHUNK, batch=2))
    stream.decode(tokens)
    with pytest.raises(ValueError, match="multiple of 4 tokens"):
        stream.decode(tokens)
    stream.reset([0])
    with pytest.raises(ValueError, match="stream 1 has ended"):
        stream.encode(_noise(CHUNK, batch=2))
    stream.reset([1])
    stream.encode(_noise(CHUNK, batch=2))


def test_memory_does_not_grow(model: FocalCodecModel) -> None:
    """The state after one long call is as small as after many short ones: it holds no views of all frames."""
    sizes = []
    for chunks in (1, 10, 20):
        stream = model.stream()
        for part in _noise(20 * CHUNK).split(chunks * CHUNK, dim=1):
            stream.decode(stream.encode(part))
        kept = [tensor for pair in stream.encoding.key_values.values() for tensor in pair]
        kept += [*stream.encoding.contexts.values(), *stream.decoding.contexts.values()]
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in kept))
    assert len(set(sizes)) == 1


def test_bad_calls_are_refused(codec, model: FocalCodecModel) -> None:
    with pytest.raises(ValueError, match="not causal"):
        codec("tiny_50hz").stream()
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        model.stream(0)
    stream = model.stream(2)
    with pytest.raises(ValueError, match="holds 2 streams, found a batch of 1"):
        stream.encode(_noise(CHUNK))
    with pytest.raises(ValueError, match="NaN"):
        stream.encode(_noise(CHUNK, batch=2).fill_(torch.nan))
    with pytest.raises(ValueError, match=r"0 \.\.\. 2047"):
        stream.decode(torch.full((2, 1, 4), 2048))


@pytest.mark.parametrize("hops", [1, 3, 7])
def test_a_small_codec_of_mel_frames_streams_frame_by_frame(hops: int) -> None:
    stack = {"type": "convnext", "hidden_dims": [16], "factors": [1], "depth": 2, "causal": True}
    config = FocalCodecConfig(
        encoder={"type": "mel", "dim": 20, "causal": True},
        compressor={**stack, "input_dim": 20, "output_dim": 6},
        quantizer={"codebook_size": 64},
        decompressor={**stack, "input_dim": 6, "output_dim": 20},
        decoder={
            "type": "wavenext", "input_dim": 20, "num_layers": 2, "dim": 16, "ffn_dim": 32, "hop_length": 320,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    small = FocalCodecModel(config).eval()
    for parameter in small.parameters():  # larger than in a new model, so that tokens vary
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape) / parameter[0].numel() ** 0.5
    assert small.stream().chunk_length == config.chunk_length == 320
    loudness = torch.logspace(-2, 0, 25 * hops + 1).repeat_interleave(320)
    waveform = _noise(25 * 320 * hops + 77) * loudness[: 25 * 320 * hops + 77]
    whole = small.encode(waveform)
    assert whole.audio_codes.shape[2] == small.num_tokens(waveform.shape[1]) == 25 * hops + 1
    assert len(whole.audio_codes.unique()) > 5
    tokens, audio = _stream(small, waveform, 320 * hops)
    assert torch.equal(tokens, whole.audio_codes)
    torch.testing.assert_close(audio, small.decode(whole.audio_codes).audio_values, atol=1e-4, rtol=0)
    # What comes later changes no token.
    changed = waveform.clone()
    changed[:, 4000:] = 0
    assert torch.equal(small.encode(changed).audio_codes[..., : 4000 // 320], whole.audio_codes[..., : 4000 // 320])


def _noise(length: int, batch: int = 1) -> Tensor:
    return 0.3 * torch.randn(batch, length, generator=torch.Generator().manual_seed(length + batch))


def _stream(model: FocalCodecModel, waveform: Tensor, size: int) -> tuple[Tensor, Tensor]:
    stream, tokens, audio = model.stream(len(waveform)), [], []
    for chunk in waveform.split(size, dim=1):
        tokens.append(stream.encode(chunk))
        audio.append(stream.decode(tokens[-1]))
    return torch.cat(tokens, dim=2), torch.cat(audio, dim=2)


def test_reset_takes_booleans_or_indices_and_nothing_else(codec):
    stream = codec("tiny_50hz_causal").stream(2)
    stream.encode(torch.zeros(2, stream.chunk_length))
    stream.reset([True, False])
    assert stream.encoding.position.tolist() == [0, 4]
    stream.reset([1])
    assert stream.encoding.position.tolist() == [0, 0]
    for wrong, message in (([2], "indices 0 ... 1"), ([True], "holds 2 streams")):
        with pytest.raises(ValueError, match=message):
            stream.reset(wrong)
