"""Mistakes in the YAML file of a mix are named."""

import pytest
import yaml

from focallm.data.mixing.mix_config import MixConfig
from focallm.tokenizer.configs import load_config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "loud"}, "kind: expected one of 'noisy', 'mixture', 'pitch_shifted', found 'loud'"),
        ({}, r"missing keys \['kind'\]"),
        ({"kind": "noisy", "snr": [0, 1]}, r"unknown keys \['snr'\]; known keys: kind, seed"),
        ({"kind": "noisy"}, "kind noisy needs noise or room_probability"),
        ({"kind": "noisy", "noise": {"colored": 1}}, "noise and snr_db need each other"),
        ({"kind": "noisy", "snr_db": [0, 5], "room_probability": 1, "rt60_s": [0.2, 0.3]}, "noise and snr_db need"),
        ({"kind": "noisy", "room_probability": 0.5}, "room_probability above 0 and rt60_s need each other"),
        ({"kind": "noisy", "room_probability": 0.5, "rt60_s": [0.2, 5]}, "rt60_s must be .* within 0.1 ... 1.0"),
        ({"kind": "noisy", "noise": {"rain": 1}, "snr_db": [0, 1]}, r"noise must map recorded, .* found \['rain'\]"),
        ({"kind": "noisy", "noise": {"colored": 2}, "snr_db": [0, 1]}, "colored must be a probability"),
        ({"kind": "noisy", "noise": {"colored": 0.6, "babble": 0.6}, "snr_db": [0, 1]}, "must sum to at most 1"),
        ({"kind": "noisy", "noise": ["babble"], "snr_db": [0, 1]}, r"noise: expected a mapping, found \['babble'\]"),
        ({"kind": "noisy", "noise": {"colored": 1}, "snr_db": [5, 0]}, r"snr_db must be \[low, high\]"),
        ({"kind": "noisy", "noise": {"colored": 1}, "snr_db": 5}, "snr_db: expected a list of 2 .*found 5"),
        ({"kind": "noisy", "noise": {"colored": 1}, "snr_db": [0, 1], "copies": 0}, "copies must be at least 1"),
        ({"kind": "noisy", "pitch": [1, 2]}, "pitch needs kind pitch_shifted, found kind noisy"),
        ({"kind": "pitch_shifted", "pitch": [1, 2]}, "kind pitch_shifted needs formants"),
        ({"kind": "mixture", "num_speakers": [2, 2.5]}, r"num_speakers: expected .* found \[2, 2.5\]"),
        ({"kind": "mixture", "talkers": [2, 2]}, r"unknown keys \['talkers'\]; known keys: .*num_speakers"),
        ({"kind": "mixture", "num_speakers": [1, 2]}, "num_speakers must be"),
        ({"kind": "mixture", "num_speakers": [2, 2], "offset_s": [0, 1]}, "kind mixture needs level_difference_db"),
        ({"kind": "mixture", "room_probability": 0.1}, "room_probability needs kind noisy, found kind mixture"),
    ],
)
def test_mistakes_are_named(values, message, tmp_path):
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        load_config(MixConfig, tmp_path / "mix.yaml")
