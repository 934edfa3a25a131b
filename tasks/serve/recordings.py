"""Routes that take recordings: voices, transcriptions, and transformations of speech into speech."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from ...lm.sampling import Sampling
from ...tokenizer.waveform import resample
from ..inference.convert import convert
from ..inference.enhance import enhance
from ..inference.inputs import join_references, load_waves
from ..inference.result import SpeechResult, Transcript
from ..inference.separate import separate
from ..inference.transcribe import transcribe
from .audio_formats import MEDIA_TYPES, AudioFormat, encode_audio, read_recording
from .errors import ApiError, ErrorBody
from .limits import while_connected
from .service import ServedModel, Service, find_model, service_of
from .voices import Voice, VoiceError

router = APIRouter()

_MAX_VOICE_S = 30.0
_MAX_SPEAKERS = 8
_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}
_AUDIO = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES.values()}
# Keys of params[...] by task.
_PARAMS = {
    "enhance": {"dry", "temperature", "seed"},
    "separate": {"num_speakers", "temperature", "seed"},
    "convert": {"method", "temperature", "seed"},
}


class VoiceDescription(BaseModel):
    """A voice that requests can name."""

    id: str
    name: str
    object: Literal["audio.voice"] = "audio.voice"
    type: Literal["audio_sample", "built_in"]
    models: list[str]
    created_at: int | None = None


class VoiceList(BaseModel):
    """All voices of a server."""

    object: Literal["list"] = "list"
    data: list[VoiceDescription]


class VoiceDeleted(BaseModel):
    """Says that a voice is deleted."""

    id: str
    object: Literal["audio.voice.deleted"] = "audio.voice.deleted"
    deleted: bool = True


@router.get("/v1/audio/voices", responses=_ERRORS)
def list_voices(request: Request) -> VoiceList:
    """List the voices of the models, and those that were uploaded."""
    service = service_of(request)
    speakers: dict[str, list[str]] = {}
    for model in service.models.values():
        for name in model.lm.info.voices:
            speakers.setdefault(name, []).append(model.name)
    voices = []
    for name, models in speakers.items():
        voices.append(VoiceDescription(id=name, name=name, type="built_in", models=models))
    for voice in service.voices.list():
        voices.append(_describe(service, voice))
    return VoiceList(data=voices)


@router.post("/v1/audio/voices", responses=_ERRORS)
async def create_voice(
    request: Request,
    name: Annotated[str, Form()],
    consent: Annotated[str, Form()],
    audio_sample: Annotated[UploadFile, File()],
    type: Annotated[Literal["audio_sample"], Form()] = "audio_sample",
) -> VoiceDescription:
    """Store a recording of a voice, with a statement that its speaker agrees."""
    service = service_of(request)
    await _check_fields(request, {"name", "consent", "audio_sample", "type"})
    for model in service.models.values():
        if name in model.lm.info.voices:
            raise ApiError(400, f"name: the model {model.name} has a voice {name}: choose another name", "name")

    def store() -> Voice:
        audio, rate = read_recording(audio_sample.file.read(), _MAX_VOICE_S, "audio_sample")
        # A recording without a voice would fail in every request that uses it.
        for model in service.models.values():
            if model.imitates:
                tokenizer = model.lm.audio_tokenizer
                join_references(load_waves(audio, rate, tokenizer), tokenizer.sampling_rate, _MAX_VOICE_S)
        try:
            return service.voices.add(name, consent, audio, rate)
        except VoiceError as error:
            param, _, _ = str(error).partition(":")
            raise ApiError(400, str(error), param if param in ("name", "consent") else None) from None

    return _describe(service, await while_connected(request, service.run(store)))


@router.delete("/v1/audio/voices/{voice_id}", responses=_ERRORS)
def delete_voice(request: Request, voice_id: str) -> VoiceDeleted:
    """Delete an uploaded voice."""
    if not service_of(request).voices.delete(voice_id):
        raise ApiError(404, f"no uploaded voice is called {voice_id!r}", "voice_id", "voice_not_found")
    return VoiceDeleted(id=voice_id)


@router.post(
    "/v1/audio/transcriptions",
    response_class=JSONResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The text."}, **_ERRORS},
)
async def create_transcription(
    request: Request,
    file: Annotated[UploadFile, File()],
    model: Annotated[str, Form()],
    response_format: Annotated[Literal["json", "text"], Form()] = "json",
    temperature: Annotated[float, Form(ge=0, le=2, allow_inf_nan=False)] = 0.0,
) -> Response:
    """Transcribe a recording."""
    service = service_of(request)
    await _check_fields(request, {"file", "model", "response_format", "temperature"})
    served = find_model(service.models, model, "transcription")

    def recognize() -> Transcript:
        audio, rate = read_recording(file.file.read(), service.limits.max_recording_s, "file")
        transcript: Any = transcribe(audio, served.lm, rate, Sampling(temperature))
        return transcript

    transcript = await while_connected(request, service.run(recognize))
    if response_format == "text":
        return PlainTextResponse(transcript.text)
    duration = {"type": "duration", "seconds": transcript.stats["seconds"]}
    return JSONResponse({"text": transcript.text, "usage": duration})


@router.post("/audio/transform", include_in_schema=False)
@router.post(
    "/audio/transformations",
    response_class=Response,
    responses={200: {"content": _AUDIO, "description": "The new recording."}, **_ERRORS},
)
async def create_transformation(
    request: Request,
    model: Annotated[str, Form()],
    audio: Annotated[UploadFile, File()],
    reference: Annotated[UploadFile | None, File()] = None,
    response_format: Annotated[Literal["wav", "flac", "opus", "ogg", "mp3", "pcm"], Form()] = "wav",
    sample_rate: Annotated[Literal["8000", "16000", "24000", "48000"] | None, Form()] = None,
) -> Response:
    """Enhance a recording, separate its speakers (one channel each), or convert it to the voice of a reference.

    `params[task]` is enhance, separate or convert; by default convert with a reference and otherwise enhance. Other
    parameters: `params[dry]`, `params[num_speakers]`, `params[method]`, `params[temperature]`, `params[seed]`.
    """
    service = service_of(request)
    params = await _check_fields(request, {"model", "audio", "reference", "response_format", "sample_rate"})
    task = params.pop("task", "enhance" if reference is None else "convert")
    if task not in _PARAMS:
        raise ApiError(400, f"params[task] is one of {', '.join(_PARAMS)}, found {task!r}", "params[task]")
    if (task == "convert") != (reference is not None):
        raise ApiError(400, "reference: convert needs a recording of the voice, the other tasks take none", "reference")
    for key in params:
        if key not in _PARAMS[task]:
            known = ", ".join(sorted(_PARAMS[task]))
            raise ApiError(400, f"params[{key}] is unknown: {task} has {known}", f"params[{key}]")
    options = _options(params)
    audio_format: AudioFormat = "opus" if response_format == "ogg" else response_format
    if audio_format == "mp3" and options.get("num_speakers", 2) > 2:
        raise ApiError(400, "mp3 holds two speakers at most: choose another response_format", "response_format")
    served = find_model(service.models, model, task)

    def work() -> bytes:
        result = _transform(service, served, task, audio, reference, options)
        # Files have one row for each moment, with one column for each speaker.
        waves = np.atleast_2d(result.audio)
        rate = int(sample_rate or result.sampling_rate)
        waves = np.stack([resample(wave, result.sampling_rate, rate) for wave in waves], axis=1)
        return encode_audio(waves if waves.shape[1] > 1 else waves[:, 0], audio_format, rate)

    content = await while_connected(request, service.run(work))
    headers = {}
    if served.warnings.get(task):
        headers["X-Focallm-Warning"] = served.warnings[task]
    return Response(content, media_type=MEDIA_TYPES[audio_format], headers=headers)


def _transform(
    service: Service,
    served: ServedModel,
    task: str,
    audio: UploadFile,
    reference: UploadFile | None,
    options: dict[str, Any],
) -> SpeechResult:
    max_s = service.limits.max_recording_s
    noisy, rate = read_recording(audio.file.read(), max_s, "audio")
    result: Any
    if task == "enhance":
        result = enhance(noisy, served.lm, rate, **options)
    elif task == "separate":
        result = separate(noisy, served.lm, sampling_rate=rate, **options)
    else:
        assert reference is not None
        voice, voice_rate = read_recording(reference.file.read(), max_s, "reference")
        # Both recordings are read at one rate.
        result = convert(noisy, resample(voice, voice_rate, rate), served.lm, sampling_rate=rate, **options)
    return result


def _options(params: dict[str, str]) -> dict[str, Any]:
    """Convert the values of params[...] to the arguments of a task.

    Raises:
        ApiError: A value is no number or not within its limits.
    """
    options: dict[str, Any] = {}
    for key, text in params.items():
        try:
            if key == "method":
                options["method"] = text
            elif key == "temperature":
                options["sampling"] = Sampling(float(text), top_p=0.9)
            elif key == "dry":
                options["dry"] = float(text)
            elif key == "num_speakers" and not 2 <= int(text) <= _MAX_SPEAKERS:
                raise ValueError(f"from 2 to {_MAX_SPEAKERS} speakers are possible")
            else:
                options[key] = int(text)
        except ValueError as error:
            raise ApiError(400, f"params[{key}]: {error}", f"params[{key}]") from None
    return options


async def _check_fields(request: Request, known: Iterable[str]) -> dict[str, str]:
    """Refuse form fields that are unknown or come twice, and return those of the form params[KEY], by key."""
    params: dict[str, str] = {}
    seen = set()
    form = await request.form()
    for name, value in form.multi_items():
        is_param = name.startswith("params[") and name.endswith("]") and isinstance(value, str)
        if name in seen or not (is_param or name in known):
            raise ApiError(400, f"the field {name!r} is unknown, or comes twice: fields are {', '.join(known)}", name)
        seen.add(name)
        if is_param:
            params[name[7:-1]] = str(value)
    return params


def _describe(service: Service, voice: Voice) -> VoiceDescription:
    models = [model.name for model in service.models.values() if model.imitates]
    return VoiceDescription(
        id=voice.name, name=voice.name, type="audio_sample", models=models, created_at=voice.created_at
    )
