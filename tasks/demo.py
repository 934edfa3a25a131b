"""The demo: one page that shows what the included weights can do, with audio players and spectrograms."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.mixing.mix_config import MixConfig
from ..data.mixing.mixer import Mixer
from ..data.utterance import AudioExample, Utterance
from ..lm.loading import PACKAGED_MODELS
from ..lm.model import SpeechLM
from ..tokenizer.audio import read_audio, write_audio
from ..tokenizer.files import write_whole
from .evaluation.metrics.asr import BUNDLED_ASR, load_asr
from .inference.enhance import enhance
from .inference.measured import MEASURED, harm, word_error_rates
from .inference.separate import separate
from .inference.speak import speak
from .page import Clip, Section, render_page

# Recordings of two synthetic voices that no training set contains.
SAMPLES = Path(__file__).parent / "samples"
SAMPLE = SAMPLES / "sample.flac"
OTHER_SPEAKER = SAMPLES / "speaker.flac"
TEXTS = {
    SAMPLE: "Liam will return with two tickets.",
    OTHER_SPEAKER: "The train to the station leaves in twelve minutes.",
}
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
    if audio is not None:
        _read_start(audio)  # a file that cannot be read is found before anything is written
    out.mkdir(parents=True, exist_ok=True)
    start_time = time.perf_counter()
    # Loaded once for all sections.
    models = {name: SpeechLM.from_pretrained(name) for name in PACKAGED_MODELS}
    introduction = []
    recognize: Callable[[np.ndarray, int], str] | None = None
    try:
        recognize = load_asr(BUNDLED_ASR)
        introduction.append("Below each sound is what was said, and what the speech recognizer Whisper base heard.")
    except ImportError as error:
        introduction.append(f"To also see what a speech recognizer hears, run the demo again with it. {error}")
    finished = []
    messages = []
    bar = tqdm(sections.items(), disable=not progress)
    for name, make_section in bar:
        bar.set_description(name)
        section = make_section(models, audio)
        clips = []
        for i, clip in enumerate(section.clips, 1):
            write_audio(out / f"{name}_{i}.wav", clip.audio, clip.sampling_rate)
            heard = recognize(clip.audio, clip.sampling_rate) if recognize else None
            clips.append(replace(clip, heard=heard))
        finished.append(replace(section, clips=clips))
        # The clips of one section that were measured have one record.
        measured = [f"measured: {clip.measured}" for clip in section.clips if clip.measured][:1]
        messages.append(f"{section.title}: {out}/{name}_*.wav ({'; '.join([section.text, *measured])})")

    introduction.insert(
        0,
        f"Made on this machine in {time.perf_counter() - start_time:.0f} seconds, with the weights in the package and "
        "without a network. Every recording was decoded from 50 tokens of 13 bits per second.",
    )
    page = render_page("focallm", introduction, finished, _read_results(), _find_docs(out))
    write_whole(out / "index.html", page.encode())
    return "\n".join([*messages, f"open {out}/index.html in a browser"])


def _read_results() -> str:
    """Return the records of the packaged models as Markdown, with the line about the metrics once if they share it."""
    blocks: list[str] = []
    metrics: list[str] = []
    for folder in PACKAGED_MODELS.values():
        for block in (folder / MEASURED).read_text(encoding="utf-8").strip().split("\n\n"):
            (metrics if block.startswith("Metrics:") else blocks).append(block)
    return "\n\n".join([*blocks, *dict.fromkeys(metrics)])


def _find_docs(out: Path) -> str | None:
    """Return the path from a folder to the documentation of this checkout: the built site, or else its source."""
    root = Path(__file__).parent.parent
    for page in (root / "site" / "index.html", root / "docs" / "index.md"):
        if page.is_file():
            return Path(os.path.relpath(page, out)).as_posix()
    return None


def _measured(model: str, *rows: str) -> str:
    """Return the measured word error rates of some rows in the record of a packaged model; "" without a record."""
    rates = word_error_rates(PACKAGED_MODELS[model])
    found = [f"{rates[row]:g} % ({row})" for row in rows if row in rates]
    return f"word error rate {', '.join(found)}" if found else ""


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
    said = "" if audio else TEXTS[SAMPLE]
    measured = _measured("mini", "recording", "recording through the codec")
    clips = [
        Clip("original", original, rate, said),
        Clip("through the codec", decoded, codec.output_sampling_rate, said, measured=measured),
    ]
    return Section("Codec", text, "focallm encode in.wav tokens.npz && focallm decode tokens.npz out.wav", clips)


def speech_section(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    """Sentences in the main voice of the model."""
    clips = []
    factors = []
    for sentence in SENTENCES:
        result = speak(sentence, models["mini"])
        measured = _measured("mini", f"spoken, {result.stats['voice']}")
        clips.append(Clip(sentence, result.audio, result.sampling_rate, sentence, measured=measured))
        factors.append(result.stats["real_time_factor"])
    text = f"voice {result.stats['voice']}, real-time factor {np.mean(factors):.2f} (below 1 is faster than real time)"
    return Section("Text to speech", text, f'focallm speak "{SENTENCES[0]}"', clips)


def voice_section(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    """A sentence in the voice of a recording."""
    reference, rate = read_audio(audio or OTHER_SPEAKER)
    result = speak(SENTENCES[0], models["mini"], reference=reference, sampling_rate=rate)
    measured = _measured("mini", "spoken in the voice of a recording")
    clips = [
        Clip("the voice", _shorten(reference, rate), rate, "" if audio else TEXTS[OTHER_SPEAKER]),
        Clip(SENTENCES[0], result.audio, result.sampling_rate, SENTENCES[0], measured=measured),
    ]
    text = "the same sentence in the voice of a recording, of which the model reads three seconds"
    return Section("Zero-shot voice", text, f'focallm speak "{SENTENCES[0]}" --reference voice.wav', clips)


def enhancement_section(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    """A noisy recording and the enhanced one."""
    if audio is None:
        example = _noisy_example()
        noisy, rate = _input_of(example)
        said = example.utterance.text or ""
        text = "a voice over another one that is five decibels quieter"
    else:
        noisy, rate = _read_start(audio)
        said = ""
        text = "your recording"
    result: Any = enhance(noisy, models["mini-rewriting"], rate)
    measured = harm("mini", "se").removeprefix("measured: ") or _measured("mini-rewriting", "noisy", "enhanced")
    clips = [
        Clip("noisy", noisy, rate, said),
        Clip("enhanced", result.audio, result.sampling_rate, said, measured=measured),
    ]
    return Section("Enhancement", text, "focallm enhance noisy.wav clean.wav", clips)


def separation_section(models: dict[str, SpeechLM], audio: Path | None) -> Section:
    """A mixture of two speakers and each of them alone."""
    if audio is None:
        example = _mixture_example()
        mixture, rate = _input_of(example)
        said = example.columns["texts"]
        text = "two overlapping speakers, in order of who speaks first"
    else:
        mixture, rate = _read_start(audio)
        said = ["", ""]
        text = "your recording, as if it had two speakers"
    result: Any = separate(mixture, models["mini-rewriting"], 2, rate)
    measured = harm("mini", "ss").removeprefix("measured: ") or _measured("mini-rewriting", "mixture", "separated")
    clips = [Clip("mixture", mixture, rate, " ".join(said).strip())]
    for i, (wave, words) in enumerate(zip(result.audio, said, strict=True), 1):
        clips.append(Clip(f"speaker {i}", wave, result.sampling_rate, words, measured=measured))
    return Section("Separation", text, "focallm separate mixture.wav speaker.wav", clips)


def noisy_sample() -> tuple[np.ndarray, int]:
    """Return a bundled recording (T,) with a quieter one as noise, and its rate in Hz."""
    return _input_of(_noisy_example())


def mixture_sample() -> tuple[np.ndarray, int]:
    """Return a mixture (T,) of the bundled recordings, and its rate in Hz."""
    return _input_of(_mixture_example())


def _noisy_example() -> AudioExample:
    return _mix_samples(MixConfig("noisy", seed=1, level_db=(-25, -25), noise={"babble": 1.0}, snr_db=(5, 5)))


def _mixture_example() -> AudioExample:
    config = MixConfig(
        "mixture", level_db=(-25, -25), num_speakers=(2, 2), offset_s=(0.3, 0.3), level_difference_db=(0, 0)
    )
    return _mix_samples(config)


def _input_of(example: AudioExample) -> tuple[np.ndarray, int]:
    """Return what a model gets of an example, and its rate in Hz."""
    assert example.input_audio is not None
    return example.input_audio, _RATE


def _read_start(audio: Path) -> tuple[np.ndarray, int]:
    """Read the first seconds of a user's recording."""
    wave, rate = read_audio(audio)
    return _shorten(wave, rate), rate


def _shorten(wave: np.ndarray, rate: int) -> np.ndarray:
    return wave[: round(MAX_S * rate)]


def _mix_samples(config: MixConfig) -> AudioExample:
    """Mix the two bundled recordings."""
    # Babble and mixtures are made of recordings by other speakers, so each recording gets its own speaker.
    utterances = [Utterance(path.stem, path, text, path.stem) for path, text in TEXTS.items()]
    mixer = Mixer(config, utterances)
    return mixer.example(mixer.rows[0], _RATE)
