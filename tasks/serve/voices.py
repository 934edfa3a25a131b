"""Voices that clients upload: a recording, a name and a statement of consent, each in a folder of the server."""

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ...tokenizer.audio import read_audio, write_audio
from ...tokenizer.files import write_whole
from ...tokenizer.waveform import Waveform

# Names that are safe as names of files, in URLs and in headers.
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
MAX_VOICES = 1000
MAX_CONSENT = 2000  # characters


class VoiceError(ValueError):
    """A voice that cannot be stored: its name is not safe or taken, or there is no consent."""


@dataclass(frozen=True)
class Voice:
    """Description of a voice, the file NAME.json. The recording is NAME.flac.

    Args:
        name: Name, which is also the id.
        consent: Statement of the speaker.
        created_at: Unix time in seconds.
        seconds: Duration of the recording.
    """

    name: str
    consent: str
    created_at: int
    seconds: float


class VoiceStore:
    """The voices in a folder. Several servers may share it, so nothing is kept in memory.

    Args:
        folder: Folder, which is created for the first voice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self) -> list[Voice]:
        """Return all voices, sorted by name."""
        voices = []
        for path in sorted(self.folder.glob("*.json")):
            voice = self.find(path.stem)
            if voice is not None:
                voices.append(voice)
        return voices

    def find(self, name: str) -> Voice | None:
        """Return the voice with a name, or None if there is none."""
        # The pattern keeps names from being paths.
        if not re.fullmatch(NAME_PATTERN, name):
            return None
        try:
            return Voice(**json.loads(self._description(name).read_bytes()))
        # Another server may have deleted the voice.
        except (FileNotFoundError, TypeError, ValueError):
            return None

    def read(self, name: str) -> tuple[Waveform, int]:
        """Return the recording (T,) of a voice, and its rate in Hz.

        Raises:
            OSError: There is no such voice.
        """
        return read_audio(self._recording(name))

    def add(self, name: str, consent: str, audio: Waveform, sampling_rate: int) -> Voice:
        """Store a voice.

        Args:
            name: Letters, digits, - and _.
            consent: Statement of the speaker.
            audio: Recording (T,).
            sampling_rate: Its rate in Hz.

        Raises:
            VoiceError: The name is not safe or taken, the statement is empty or too long, or the folder is full.
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise VoiceError("name: a voice is named with up to 64 letters A-Z, digits, - and _, a letter first")
        if not 0 < len(consent.strip()) <= MAX_CONSENT:
            raise VoiceError(
                f"consent: write in 1 to {MAX_CONSENT} characters that the speaker agrees, such as 'I am Ann Lee, and "
                "this server may speak in my voice.'"
            )
        # On some file systems names differ only in case if they are the same file.
        taken = {voice.name.lower() for voice in self.list()}
        if name.lower() in taken:
            raise VoiceError(f"name: there is a voice {name} already: delete it, or choose another name")
        if len(taken) >= MAX_VOICES:
            raise VoiceError(f"the server has {MAX_VOICES} voices, its limit: delete one")
        voice = Voice(name, consent, int(time.time()), len(audio) / sampling_rate)
        self.folder.mkdir(parents=True, exist_ok=True)
        # The description comes last, since a voice exists when it has one.
        write_audio(self._recording(name), audio, sampling_rate)
        write_whole(self._description(name), json.dumps(asdict(voice)).encode())
        return voice

    def delete(self, name: str) -> bool:
        """Delete a voice, and return whether there was one."""
        if self.find(name) is None:
            return False
        self._description(name).unlink(missing_ok=True)
        self._recording(name).unlink(missing_ok=True)
        return True

    def _description(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _recording(self, name: str) -> Path:
        return self.folder / f"{name}.flac"
