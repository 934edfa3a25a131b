"""Commands that use a trained model: on speech, on tokens, or to describe it. Heavy libraries are imported inside."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ...lm.sampling import Sampling
    from ..inference.result import SpeechResult, Transcript


def speak(
    text: str,
    out: Path = Path("out/speech.wav"),
    model: str = "mini",
    voice: str | None = None,
    reference: Path | None = None,
    reference_text: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int = 0,
    speed: float = 1.0,
    timestamps: Path | None = None,
) -> str | None:
    """Read a text aloud.

    Args:
        text: Text to read.
        out: Audio file to write (.wav, .flac, .ogg), or - to stream 16-bit samples to the standard output, for example
            into "aplay -f S16_LE -r 16000".
        model: mini, the folder `model` of a training run, or a hub id.
        voice: Name of one of the model's voices. The default is its most frequent one.
        reference: Recording of the voice to imitate, for models trained for zero-shot.
        reference_text: Transcript of the reference, for models that need it.
        temperature: Sampling temperature; 0 is greedy. The default depends on the model.
        top_p: Sample from the most probable tokens that together have this probability. The default depends on the
            model.
        seed: Seed of the sampling.
        speed: How many times faster to speak, 0.5 to 2. For models of aligned speech, such as mini.
        timestamps: JSON file to write as well, with the start and end of each word and phoneme in seconds. For models
            of aligned speech.
    """
    check_audio_suffix(out)
    from ...lm.sampling import Sampling
    from ..inference.inputs import open_model
    from ..inference.speak import check_request, default_sampling, stream_speech
    from ..inference.speak import speak as speak_text
    from ..inference.timestamps import write_timestamps

    check_request([text], reference, reference_text, speed)
    lm = open_model(model)
    # A sampling option replaces the model's default sampling as a whole.
    options = {}
    if temperature is not None:
        options["temperature"] = temperature
    if top_p is not None:
        options["top_p"] = top_p
    sampling = Sampling(**options) if options else default_sampling(lm, by_reference=reference is not None)

    if str(out) != "-":
        result = speak_text(text, lm, voice, reference, reference_text, None, sampling, seed, speed)
        if timestamps is not None:
            write_timestamps(timestamps, result.words, result.phonemes)
        return f"{save(result, out)}, {result.stats['attempts']} attempt(s), voice {result.stats['voice']}"

    stream = stream_speech(text, lm, voice, reference, reference_text, None, sampling, seed, speed=speed)
    for piece in stream:
        # aplay and other players read 16-bit little-endian integers.
        sys.stdout.buffer.write((piece.clip(-1, 1) * 32767).astype("<i2").tobytes())
        sys.stdout.buffer.flush()
    if timestamps is not None:
        write_timestamps(timestamps, stream.result.words, stream.result.phonemes)
    # The standard output holds samples, so the statistics go to the standard error.
    delay = stream.result.stats["time_to_first_audio_s"]
    print(f"{summary('-', stream.result)}, first audio after {delay:.2f} s, {stream.sampling_rate} Hz", file=sys.stderr)
    return None


def enhance(
    audio: Path,
    out: Path,
    model: str = "mini",
    temperature: float | None = None,
    seed: int = 0,
    input_kind: Literal["features", "codes"] | None = None,
    dry: float = 0.0,
) -> str:
    """Remove noise from a recording. The output has the length of the input.

    Args:
        audio: Audio file with the noisy recording.
        out: Audio file to write (.wav, .flac, .ogg).
        model: mini, the folder or hub id of a model trained for se or se-features, or the folder of a codec with a
            denoising encoder (configs/codec/denoising.yaml).
        temperature: Sampling temperature; 0 is greedy. The default depends on the model.
        seed: Seed of the sampling.
        input_kind: Input of the model. The default is features if the model accepts them.
        dry: Share of the input in the output, from 0 to 1. Some noise then covers what the model gets wrong.
    """
    check_audio_suffix(out)
    from ..inference.enhance import enhance as enhance_audio
    from ..inference.measured import harm

    sampling = sampling_at(temperature)
    result: Any = enhance_audio(audio, model, sampling=sampling, seed=seed, input_kind=input_kind, dry=dry)
    return "\n".join(filter(None, [save(result, out), harm(model, "se")]))


def separate(
    audio: Path,
    out: Path,
    model: str = "mini",
    num_speakers: int = 2,
    temperature: float | None = None,
    seed: int = 0,
    input_kind: Literal["features", "codes"] | None = None,
) -> str:
    """Separate overlapping speakers. Each output has the length of the input.

    Args:
        audio: Audio file with the mixture.
        out: Audio file to write: name.wav makes name_1.wav, name_2.wav and so on, in order of who speaks first.
        model: mini, or the folder or hub id of a model trained for ss or ss-features.
        num_speakers: Number of speakers in the mixture.
        temperature: Sampling temperature; 0 is greedy. The default depends on the model.
        seed: Seed of the sampling.
        input_kind: Input of the model. The default is features if the model accepts them.
    """
    check_audio_suffix(out)
    from ..inference.measured import harm
    from ..inference.separate import separate as separate_audio

    result: Any = separate_audio(
        audio, model, num_speakers, sampling=sampling_at(temperature), seed=seed, input_kind=input_kind
    )
    return "\n".join(filter(None, [save(result, out), harm(model, "ss")]))


def convert(
    audio: Path,
    reference: Path,
    out: Path,
    model: str = "mini",
    method: Literal["lm", "knn"] | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> str:
    """Convert a recording to another voice. The output has the length of the input.

    Args:
        audio: Audio file to convert.
        reference: Recording of the voice to convert to.
        out: Audio file to write (.wav, .flac, .ogg).
        model: mini, a folder or a hub id. The method lm needs a model trained for vc, which mini is not.
        method: lm generates the speech with the language model; knn replaces each frame by the most similar ones of the
            reference. The default is lm if the model was trained for vc, otherwise knn.
        temperature: Sampling temperature of lm; 0 is greedy. The default depends on the model.
        seed: Seed of the sampling.
    """
    check_audio_suffix(out)
    from ..inference.convert import convert as convert_audio

    result: Any = convert_audio(audio, reference, model, method, sampling=sampling_at(temperature), seed=seed)
    return f"{save(result, out)}, method {result.stats['method']}"


def transcribe(audio: Path, out: Path | None = None, model: str = "mini", seed: int = 0) -> str:
    """Transcribe a recording. The text goes to the standard output, statistics to the standard error.

    Args:
        audio: Audio file to transcribe.
        out: Text file to write the transcript to as well.
        model: Folder or hub id of a model trained for asr, which mini is not.
        seed: Seed of the sampling.
    """
    from ...tokenizer.files import write_whole
    from ..inference.transcribe import transcribe as transcribe_audio

    result: Any = transcribe_audio(audio, model, seed=seed)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, f"{result.text}\n".encode())
    # The standard output gets the text alone, so that it can be piped.
    print(summary(str(audio), result), file=sys.stderr)
    return result.text


def continue_speech(
    audio: Path,
    out: Path,
    model: str = "mini",
    seconds: float = 5.0,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> str:
    """Continue a recording.

    Args:
        audio: Audio file to continue.
        out: Audio file to write (.wav, .flac, .ogg): the recording and its continuation.
        model: Folder or hub id of a model trained for continuation, which mini is not.
        seconds: Longest continuation in seconds.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Sample from the most probable tokens that together have this probability.
        seed: Seed of the sampling.
    """
    check_audio_suffix(out)
    from ...lm.sampling import Sampling
    from ..inference.continue_speech import continue_speech

    sampling = Sampling(temperature, top_p=top_p)
    result: Any = continue_speech(audio, model, seconds, sampling=sampling, seed=seed)
    return f"{save(result, out)}, continued from {result.stats['continuation_begins_s']:.2f} s on"


def encode(audio: Path, out: Path, codec: str = "mini") -> str:
    """Encode a recording into a token file.

    Args:
        audio: Audio file to encode.
        out: Token file to write: an .npz with `codes`, `num_samples` and the codec that made them.
        codec: Codec: mini, a folder or a hub id.
    """
    from ..inference.token_files import encode_file

    return encode_file(audio, out, codec)


def decode(tokens: Path, out: Path, codec: str = "mini") -> str:
    """Decode a token file into a recording.

    Args:
        tokens: Token file that `focallm encode` wrote.
        out: Audio file to write (.wav, .flac, .ogg).
        codec: Codec that encoded the tokens: mini, a folder or a hub id.
    """
    from ..inference.token_files import decode_file

    return decode_file(tokens, out, codec)


def info(model: str) -> str:
    """Describe a codec or a speech language model: rates, sizes, parameters.

    Args:
        model: mini, a folder or a hub id.
    """
    from ..info import describe_model

    return describe_model(model)


def demo(audio: Path | None = None, out: Path = Path("out"), quiet: bool = False) -> str:
    """Write an HTML page that shows everything the included weights can do.

    Args:
        audio: Recording to encode, imitate, enhance and separate. By default, each section uses a bundled one.
        out: Folder for the page, index.html, and its audio files.
        quiet: Hide the progress bar.
    """
    from ..demo import run_demo

    return run_demo(audio, out, progress=not quiet)


COMMANDS: dict[str, Callable[..., str | None]] = {
    "speak": speak,
    "enhance": enhance,
    "separate": separate,
    "convert": convert,
    "transcribe": transcribe,
    "continue": continue_speech,
    "encode": encode,
    "decode": decode,
    "info": info,
    "demo": demo,
}


def check_audio_suffix(out: Path) -> None:
    """Refuse a name that is not an audio file before a model is loaded."""
    from ...tokenizer.audio import check_suffix

    # - is the standard output.
    if str(out) != "-":
        check_suffix(out)


def sampling_at(temperature: float | None) -> "Sampling | None":
    """Nucleus sampling at a temperature, or None for the model's default."""
    from ...lm.sampling import Sampling

    if temperature is None:
        return None
    return Sampling(temperature, top_p=0.9)


def save(result: "SpeechResult", out: Path) -> str:
    """Write the audio of a result and return its summary."""
    paths = [str(path) for path in result.save(out)]
    return summary(", ".join(paths), result)


def summary(name: str, result: "SpeechResult | Transcript") -> str:
    """One line about a result: its duration, tokens, stop reason and speed."""
    stats = result.stats
    return (
        f"{name}: {stats['seconds']:.2f} s, {stats['tokens']} tokens, stop reason {result.stop_reason}, "
        f"real-time factor {stats['real_time_factor']:.2f}"
    )
