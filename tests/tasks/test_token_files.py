"""Token files say which codec made them, and no other codec decodes them."""

import numpy as np
import pytest

from focallm.tasks.inference.token_files import decode_file, encode_file
from focallm.tokenizer import AudioTokenizer, read_audio, write_audio


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, 0.1 * np.random.default_rng(0).standard_normal(8001), 16000)
    return path


def test_another_codec_is_refused_with_the_command_that_works(recording, tmp_path, codec):
    AudioTokenizer(codec("mel")).save_pretrained(tmp_path / "other")
    tokens, out = tmp_path / "a.npz", tmp_path / "out.wav"
    encode_file(recording, tokens, str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"was made by the codec .*other, whose weights differ from those of mini"):
        decode_file(tokens, out)
    assert not out.exists()
    (tmp_path / "other").rename(tmp_path / "moved")  # its weights decide, not its name
    decode_file(tokens, out, str(tmp_path / "moved"))
    assert len(read_audio(out)[0]) == 8001


def test_a_file_that_names_no_codec_is_decoded_with_a_warning(recording, tmp_path, caplog):
    encode_file(recording, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        np.savez(tmp_path / "old.npz", codes=file["codes"], num_samples=file["num_samples"])
    decode_file(tmp_path / "a.npz", tmp_path / "a.flac")
    assert not caplog.messages
    decode_file(tmp_path / "old.npz", tmp_path / "old.flac")
    assert "does not say which codec made it" in caplog.text
    assert (tmp_path / "old.flac").read_bytes() == (tmp_path / "a.flac").read_bytes()
