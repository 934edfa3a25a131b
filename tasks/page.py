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

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
section { margin: 2.5rem 0 }
h2 { margin-bottom: .3rem }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem }
figure { margin: 0; flex: 1 1 18rem }
figcaption { font-weight: 600; margin-bottom: .3rem }
audio, img { width: 100%; display: block }
code { background: #eee; padding: .2rem .4rem; border-radius: 3px }
table { border-collapse: collapse; font-size: .9rem }
td { border-bottom: 1px solid #ccc; padding: .3rem .6rem }
"""


_TICKS_HZ = (0, 500, 1000, 2000, 4000, 8000)
_GRAY = "#808080"  # can be read on white and on black


@dataclass(frozen=True)
class Clip:
    """Audio (T,) with its rate in Hz and a title."""

    title: str
    audio: np.ndarray
    sampling_rate: int


@dataclass(frozen=True)
class Section:
    """Clips side by side, a text about them, and the command that makes such clips."""

    title: str
    text: str
    command: str
    clips: list[Clip]


def render_page(title: str, introduction: str, sections: list[Section], results: str) -> str:
    """Render a page that needs no other file and no network.

    Args:
        title: Title of the page.
        introduction: Paragraph below the title.
        sections: Sections of the page, in order.
        results: Markdown with paragraphs and tables, for the end of the page.

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
        f"<p>{html.escape(introduction)}</p>",
    ]
    for section in sections:
        lines += [
            f"<section><h2>{html.escape(section.title)}</h2>",
            f"<p>{html.escape(section.text)}</p>",
            f"<p><code>{html.escape(section.command)}</code></p>",
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
    """Render a player above a spectrogram. Both are embedded."""
    audio_file = io.BytesIO()
    soundfile.write(audio_file, clip.audio, clip.sampling_rate, format="WAV", subtype="PCM_16")
    title = html.escape(clip.title)
    image = spectrogram(clip.audio, clip.sampling_rate)
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<audio controls src="{_data_url("audio/wav", audio_file.getvalue())}"></audio>'
        f'<img alt="spectrogram: {title}" src="{_data_url("image/png", image)}"></figure>'
    )


def spectrogram(audio: np.ndarray, sampling_rate: int) -> bytes:
    """Draw a log-mel spectrogram of (T,) audio as a PNG file, on a transparent ground with gray labels in s and Hz."""
    # matplotlib takes half a second to import.
    from matplotlib.figure import Figure

    mel = log_mel(torch.from_numpy(audio).float()[None], sampling_rate, 1024, 256, 80)[0]
    figure = Figure(figsize=(4.5, 2), layout="constrained")
    axes = figure.subplots()
    # The bands have equal distances on the mel scale, not in Hz.
    top = hertz_to_mel(sampling_rate / 2, mel_scale="slaney")
    extent = (0.0, len(audio) / sampling_rate, 0.0, top)
    axes.imshow(mel.T.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-9, vmax=1, cmap="magma")
    frequencies = [frequency for frequency in _TICKS_HZ if frequency <= sampling_rate / 2]
    positions = [hertz_to_mel(float(frequency), mel_scale="slaney") for frequency in frequencies]
    axes.set_yticks(positions, [str(frequency) for frequency in frequencies])
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
    for line in lines:
        # The line of dashes separates the header from the rows.
        if "---" in line:
            continue
        # A bar inside a cell has a backslash before it.
        cells = re.split(r"(?<!\\)\|", line.removeprefix("|").removesuffix("|"))
        rows.append("<tr>" + "".join(f"<td>{html.escape(unescape(cell.strip()))}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _data_url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
