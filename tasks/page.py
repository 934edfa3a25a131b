"""An HTML page in one file: audio players, spectrograms, tables and commands. T samples."""

import base64
import html
import io
import re
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from transformers.audio_utils import hertz_to_mel

from ..tokenizer.cards import unescape
from ..tokenizer.focalcodec.mel import log_mel

# A wide table scrolls in its box, so that the page itself never does.
_STYLE = """
:root { color-scheme: light dark; --text: #222; --quiet: #5a5a5a; --line: #ccc; --box: #f1f1f1; --warn: #8a4b00 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --quiet: #a5a5a5; --line: #444; --box: #262626; --warn: #f0b35c }
  body { background: #161616 }
  a { color: #8ab4ff }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: var(--text) }
section { margin: 2.5rem 0 }
h2 { margin-bottom: .3rem }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem }
figure { margin: 0; flex: 1 1 17rem; min-width: 0; max-width: 32rem }
figure h3 { font-size: 1rem; margin: 0 0 .3rem }
figcaption { font-size: .9rem; color: var(--quiet) }
figcaption p { margin: .3rem 0 }
figcaption .measured { color: var(--warn) }
audio, img { width: 100%; display: block }
pre { background: var(--box); padding: .4rem .6rem; border-radius: 3px; margin: .5rem 0 1rem }
.scroll, pre { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; min-width: 44rem }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top }
"""
_TICKS_HZ = (0.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)
_GRAY = "#808080"  # can be read on white and on black


@dataclass(frozen=True)
class Clip:
    """Audio with what is known about it.

    Args:
        title: Title above the player.
        audio: (T,).
        sampling_rate: In Hz.
        said: The words that were said or shall be said; "" if they are not known.
        heard: What a speech recognizer heard, or None without one.
        measured: What was measured about such audio, a sentence without its period; "" for recordings.
    """

    title: str
    audio: np.ndarray
    sampling_rate: int
    said: str = ""
    heard: str | None = None
    measured: str = ""


@dataclass(frozen=True)
class Section:
    """Clips side by side, a text about them, and the command that makes such clips."""

    title: str
    text: str
    command: str
    clips: list[Clip]


def render_page(title: str, introduction: list[str], sections: list[Section], results: str, docs: str | None) -> str:
    """Render a page that needs no other file and no network.

    Args:
        title: Title of the page.
        introduction: Paragraphs below the title.
        sections: Sections of the page, in order.
        results: Markdown with paragraphs and tables, for the end of the page.
        docs: Address of the documentation, or None if there is none on this machine.

    Returns:
        HTML.
    """
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        f'<head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>',
        "<body>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    for paragraph in introduction:
        lines.append(f"<p>{html.escape(paragraph)}</p>")
    if docs is not None:
        lines.append(f'<p><a href="{html.escape(docs)}">Documentation</a></p>')
    for section in sections:
        lines += [
            f"<section><h2>{html.escape(section.title)}</h2>",
            f"<p>{html.escape(section.text)}</p>",
            f'<pre tabindex="0"><code>{html.escape(section.command)}</code></pre>',
            '<div class="row">',
        ]
        for clip in section.clips:
            lines.append(render_clip(clip))
        lines.append("</div></section>")
    lines += [
        "<section><h2>How good the weights are</h2>",
        markdown_to_html(results),
        "</section>",
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def render_clip(clip: Clip) -> str:
    """Render a player, a spectrogram, and what is known about the clip. Everything is embedded."""
    audio_file = io.BytesIO()
    soundfile.write(audio_file, clip.audio, clip.sampling_rate, format="WAV", subtype="PCM_16")
    title = html.escape(clip.title)
    image = spectrogram(clip.audio, clip.sampling_rate)
    lines = [
        f"<figure><h3>{title}</h3>",
        f'<audio controls aria-label="{title}" src="{_data_url("audio/wav", audio_file.getvalue())}"></audio>',
        f'<img alt="spectrogram: {title}" src="{_data_url("image/png", image)}">',
        "<figcaption>",
    ]
    if clip.said:
        lines.append(f"<p>said: {html.escape(clip.said)}</p>")
    if clip.heard is not None:
        lines.append(f"<p>heard: {html.escape(clip.heard or '(no words)')}</p>")
    if clip.measured:
        lines.append(f'<p class="measured">measured: {html.escape(clip.measured)}</p>')
    lines.append("</figcaption></figure>")
    return "\n".join(lines)


def spectrogram(audio: np.ndarray, sampling_rate: int) -> bytes:
    """Draw a log-mel spectrogram of (T,) audio as a PNG file, on a transparent ground with gray labels in s and Hz."""
    # matplotlib takes half a second to import.
    from matplotlib.figure import Figure

    mel = log_mel(torch.from_numpy(audio).float()[None], sampling_rate, 1024, 256, 80)[0]
    figure = Figure(figsize=(4.5, 2), layout="constrained")
    axes = figure.subplots()
    # The bands have equal distances on the mel scale, not in Hz.
    top = float(hertz_to_mel(sampling_rate / 2, mel_scale="slaney"))
    extent = (0.0, len(audio) / sampling_rate, 0.0, top)
    axes.imshow(mel.T.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-9, vmax=1, cmap="magma")
    frequencies = [frequency for frequency in _TICKS_HZ if frequency <= sampling_rate / 2]
    positions = [float(hertz_to_mel(frequency, mel_scale="slaney")) for frequency in frequencies]
    axes.set_yticks(positions, [f"{frequency:g}" for frequency in frequencies])
    axes.set_xlabel("time, s", color=_GRAY)
    axes.set_ylabel("frequency, Hz", color=_GRAY)
    axes.tick_params(colors=_GRAY)
    file = io.BytesIO()
    figure.savefig(file, dpi=150, format="png", transparent=True)
    return file.getvalue()


def markdown_to_html(text: str) -> str:
    """Convert Markdown that has only paragraphs and tables, with an empty line between them."""
    blocks = []
    for block in text.split("\n\n"):
        if not block.strip():
            continue
        lines = block.strip("\n").split("\n")
        if lines[0].startswith("|"):
            blocks.append(_table_to_html(lines))
        else:
            blocks.append(f"<p>{html.escape(unescape(' '.join(lines)))}</p>")
    return "\n".join(blocks)


def _table_to_html(lines: list[str]) -> str:
    rows = []
    # The first line is the header, and a line of dashes follows it.
    for line, tag in zip([lines[0], *lines[2:]], ["th", *["td"] * len(lines)], strict=False):
        row = ""
        # A bar inside a cell has a backslash before it.
        for cell in re.split(r"(?<!\\)\|", line.removeprefix("|").removesuffix("|")):
            row += f"<{tag}>{html.escape(unescape(cell.strip()))}</{tag}>"
        rows.append(f"<tr>{row}</tr>")
    # A box that scrolls must be reachable with the keyboard.
    return f'<div class="scroll" tabindex="0"><table>{"".join(rows)}</table></div>'


def _data_url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
