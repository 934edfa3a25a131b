"""What the card of a speech LM says."""

import dataclasses
import re
from pathlib import Path

import pytest

import focallm
from focallm.lm import SpeechLM, SpeechLMInfo
from focallm.lm.card import lm_licenses, lm_usage
from focallm.tasks import definitions
from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.cards import license_of
from focallm.tokenizer.hub import PLACE, push_folder


@pytest.mark.parametrize("name", sorted(set(definitions.TASKS) - {"text", "pronounce"}))
def test_each_task_has_a_call_that_exists(name):
    info = SpeechLMInfo(templates=(definitions.TEMPLATES[name],))
    (call,) = info.calls
    assert callable(getattr(focallm, re.fullmatch(r"focallm\.(\w+)\(.*\)", call)[1]))
    assert call in "\n".join(lm_usage(info))
    assert info.reads_plain_text == (name == "tts")
    assert ("is not for this model" in "\n".join(lm_usage(info))) == (name != "tts")


def test_parts_of_other_tasks_have_no_call():
    info = SpeechLMInfo(templates=(definitions.TEMPLATES["pronounce"], definitions.TEMPLATES["text"]))
    assert info.calls == []


def test_licenses_are_read_not_guessed(tmp_path):
    text = "\n".join(lm_licenses("cc0-1.0", "mini", "mini", tmp_path))
    assert text.count("apache-2.0") == 2  # the packaged LM and codec
    assert "| code of focallm | Apache-2.0 |" in text
    assert "| training data | unknown |" in text
    private = "\n".join(lm_licenses("cc0-1.0", str(tmp_path), "owner/codec", tmp_path))
    assert str(tmp_path) not in private
    assert private.count("| unknown |") == 3
    for content in ("", "---\n- a\n---\n", "---\n: [\n---\n", "---\nlicense: mit\n"):
        (tmp_path / "README.md").write_text(content)
        assert license_of(tmp_path) == "unknown"
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert license_of(tmp_path) == "mit"


def test_what_is_pushed_names_its_repository(codec, tmp_path, monkeypatch):
    lm = SpeechLM.from_config("tiny", AudioTokenizer(codec("tiny_50hz")))
    lm.info = dataclasses.replace(lm.info, templates=(definitions.TEMPLATES["tts"],))
    cards = {}

    class Hub:
        def __init__(self, token):
            pass

        def create_repo(self, repo, **kwargs):
            pass

        def upload_folder(self, repo_id, folder_path):
            cards[repo_id] = Path(folder_path, "README.md").read_text()

    monkeypatch.setattr("focallm.tokenizer.hub.HfApi", Hub)
    push_folder(lm.save_pretrained, "me/voice")
    lm.audio_tokenizer.push_to_hub("me/tokenizer")
    lm.audio_tokenizer.codec.push_to_hub("me/codec")
    for repo, card in cards.items():
        assert f'from_pretrained("{repo}")' in card
        assert PLACE not in card
    assert 'model="me/voice", trust_remote_code=True' in cards["me/voice"]
    assert set(cards) == {"me/voice", "me/tokenizer", "me/codec"}
