"""The commands of `focallm` that write or read speech; as in `cli`, signatures are options.

They are not called as the tasks of this package are: jsonargparse would import those to compare.
"""

import sys
from pathlib import Path
from typing import Any, Literal


def speak_to_file(
    text: str,
    out: Path = Path("out/speech.wav"),
    model: str = "mini",
    voice: str | None = None,
    reference: Path | None = None,
    reference_text: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> None:
    """Read a text aloud into a file.

    Args:
        text: what to say.
        out: an audio file to write (.wav, .flac, .ogg), or - for 16-bit samples on the standard output as they come,
            for example into "aplay -f S16_LE -r 16000".
        model: mini, or a folder that `focallm train tts` made.
        voice: a voice of the model; its most frequent one by default.
        reference: a recording of the voice to speak in, for models trained for zero-shot.
        reference_text: what is said in the reference, for models that need it.
        temperature: 0 is greedy; as suits the model by default.
        top_p: draw from the likeliest tokens that hold this share of the probability; as suits the model by default.
        seed: the same seed gives the same speech.
    """
    prepare()
    _check_name(out)
    from ...lm import Sampling
    from ..inference.inputs import open_model
    from ..inference.streaming import stream_speech
    from ..inference.tts import speak, usual_speech

    lm = open_model(model)
    asked: dict[str, Any] = {"temperature": temperature, "top_p": top_p}
    asked = {key: value for key, value in asked.items() if value is not None}
    sampling = Sampling(**asked) if asked else usual_speech(lm, by_reference=reference is not None)
    if str(out) != "-":
        result = speak(text, lm, voice, reference, reference_text, None, sampling, seed)
        stats = result.stats
        print(f"{_save(result, out)}, {stats['attempts']} attempt(s), voice {stats['voice']}")
        return
    stream = stream_speech(text, lm, voice, reference, reference_text, None, sampling, seed)
    for piece in stream:
        sys.stdout.buffer.write((piece.clip(-1, 1) * 32767).astype("<i2").tobytes())
        sys.stdout.buffer.flush()
    first = stream.result.stats["time_to_first_audio_s"]
    print(f"{_line('-', stream.result)}, first sound after {first:.2f} s, {stream.sampling_rate} Hz", file=sys.stderr)


def enhance_file(
    audio: Path,
    out: Path,
    model: str = "mini",
    temperature: float | None = None,
    seed: int = 0,
    heard: Literal["features", "codes"] | None = None,
) -> None:
    """Clean a noisy recording; the result lasts exactly as long.

    Args:
        audio: an audio file.
        out: an audio file to write (.wav, .flac, .ogg).
        model: a folder that was trained for se or se-features.
        temperature: 0 is greedy; as suits the model by default.
        seed: of the sampling.
        heard: what the model is given, features or codes; by default features where it can.
    """
    prepare()
    _check_name(out)
    from ..inference.enhancement import enhance

    print(_save(enhance(audio, model, sampling=_drawn(temperature), seed=seed, input_kind=heard), out))


def separate_file(
    audio: Path,
    out: Path,
    model: str = "mini",
    talkers: int = 2,
    temperature: float | None = None,
    seed: int = 0,
    heard: Literal["features", "codes"] | None = None,
) -> None:
    """Take a recording of several talkers apart; every result lasts exactly as long.

    Args:
        audio: an audio file.
        out: name.wav makes name_1.wav, name_2.wav, ...: first to speak first.
        model: a folder that was trained for ss or ss-features.
        talkers: how many there are.
        temperature: 0 is greedy; as suits the model by default.
        seed: of the sampling.
        heard: as in enhance.
    """
    prepare()
    _check_name(out)
    from ..inference.separation import separate

    result = separate(audio, model, talkers, sampling=_drawn(temperature), seed=seed, input_kind=heard)
    print(_save(result, out))


def convert_file(
    audio: Path,
    reference: Path,
    out: Path,
    model: str = "mini",
    method: Literal["lm", "knn"] | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> None:
    """Give a recording the voice of another one; the result lasts exactly as long.

    Args:
        audio: an audio file: what is said.
        reference: an audio file: the voice.
        out: an audio file to write (.wav, .flac, .ogg).
        model: a folder that was trained for vc; any other works by knn.
        method: lm, or knn (frames of the reference, without a language model); by default lm where the model can.
        temperature: of lm; 0 is greedy; as suits the model by default.
        seed: of the sampling.
    """
    prepare()
    _check_name(out)
    from ..inference.conversion import convert

    result: Any = convert(audio, reference, model, method, sampling=_drawn(temperature), seed=seed)
    print(f"{_save(result, out)}, method {result.stats['method']}")


def transcribe_file(audio: Path, out: Path | None = None, model: str = "mini", seed: int = 0) -> None:
    """Write down what is said: the text goes to the standard output, figures about it to the standard error.

    Args:
        audio: an audio file.
        out: a text file to write, too.
        model: a folder that was trained for asr.
        seed: of the sampling.
    """
    prepare()
    from ...tokenizer.files import write_whole
    from ..inference.recognition import transcribe

    result: Any = transcribe(audio, model, seed=seed)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, f"{result.text}\n".encode())
    print(result.text)
    print(_line(str(audio), result), file=sys.stderr)


def continue_file(
    audio: Path,
    out: Path,
    model: str = "mini",
    seconds: float = 5.0,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> None:
    """Let a model go on where a recording ends.

    Args:
        audio: an audio file.
        out: an audio file to write (.wav, .flac, .ogg): the recording and what follows.
        model: a folder that was trained for continuation.
        seconds: at most so much more.
        temperature: 0 is greedy.
        top_p: draw from the likeliest tokens that hold this share of the probability.
        seed: the same seed gives the same speech.
    """
    prepare()
    _check_name(out)
    from ...lm import Sampling
    from ..inference.continuation import continue_speech

    sampling = Sampling(temperature, top_p=top_p)
    result: Any = continue_speech(audio, model, seconds, sampling=sampling, seed=seed)
    print(f"{_save(result, out)}, continued from {result.stats['continuation_begins_s']:.2f} s on")


def _drawn(temperature: float | None) -> Any:
    """The sampling that was asked for, if one was."""
    from ...lm import Sampling

    return None if temperature is None else Sampling(temperature, top_p=0.9)


def prepare() -> None:
    """Say what happens in plain lines; leave progress bars to work that is long."""
    import logging

    from transformers.utils import logging as transformers_logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger("focallm").setLevel(logging.INFO)
    transformers_logging.disable_progress_bar()


def _check_name(out: Path) -> None:
    """Before anything is computed: audio is written by its suffix."""
    from ...tokenizer.audio import check_suffix

    if str(out) != "-":
        check_suffix(out)


def _save(result: Any, out: Path) -> str:
    """Write the audio; -> the line that says so"""
    return _line(", ".join(map(str, result.save(out))), result)


def _line(name: str, result: Any) -> str:
    s = result.stats
    return (
        f"{name}: {s['seconds']:.2f} s, {s['tokens']} tokens, stop reason {result.stop_reason}, real-time factor "
        f"{s['real_time_factor']:.2f}"
    )
