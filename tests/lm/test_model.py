import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, set_seed

from focallm.lm import SpeechLM, Vocabulary, generation
from focallm.tasks.definitions import TEMPLATES
from focallm.tokenizer import AudioTokenizer, FocalCodecConfig, FocalCodecModel

FOCAL = {"focal_window": 3, "focal_level": 1, "focal_factor": 2, "factors": [1], "hidden_dims": [16]}


def tiny_codec() -> AudioTokenizer:
    torch.manual_seed(0)
    config = FocalCodecConfig(
        encoder={"type": "mel", "dim": 20},
        compressor={"input_dim": 20, "output_dim": 5, **FOCAL},
        quantizer={"codebook_size": 32},
        decompressor={"input_dim": 5, "output_dim": 20, **FOCAL},
        decoder={"type": "vocos", "input_dim": 20, "num_layers": 1, "dim": 16, "ffn_dim": 32},
    )
    return AudioTokenizer(FocalCodecModel(config).eval())


@pytest.fixture(scope="module")
def codec() -> AudioTokenizer:
    return tiny_codec()


def tiny_lm(codec: AudioTokenizer) -> SpeechLM:
    set_seed(0)
    return SpeechLM.from_config("tiny", codec, Vocabulary.characters(["abc"], codec.vocab_size))


def test_a_saved_model_is_the_same_after_loading_and_moving(codec, tmp_path):
    lm = tiny_lm(codec)
    lm.save_pretrained(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    again = SpeechLM.from_pretrained(tmp_path / "there")
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(lm.model.eval()(ids).logits, again.model(ids).logits)
    assert again.info == lm.info
    assert again.audio_tokenizer.decode([1, 2, 3]).tolist() == codec.decode([1, 2, 3]).tolist()


def test_the_repr_shows_size_tasks_voices_and_codec(codec):
    lm = tiny_lm(codec)
    lm.info = replace(lm.info, templates=(TEMPLATES["tts"], TEMPLATES["se"]), voices=("ann", "bob"))
    description = repr(lm)
    for part in ("LlamaForCausalLM", " M parameters", "2 layers of width 32", "tts, se", "2 voices", "FocalCodecModel"):
        assert part in description


def test_a_saved_model_opens_in_plain_transformers_without_our_code(codec, tmp_path):
    tiny_lm(codec).save_pretrained(tmp_path)
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer;"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r});"
        f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r});"
        "assert tokenizer.convert_tokens_to_ids('<|audio_31|>') < model.config.vocab_size;"
        "assert not [name for name in sys.modules if name.startswith('focallm')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_causal_lm_becomes_a_speech_lm(codec, tmp_path):
    base = tmp_path / "base"
    Vocabulary.characters(["abc"], 1).tokenizer.save_pretrained(base)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(base)
    lm = SpeechLM.from_base(base, codec)
    rows = lm.model.get_input_embeddings().weight
    assert rows.shape[0] % 64 == 0
    assert rows.shape[0] >= len(lm.vocabulary)
    old = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([lm.vocabulary.text_ids("abc")])
    assert torch.allclose(lm.model(ids).logits[..., :32], old(ids).logits[..., :32], atol=1e-5)


def test_without_a_vocabulary_the_text_units_are_printable_ascii(codec):
    vocabulary = SpeechLM.from_config("tiny", audio_tokenizer=codec).vocabulary
    assert vocabulary.tokenizer.unk_token_id not in vocabulary.text_ids("Hello, (world) #1!")


def test_an_unknown_size_is_an_error(codec):
    with pytest.raises(ValueError, match="no LM size is called 'huge'"):
        SpeechLM.from_config("huge", audio_tokenizer=codec)


def test_a_vocabulary_of_another_codec_is_refused(codec):
    with pytest.raises(ValueError, match="64 audio ids but the codec has 32"):
        SpeechLM.from_config("tiny", codec, Vocabulary.characters(["abc"], 64))


def test_a_folder_without_a_speech_lm_is_an_error(tmp_path):
    with pytest.raises(OSError, match=r"holds no speech_lm\.json"):
        SpeechLM.from_pretrained(tmp_path)


def _edited(change):
    def edit(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "new.safetensors", {"format": "pt"})
        (folder / "new.safetensors").replace(folder / "model.safetensors")

    return edit


KEY = "model.layers.0.self_attn.q_proj.weight"
FAULTS = {
    "missing": (_edited(lambda t: t.pop(KEY)), KEY),
    "left over": (_edited(lambda t: t.update(extra=torch.zeros(1))), "extra"),
    "of another shape": (_edited(lambda t: t.update({KEY: torch.zeros(3, 3)})), KEY),
    "renamed pickle": (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04not tensors"), "renamed pickle"),
    "only a pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "safetensors"),
    "no vocabulary": (lambda f: (f / "vocabulary.json").unlink(), r"holds no vocabulary\.json"),
    "empty description": (lambda f: (f / "speech_lm.json").write_text("{}"), "does not describe a speech LM"),
    "broken description": (lambda f: (f / "speech_lm.json").write_text("{"), "is not JSON"),
    "negative speakers": (
        lambda f: (f / "speech_lm.json").write_text(
            json.dumps(json.loads((f / "speech_lm.json").read_text()) | {"max_speakers": -3})
        ),
        "max_speakers must lie between 1 and 100, found -3",
    ),
    "other ids": (
        lambda f: (f / "vocabulary.json").write_text(json.dumps({"codebook_sizes": [32], "audio_offset": 1})),
        "renumbered",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_folder_is_one_clear_error(fault, codec, tmp_path):
    tiny_lm(codec).save_pretrained(tmp_path)
    damage, message = FAULTS[fault]
    damage(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        SpeechLM.from_pretrained(tmp_path)


def test_generate_needs_no_length_and_refuses_text(codec):
    lm = tiny_lm(codec)
    lm.model.config.max_position_embeddings = 20
    assert 1 <= len(lm.generate([1, 2, 3]).codes) <= 17
    with pytest.raises(ValueError, match="found a text"):
        lm.generate("hello")


def test_a_hub_id_is_downloaded_with_its_options(codec, tmp_path, monkeypatch):
    tiny_lm(codec).save_pretrained(tmp_path)
    asked = {}

    # Or the options would say that there is no hub.
    monkeypatch.setattr("focallm.tokenizer.hub._hub_answers", lambda minute: True)

    def fetch(repo, allow_patterns, **options):
        asked.update(repo=repo, **options)
        return str(tmp_path)

    monkeypatch.setattr("focallm.tokenizer.hub.snapshot_download", fetch)
    SpeechLM.from_pretrained("owner/name", revision="abc", token="secret", cache_dir=str(tmp_path / "cache"))
    assert asked == {
        "repo": "owner/name",
        "revision": "abc",
        "token": "secret",
        "cache_dir": str(tmp_path / "cache"),
    }


def test_many_prompts_are_generated_in_batches(codec, monkeypatch):
    lm, sizes = tiny_lm(codec), []
    template = TEMPLATES["tts"]
    prompts = [template.prompt(lm.vocabulary, (1, 9), speaker="a", text="abc"[: 1 + i % 3]) for i in range(5)]
    whole = lm.generate(prompts, seed=list(range(5)))
    monkeypatch.setattr("focallm.lm.generation._BATCH_SIZE", 2)
    steps = generation._steps

    def count_prompts(model, vocabulary, items):
        sizes.append(len(items))
        return steps(model, vocabulary, items)

    monkeypatch.setattr(generation, "_steps", count_prompts)
    parts = lm.generate(prompts, seed=list(range(5)))
    assert sizes == [2, 2, 1]
    assert [answer.codes.tolist() for answer in parts] == [answer.codes.tolist() for answer in whole]
