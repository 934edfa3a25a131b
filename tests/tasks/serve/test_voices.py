"""The folder of uploaded voices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from focallm.tasks.serve.voices import MAX_VOICES, VoiceError, VoiceStore

AUDIO = 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    return VoiceStore(tmp_path / "voices")


def test_a_voice_is_stored_listed_read_and_deleted(store):
    assert store.list() == []
    store.add("ann", "I agree.", AUDIO, 16000)
    other_server = VoiceStore(store.folder)
    (voice,) = other_server.list()
    assert (voice.name, voice.consent, voice.seconds) == ("ann", "I agree.", 0.5)
    audio, rate = other_server.read("ann")
    assert rate == 16000
    np.testing.assert_allclose(audio, AUDIO, atol=1e-4)
    assert other_server.delete("ann")
    assert store.list() == []
    assert not store.delete("ann")
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../up", "a/b", "a\\b", "/etc/passwd", "a.b", "a\n", "a\r\nX: 1", "é", "a" * 65, "-a", "a\0"],
)
def test_names_that_could_be_paths_or_headers_are_refused(store, name):
    with pytest.raises(VoiceError, match="name"):
        store.add(name, "I agree.", AUDIO, 16000)
    assert store.find(name) is None
    assert not store.delete(name)
    assert not store.folder.exists()


@given(st.text())
def test_no_name_leaves_the_folder(name):
    store = VoiceStore.__new__(VoiceStore)
    store.folder = None  # any use of it fails
    try:
        store.find(name)
    except TypeError:
        assert all(character.isascii() and (character.isalnum() or character in "-_") for character in name)


def test_a_name_is_taken_in_any_case_and_consent_is_needed(store):
    store.add("Ann", "I agree.", AUDIO, 16000)
    with pytest.raises(VoiceError, match="there is a voice ann already"):
        store.add("ann", "I agree.", AUDIO, 16000)
    with pytest.raises(VoiceError, match="consent"):
        store.add("bob", " ", AUDIO, 16000)


def test_the_folder_is_bounded(store, monkeypatch):
    monkeypatch.setattr("focallm.tasks.serve.voices.MAX_VOICES", 1)
    store.add("ann", "I agree.", AUDIO, 16000)
    with pytest.raises(VoiceError, match="1 voices"):
        store.add("bob", "I agree.", AUDIO, 16000)
    assert MAX_VOICES > 1


def test_files_of_others_in_the_folder_are_no_voices(store):
    store.add("ann", "I agree.", AUDIO, 16000)
    (store.folder / "other.json").write_text("{}")
    (store.folder / "broken.json").write_text("{")
    (store.folder / "list.json").write_text("[]")
    assert [voice.name for voice in store.list()] == ["ann"]
