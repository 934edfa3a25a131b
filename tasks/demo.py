"""The first thing a newcomer runs: all that the weights in the package can do, on one page, to hear and to see."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.mixing.mix_config import MixConfig
from ..data.mixing.mixer import Mixer
from ..data.utterance import Utterance
from ..lm import SpeechLM
from ..lm.loading import INSIDE
from ..tokenizer import read_audio, write_audio
from ..tokenizer.files import write_whole
from .inference.enhance import enhance
from .inference.separate import separate
from .inference.speak import speak
from .page import Clip, Section, render_page

SAMPLES = Path(__file__).parent / "samples"
SAMPLE, TALKER = SAMPLES / "sample.flac", SAMPLES / "talker.flac"  # synthetic voices that no training set holds
SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "She asked the captain what time the ship would leave the harbor.",
    "Nobody has ever written these words before, and the model says them anyway.",
)
LONGEST_S = 10.0  # of a recording of one's own


def run_demo(audio: Path | None, out: Path, progress: bool = False) -> str:
    """Write `index.html` and the sounds in it; -> what was done, in lines for people.

    Args:
        audio: a recording to encode, to imitate, to clean and to take apart; by default there is one for each.
        out: folder, made if needed.
        progress: show a bar.
    """
    steps = {
        "codec": _codec,
        "speech": _speech,
        "voice": _voice,
        "enhancement": _enhancement,
        "separation": _separation,
    }
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    models = {name: SpeechLM.from_pretrained(name) for name in INSIDE}
    sections, said = [], []
    for name, step in (bar := tqdm(steps.items(), disable=not progress)):
        bar.set_description(name)
        section = step(models, audio)
        for i, clip in enumerate(section.clips):
            write_audio(out / f"{name}_{i + 1}.wav", clip.audio, clip.sampling_rate)
        sections.append(section)
        said.append(f"{section.title}: {out}/{name}_*.wav ({section.text})")
    measured = "\n\n".join((folder / "measured.md").read_text().strip() for folder in INSIDE.values())
    introduction = (
        f"Made on this machine in {time.perf_counter() - began:.0f} seconds, with the weights in the package and "
        "without a network. Every sound was decoded from 50 tokens of 13 bits per second."
    )
    write_whole(out / "index.html", render_page("focallm", introduction, sections, measured).encode())
    return "\n".join([*said, f"open {out}/index.html in a browser to hear and see all of it"])


def _codec(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    codec = models["mini"].audio_tokenizer
    original, rate = read_audio(audio or SAMPLE, codec.sampling_rate)
    began = time.perf_counter()
    encoded = codec(original)
    decoded = codec.decode(encoded["input_ids"][0], num_samples=len(original))
    seconds, elapsed = len(original) / rate, time.perf_counter() - began
    text = (
        f"{seconds:.1f} s became {encoded['input_ids'].shape[1]} tokens ({codec.bits_per_second:.0f} bit/s instead of "
        f"{16 * rate}) and sound again, {seconds / elapsed:.0f} times faster than real time"
    )
    clips = [Clip("original", original, rate), Clip("through the codec", decoded, codec.output_sampling_rate)]
    return Section("Codec", text, "focallm encode in.wav tokens.npz && focallm decode tokens.npz out.wav", clips)


def _speech(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    results = [speak(sentence, models["mini"]) for sentence in SENTENCES]
    factor = np.mean([result.stats["real_time_factor"] for result in results])
    text = f"voice {results[0].stats['voice']}, real-time factor {factor:.2f} (below 1 is faster than real time)"
    clips = [Clip(s, result.audio, result.sampling_rate) for s, result in zip(SENTENCES, results, strict=True)]
    return Section("Text to speech", text, f'focallm speak "{SENTENCES[0]}"', clips)


def _voice(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    reference, rate = read_audio(audio or TALKER)
    result = speak(SENTENCES[0], models["mini"], reference=reference, sampling_rate=rate)
    text = "the same sentence in the voice of a recording, of which the model hears three seconds"
    clips = [Clip("the voice", _cut(reference, rate), rate), Clip(SENTENCES[0], result.audio, result.sampling_rate)]
    return Section("Zero-shot voice", text, f'focallm speak "{SENTENCES[0]}" --reference voice.wav', clips)


def _enhancement(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    recipe = MixConfig("noisy", seed=1, level_db=(-25, -25), noise={"babble": 1.0}, snr_db=(5, 5))
    noisy, rate = _own(audio) if audio else _mixed(recipe)
    result: Any = enhance(noisy, models["mini-rewriting"], rate)
    clips = [Clip("noisy", noisy, rate), Clip("enhanced", result.audio, result.sampling_rate)]
    text = "your recording" if audio else "a voice behind another one, five decibels below it"
    return Section("Enhancement", text, "focallm enhance noisy.wav clean.wav", clips)


def _separation(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    recipe = MixConfig("mixture", level_db=(-25, -25), talkers=(2, 2), offset_s=(0.3, 0.3), level_difference_db=(0, 0))
    mixture, rate = _own(audio) if audio else _mixed(recipe)
    result: Any = separate(mixture, models["mini-rewriting"], 2, rate)
    talkers = [Clip(f"talker {i + 1}", wave, result.sampling_rate) for i, wave in enumerate(result.audio)]
    text = "your recording, as if two were talking" if audio else "two talkers at once, the first to speak first"
    return Section(
        "Separation", text, "focallm separate mixture.wav talker.wav", [Clip("mixture", mixture, rate), *talkers]
    )


def _own(audio: Path) -> tuple[np.ndarray, int]:
    wave, rate = read_audio(audio)
    return _cut(wave, rate), rate


def _cut(wave: np.ndarray, rate: int) -> np.ndarray:
    return wave[: round(LONGEST_S * rate)]


def _mixed(recipe: MixConfig) -> tuple[np.ndarray, int]:
    """The two bundled recordings, as a recipe mixes them."""
    mixer = Mixer(recipe, [Utterance(path.stem, path, speaker=path.stem) for path in (SAMPLE, TALKER)])
    mixture = mixer.example(mixer.rows[0], 16000).input_audio
    assert mixture is not None
    return mixture, 16000
