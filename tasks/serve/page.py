"""The page: a tab for each task, for recordings and texts of visitors. It needs no network.

`gr.mount_gradio_app(app, build_page(load_page_models()), path="/", **page_options())` mounts it in a server, and
`build_page(load_page_models()).launch(**page_options())` serves it alone.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...lm.continuous_batching import BatchFullError, ContinuousBatch
from ...lm.model import SpeechLM
from ...tokenizer.audio import read_audio
from ..demo import OTHER_SPEAKER, SAMPLE, SENTENCES, mixture_sample, noisy_sample
from ..inference.enhance import add_input
from ..inference.measured import harm
from ..inference.result import SpeechResult
from ..inference.speak import can_speak_as, default_sampling
from .page_parts import encode_chunk, mistake, picture, report, sound, stream_player, words_in_time
from .page_tasks import PageLimits, PageTasks, Recording, collected_warnings

try:
    import gradio as gr
except ImportError:
    raise ImportError("the page needs gradio: pip install 'focallm[serve]'") from None

_CSS = """
.spectrogram { width: 100%; display: block }
.word { display: inline-block; margin: 0 .7rem .4rem 0 }
.word small { display: block; opacity: .65 }
.player-status { min-height: 1.4em; margin: 0; opacity: .8 }
.mistake { color: var(--error-text-color) }
@media (max-width: 480px) { .tab-container button { padding: 0 4px; font-size: 14px } }
#ids textarea { font-family: var(--font-mono) }
"""
# A file of the longest recording: stereo, 32 bits, 96 kHz, 30 s.
_MAX_FILE_SIZE = "25mb"
_MIN_WIDTH = 320  # of a column in pixels; narrow screens show one column
_STATE_S = 3600  # how long a result can be mixed with its input
_CACHE_S = (600, 3000)  # every ten minutes, files that are older than 50 minutes are deleted
# One request at a time: two would share the processor, and each would take twice as long.
_EVENT: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
_QUICK: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def page_options() -> dict[str, Any]:
    """Return the options that `launch` and `mount_gradio_app` need to show the page as it is meant, and offline."""
    theme = gr.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        # The fonts of the default theme would be files of this server, and those of others come from the web.
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    return {
        "theme": theme,
        "css": _CSS,
        "footer_links": [],
        "run_history": False,
        "max_file_size": _MAX_FILE_SIZE,
        "ssr_mode": False,
        "show_error": False,
    }


def build_page(
    models: Mapping[str, SpeechLM], generator: ContinuousBatch | None = None, limits: PageLimits | None = None
) -> gr.Blocks:
    """Build the page.

    Args:
        models: Task -> model, as from `load_page_models`: "tts", "se" and "ss". Tasks that are missing get no tab.
        generator: The `ContinuousBatch` of a server, with which visitors share the model with other clients.
        limits: How much a visitor may send at once.
    """
    tasks = PageTasks(models, generator, limits or PageLimits())
    # Without analytics, gradio asks no other machine.
    with gr.Blocks(title="focallm", analytics_enabled=False, delete_cache=_CACHE_S) as page:
        gr.Markdown(
            "# focallm\n"
            f"Speech as {tasks.codec.tokens_per_second:g} tokens per second. Recordings may last up to "
            f"{tasks.limits.seconds:g} s; they stay on this server for an hour at most."
        )
        with gr.Tabs():
            if "tts" in models:
                with gr.Tab("Speak", id="speak"):
                    _speak_tab(tasks)
            if "se" in models:
                with gr.Tab("Enhance", id="enhance"):
                    _enhance_tab(tasks)
            if "ss" in models:
                with gr.Tab("Separate", id="separate"):
                    _separate_tab(tasks)
            with gr.Tab("Convert", id="convert"):
                _convert_tab(tasks)
            with gr.Tab("Tokens", id="tokens"):
                _tokens_tab(tasks)
    return page


def _speak_tab(tasks: PageTasks) -> None:
    lm = tasks.models["tts"]
    has_voices = can_speak_as(lm, by_reference=False)
    reference_fields = ()
    if can_speak_as(lm, by_reference=True):
        reference_fields = lm.info.template("zero-shot-aligned", "zero-shot").fields
    with gr.Row():
        with gr.Column(min_width=_MIN_WIDTH):
            text = gr.Textbox(
                SENTENCES[0], label="Text", lines=3, max_length=tasks.limits.characters, elem_id="speak-text"
            )
            voice = gr.Dropdown(list(lm.info.voices), label="Voice", visible=has_voices)
            with gr.Accordion("Speak in the voice of a recording", open=not has_voices, visible=bool(reference_fields)):
                reference = gr.Audio(
                    label="Recording of a voice; its first seconds are used", type="filepath", buttons=[]
                )
                reference_text = gr.Textbox(label="What is said in it", visible="reference_text" in reference_fields)
            # Only a model that aligns text and speech knows how long each phoneme should last.
            is_aligned = any(template.target.kind == "aligned" for template in lm.info.templates)
            speed = gr.Slider(0.5, 2, 1, step=0.1, label="Speed", visible=is_aligned, elem_id="speed")
            with gr.Row():
                temperature = gr.Slider(
                    0,
                    1.2,
                    default_sampling(lm, by_reference=not has_voices).temperature,
                    step=0.1,
                    label="Temperature",
                    info="above 0, each seed speaks differently",
                )
                seed = gr.Number(0, label="Seed", precision=0)
            with gr.Row():
                button = gr.Button("Speak", variant="primary", elem_id="speak-button")
                stop = gr.Button("Stop", elem_id="stop-button")
        with gr.Column(min_width=_MIN_WIDTH):
            player = stream_player()
            speech = _sound_output("Speech", "speech")
            status = gr.Markdown(elem_id="speak-status")
            words = gr.HTML(elem_id="words")

    def speak(*inputs: Any) -> Iterator[dict[Any, Any]]:
        value: dict[str, Any] = {"run": uuid.uuid4().hex, "chunks": []}
        yield {player: value, speech: None, words: "", status: ""}
        try:
            with collected_warnings() as warnings:
                stream = tasks.speak(*inputs)
            for chunk in stream:
                # gradio compares what was sent with what follows, so the list is a new one.
                value = {**value, "rate": stream.sampling_rate, "chunks": [*value["chunks"], encode_chunk(chunk)]}
                yield {player: value}
        except (ValueError, OSError) as error:
            yield {status: mistake(str(error))}
            return
        except BatchFullError:
            yield {status: mistake("too many others wait for the model: try again in a moment")}
            return
        result = stream.result
        yield {
            speech: sound(result.audio, result.sampling_rate),
            words: words_in_time(result.words),
            status: report(result, warnings),
        }

    options = {**_EVENT, "show_progress": "hidden"}
    if tasks.generator is not None:
        # The batch of the server speaks several texts at once.
        options.update(concurrency_id="speech", concurrency_limit=tasks.generator.max_rows)
    inputs = [text, voice, reference, reference_text, speed, temperature, seed]
    event = button.click(speak, inputs, [player, speech, words, status], **options)
    stop.click(None, cancels=event, **_QUICK)


def _enhance_tab(tasks: PageTasks) -> None:
    with gr.Row():
        with gr.Column(min_width=_MIN_WIDTH):
            recording = _recording_input("Noisy recording", noisy_sample, "noisy-recording")
            button = gr.Button("Enhance", variant="primary", elem_id="enhance-button")
            status = gr.Markdown(elem_id="enhance-status")
        with gr.Column(min_width=_MIN_WIDTH):
            enhanced = _sound_output("Enhanced", "enhanced")
            dry = gr.Slider(0, 1, 0, step=0.05, label="Share of the noisy recording in the sound", elem_id="dry")
            gr.Markdown(_caveat(tasks.models["se"], "se"))
    with gr.Row():
        with gr.Column(min_width=_MIN_WIDTH):
            before = gr.HTML(elem_id="before-picture")
        with gr.Column(min_width=_MIN_WIDTH):
            after = gr.HTML(elem_id="after-picture")
    state = gr.State(None, time_to_live=_STATE_S)

    def run(path: str | None, dry: float | None) -> dict[Any, Any]:
        with collected_warnings() as warnings:
            noisy = tasks.read(path)
            result = tasks.enhance(noisy)
        return {
            before: picture(noisy.audio, noisy.sampling_rate, "noisy"),
            status: report(result, warnings),
            state: (noisy, result),
            **mix((noisy, result), dry),
        }

    def mix(noisy_and_enhanced: tuple[Recording, SpeechResult] | None, dry: float | None) -> dict[Any, Any]:
        if noisy_and_enhanced is None:
            return {after: None}
        noisy, result = noisy_and_enhanced
        # The field of the slider may be empty.
        mixed = add_input(result, noisy.audio, noisy.sampling_rate, dry or 0.0)
        return {
            enhanced: sound(mixed.audio, mixed.sampling_rate),
            after: picture(mixed.audio, mixed.sampling_rate, "enhanced"),
        }

    _connect(button, run, [recording, dry], [before, enhanced, after, state], status)
    # Of the values that the slider passes on its way, only the last one counts.
    dry.input(mix, [state, dry], [enhanced, after], trigger_mode="always_last", **_QUICK)


def _separate_tab(tasks: PageTasks) -> None:
    max_speakers = tasks.models["ss"].info.max_speakers or 2
    outputs: list[Any] = []
    with gr.Row():
        with gr.Column(min_width=_MIN_WIDTH):
            recording = _recording_input("Recording of several speakers", mixture_sample)
            num_speakers = gr.Radio(
                list(range(2, max_speakers + 1)), value=2, label="Number of speakers", visible=max_speakers > 2
            )
            button = gr.Button("Separate", variant="primary", elem_id="separate-button")
            status = gr.Markdown(elem_id="separate-status")
            before = gr.HTML()
        with gr.Column(min_width=_MIN_WIDTH):
            gr.Markdown(_caveat(tasks.models["ss"], "ss"))
            for i in range(1, max_speakers + 1):
                outputs += [_sound_output(f"Speaker {i}", f"speaker-{i}"), gr.HTML()]

    def run(path: str | None, num_speakers: int) -> dict[Any, Any]:
        with collected_warnings() as warnings:
            mixture = tasks.read(path)
            result = tasks.separate(mixture, num_speakers)
        values: list[Any] = []
        for i, audio in enumerate(result.audio, 1):
            values += [sound(audio, result.sampling_rate), picture(audio, result.sampling_rate, f"speaker {i}")]
        values += [None] * (len(outputs) - len(values))
        return {
            before: picture(mixture.audio, mixture.sampling_rate, "mixture"),
            status: report(result, warnings),
            **dict(zip(outputs, values, strict=True)),
        }

    _connect(button, run, [recording, num_speakers], [before, *outputs], status)


def _convert_tab(tasks: PageTasks) -> None:
    with gr.Row():
        with gr.Column(min_width=_MIN_WIDTH):
            recording = _recording_input("Recording to convert", lambda: read_audio(SAMPLE))
            voice = _recording_input("Recording of the voice", lambda: read_audio(OTHER_SPEAKER))
            button = gr.Button("Convert", variant="primary", elem_id="convert-button")
        with gr.Column(min_width=_MIN_WIDTH):
            converted = _sound_output("Converted", "converted")
            after = gr.HTML()
            status = gr.Markdown(elem_id="convert-status")

    def run(path: str | None, voice_path: str | None) -> dict[Any, Any]:
        with collected_warnings() as warnings:
            result = tasks.convert(tasks.read(path), tasks.read(voice_path, "recording of the voice"))
        return {
            converted: sound(result.audio, result.sampling_rate),
            after: picture(result.audio, result.sampling_rate, "converted"),
            status: report(result, warnings),
        }

    _connect(button, run, [recording, voice], [converted, after], status)


def _tokens_tab(tasks: PageTasks) -> None:
    codec = tasks.codec
    with gr.Row():
        with gr.Column(min_width=_MIN_WIDTH):
            recording = _recording_input("Recording", lambda: read_audio(SAMPLE))
            encode_button = gr.Button("Encode", variant="primary", elem_id="encode-button")
        with gr.Column(min_width=_MIN_WIDTH):
            ids = gr.Textbox(label="Token ids", lines=6, max_lines=12, elem_id="ids")
            decode_button = gr.Button("Decode these ids", elem_id="decode-button")
            decoded = _sound_output("Decoded", "decoded")
            status = gr.Markdown(elem_id="tokens-status")

    def encode(path: str | None) -> dict[Any, Any]:
        wave = tasks.read(path)
        text = " ".join(map(str, tasks.encode(wave)))
        seconds = len(wave.audio) / wave.sampling_rate
        rate = 16 * wave.sampling_rate / 1000
        sentence = f"The recording lasts {seconds:.2f} s and has {rate:g} kbit/s as 16-bit samples."
        values = decode(text)
        return {**values, ids: text, status: f"{values[status]} {sentence}"}

    def decode(text: str) -> dict[Any, Any]:
        result = tasks.decode(text)
        sentence = (
            f"**{result.stats['tokens']} ids**, {codec.tokens_per_second:g} for each second, "
            f"**{codec.bits_per_second:.0f} bit/s**."
        )
        return {decoded: sound(result.audio, result.sampling_rate), status: sentence}

    _connect(encode_button, encode, [recording], [ids, decoded], status)
    _connect(decode_button, decode, [ids], [decoded], status)


def _connect(
    button: gr.Button,
    task: Callable[..., dict[Any, Any]],
    inputs: list[Any],
    outputs: list[Any],
    status: gr.Markdown,
) -> None:
    """Run a task on a click. A mistake of the visitor empties the outputs and appears as a sentence in the status.

    Any other error is a bug: gradio logs its traceback, and shows the word Error.
    """

    def run(*values: Any) -> dict[Any, Any]:
        try:
            return task(*values)
        except (ValueError, OSError) as error:
            return {**dict.fromkeys(outputs), status: mistake(str(error))}

    button.click(run, inputs, [*outputs, status], **_EVENT)


def _recording_input(label: str, sample: Callable[[], tuple[np.ndarray, int]], elem_id: str | None = None) -> gr.Audio:
    """Add an input for a recording, from the microphone or a file, and a button that fills in a bundled one."""
    recording = gr.Audio(label=label, type="filepath", buttons=[], elem_id=elem_id)
    button = gr.Button("Use an example", size="sm")
    button.click(lambda: sound(*sample()), None, recording, **_QUICK)
    return recording


def _sound_output(label: str, elem_id: str) -> gr.Audio:
    """Add a player of a result."""
    return gr.Audio(label=label, interactive=False, buttons=["download"], elem_id=elem_id)


def _caveat(lm: SpeechLM, task: str) -> str:
    """Return what was measured about a model if its output is worse than its input."""
    source = lm.model.config.name_or_path
    sentence = harm(source, task) if source else ""
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""
