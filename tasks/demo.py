"""The demo: one page that shows what the included weights can do, with audio players and spectrograms."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.mixing.mix_config import MixConfig
from ..data.mixing.mixer import Mixer
from ..data.utterance import Utterance
from ..lm.loading import PACKAGED_MODELS
from ..lm.model import SpeechLM
from ..tokenizer.audio import read_audio, write_audio
from ..tokenizer.files import write_whole
from .inference.enhance import enhance
from .inference.measured import MEASURED, harm
from .inference.separate import separate
from .inference.speak import speak
from .page import Clip, Section, render_page

# Recordings of two synthetic voices that no training set contains.
SAMPLES = Path(__file__).parent / "samples"
SAMPLE = SAMPLES / "sample.flac"
OTHER_SPEAKER = SAMPLES / "speaker.flac"
# The recognizer of `focallm evaluate --scorers offline` hears all of them right, also in the voices of the recordings.
SENTENCES = (
    "Good morning, everyone.",
    "She opened the door and looked outside.",
    "They went to the market to buy some bread.",
)
MAX_S = 10.0  # longer recordings of a user are cut
_RATE = 16000  # of mixed examples, in Hz


def run_demo(audio: Path | None, out: Path, progress: bool = False) -> str:
    """Write `index.html` and its audio files.

    Args:
        audio: Recording to encode, imitate, enhance and separate. The default is a bundled recording for each.
        out: Folder to write into. It is created if needed.
        progress: Show a progress bar.

    Returns:
        A summary with one line for each section of the page.
    """
    sections: dict[str, Callable[[dict[str, SpeechLM], Path | None], Section]] = {
        "codec": codec_section,
        "speech": speech_section,
        "voice": voice_section,
        "enhancement": enhancement_section,
        "separation": separation_section,
    }
    out.mkdir(parents=True, exist_ok=True)
    start_time = time.perf_counter()
    # Loaded once for all sections.
    models = {name: SpeechLM.from_pretrained(name) for name in PACKAGED_MODELS}
    finished = []
    messages = []
    bar = tqdm(sections.items(), disable=not progress)
    for name, make_section in bar:
        bar.set_description(name)
        section = make_section(models, audio)
        for i, clip in enumerate(section.clips, 1):
            write_audio(out / f"{name}_{i}.wav", clip.audio, clip.sampling_rate)
        finished.append(section)
        messages.append(f"{section.title}: {out}/{name}_*.wav ({section.text})")

    results = [(folder / MEASURED).read_text().strip() for folder in PACKAGED_MODELS.values()]
    introduction = (
        f"Made on this machine in {time.perf_counter() - start_time:.0f} seconds, with the weights in the package and "
        "without a network. Every recording was decoded from 50 tokens of 13 bits per second."
    )
    page = render_page("focallm", introduction, finished, "\n\n".join(results))
    write_whole(out / "index.html", page.encode())
    return "\n".join([*messages, f"open {out}/index.html in a browser"])


def codec_section(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    """A recording before and after the codec."""
    codec = models["mini"].audio_tokenizer
    original, rate = read_audio(audio or SAMPLE, codec.sampling_rate)
    start_time = time.perf_counter()
    encoded = codec(original)
    decoded = codec.decode(encoded["input_ids"][0], num_samples=len(original))
    elapsed_s = time.perf_counter() - start_time
    duration_s = len(original) / rate
    # The rate of the original counts 16 bits for each sample.
    text = (
        f"{duration_s:.1f} s as {encoded['input_ids'].shape[1]} tokens ({codec.bits_per_second:.0f} bit/s instead of "
        f"{16 * rate}), encoded and decoded {duration_s / elapsed_s:.0f} times faster than real time"
    )
    clips = [Clip("original", original, rate), Clip("through the codec", decoded, codec.output_sampling_rate)]
    return Section("Codec", text, "focallm encode in.wav tokens.npz && focallm decode tokens.npz out.wav", clips)


def speech_section(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    """Sentences in the main voice of the model."""
    clips = []
    factors = []
    for sentence in SENTENCES:
        result = speak(sentence, models["mini"])
        clips.append(Clip(sentence, result.audio, result.sampling_rate))
        factors.append(result.stats["real_time_factor"])
    text = f"voice {result.stats['voice']}, real-time factor {np.mean(factors):.2f} (below 1 is faster than real time)"
    return Section("Text to speech", text, f'focallm speak "{SENTENCES[0]}"', clips)


def voice_section(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    """A sentence in the voice of a recording."""
    reference, rate = read_audio(audio or OTHER_SPEAKER)
    result = speak(SENTENCES[0], models["mini"], reference=reference, sampling_rate=rate)
    clips = [
        Clip("the voice", _shorten(reference, rate), rate),
        Clip(SENTENCES[0], result.audio, result.sampling_rate),
    ]
    text = "the same sentence in the voice of a recording, of which the model reads three seconds"
    return Section("Zero-shot voice", text, f'focallm speak "{SENTENCES[0]}" --reference voice.wav', clips)


def enhancement_section(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    """A noisy recording and the enhanced one."""
    if audio is None:
        noisy, rate = noisy_sample()
        text = "a voice over another one that is five decibels quieter"
    else:
        noisy, rate = _read_start(audio)
        text = "your recording"
    result: Any = enhance(noisy, models["mini-rewriting"], rate)
    clips = [Clip("noisy", noisy, rate), Clip("enhanced", result.audio, result.sampling_rate)]
    text = "; ".join(filter(None, [text, harm("mini", "se")]))
    return Section("Enhancement", text, "focallm enhance noisy.wav clean.wav", clips)


def separation_section(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    """A mixture of two speakers and each of them alone."""
    if audio is None:
        mixture, rate = mixture_sample()
        text = "two overlapping speakers, in order of who speaks first"
    else:
        mixture, rate = _read_start(audio)
        text = "your recording, as if it had two speakers"
    result: Any = separate(mixture, models["mini-rewriting"], 2, rate)
    clips = [Clip("mixture", mixture, rate)]
    for i, wave in enumerate(result.audio, 1):
        clips.append(Clip(f"speaker {i}", wave, result.sampling_rate))
    text = "; ".join(filter(None, [text, harm("mini", "ss")]))
    return Section("Separation", text, "focallm separate mixture.wav speaker.wav", clips)


def noisy_sample() -> tuple[np.ndarray, int]:
    """Return a bundled recording (T,) with a quieter one as noise, and its rate in Hz."""
    return _mix_samples(MixConfig("noisy", seed=1, level_db=(-25, -25), noise={"babble": 1.0}, snr_db=(5, 5))), _RATE


def mixture_sample() -> tuple[np.ndarray, int]:
    """Return a mixture (T,) of the bundled recordings, and its rate in Hz."""
    config = MixConfig(
        "mixture", level_db=(-25, -25), num_speakers=(2, 2), offset_s=(0.3, 0.3), level_difference_db=(0, 0)
    )
    return _mix_samples(config), _RATE


def _read_start(audio: Path) -> tuple[np.ndarray, int]:
    """Read the first seconds of a user's recording."""
    wave, rate = read_audio(audio)
    return _shorten(wave, rate), rate


def _shorten(wave: np.ndarray, rate: int) -> np.ndarray:
    return wave[: round(MAX_S * rate)]


def _mix_samples(config: MixConfig) -> np.ndarray:
    """Mix the two bundled recordings."""
    # Babble and mixtures are made of recordings by other speakers, so each recording gets its own speaker.
    utterances = [Utterance(path.stem, path, speaker=path.stem) for path in (SAMPLE, OTHER_SPEAKER)]
    mixer = Mixer(config, utterances)
    example = mixer.example(mixer.rows[0], _RATE)
    assert example.input_audio is not None
    return example.input_audio
