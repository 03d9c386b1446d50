"""What can be measured of a clip's container and sound without looking at a face. Measured once per content."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from cache_schemas.files import digest, write_text
from cache_schemas.manifest import Clip
from cache_schemas.paths import path_text
from pipeline import media
from pipeline.compute.progress import progress_bar
from pipeline.params import Params
from pipeline.sound.clip import leading_silence_s, loudness_db
from pipeline.sound.stage import sound_file

_VERSION = 3  # raise it when the same file gives other facts


@dataclass(frozen=True)
class ClipFacts:
    """One clip's container and sound; None where there is no such thing.

    reason: why it cannot be decoded; no_audio: why there is no sound in it, or none that can be used.
    passing: not for its content's sake, so that it is measured again in the next run.
    """

    duration_s: float | None = None
    fps: float | None = None
    width_px: int | None = None
    height_px: int | None = None
    container: str | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    sample_rate_hz: int | None = None
    channels: str | None = None
    loudness_db: float | None = None
    leading_silence_s: float | None = None
    """None, too, where the sound is silent throughout."""
    sound_s: float | None = None
    pixel_aspect: float | None = None
    transfer: str | None = None
    bit_depth: int | None = None
    interlaced: bool | None = None
    reason: str = ""
    no_audio: str = ""
    passing: bool = False


def measure_clips(clips: list[Clip], store: Path, params: Params) -> dict[str, ClipFacts]:
    """{clip_id: its facts}. `store` (JSON lines) keeps what is measured, so that a run that was killed goes on."""
    key = digest(_VERSION, params.spectrograms.sample_rate_hz, params.windows.silence_db)
    known = _read(store, key)
    missing = [clip for clip in clips if clip.clip_id not in known]
    store.parent.mkdir(parents=True, exist_ok=True)
    root = Path(params.data.root)
    with progress_bar("check", total=len(clips), unit="clips") as advance, store.open("a", encoding="utf-8") as file:
        advance(len(clips) - len(missing))
        for clip, facts in _measure_all(root, missing, params):
            known[clip.clip_id] = facts
            if not facts.passing:
                file.write(_line(clip.clip_id, facts, key))
                file.flush()
            advance(1)
    found = {clip.clip_id: known[clip.clip_id] for clip in clips}
    write_text(store, "".join(_line(clip_id, facts, key) for clip_id, facts in found.items() if not facts.passing))
    return found


def clip_facts(root: Path, clip: Clip, params: Params) -> ClipFacts:
    """The clip's facts; a file that cannot be decoded gives the reason, never an exception."""
    try:
        with media.one_file():
            return _measure(media.inside(root, clip.file_name), sound_file(root, clip), params)
    except media.MediaError as error:
        return ClipFacts(reason=str(error), passing=isinstance(error, media.PassingError))
    except Exception as error:  # one bad file never stops a run, however it is bad
        return ClipFacts(reason=f"unexpected {type(error).__name__}: {path_text(str(error))}", passing=True)


def _measure(path: Path, audio: Path | None, params: Params) -> ClipFacts:
    rate = params.spectrograms.sample_rate_hz
    try:
        sound = media.read_sound(path, sample_rate_hz=rate, audio=audio)
        silence_s = leading_silence_s(sound.samples, sample_rate_hz=rate, silence_db=params.windows.silence_db)
    except media.NoAudioError as error:
        return ClipFacts(**_container(replace(media.probe(path), audio=None)), no_audio=str(error))
    except media.PassingError:
        raise
    except media.MediaError as error:
        found = media.probe(path)  # the picture may be well
        if audio is not None:
            found = replace(found, audio=None)  # its own track is not the clip's
        return ClipFacts(**_container(found), reason=str(error))
    loudness = round(loudness_db(sound.samples), 2)
    sound_s = round(len(sound.samples) / rate, 3)
    return ClipFacts(**_container(sound.probe), loudness_db=loudness, leading_silence_s=silence_s, sound_s=sound_s)


def _container(found: media.Probe) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "duration_s": round(found.duration_s, 3),
        "fps": round(found.fps, 3),
        "width_px": found.width_px,
        "height_px": found.height_px,
        "container": found.container,
        "video_codec": found.codec,
        "pixel_aspect": round(found.pixel_aspect, 4),
        "transfer": found.transfer,
        "bit_depth": found.bit_depth,
        "interlaced": found.interlaced,
    }
    if found.audio is not None:
        audio = found.audio
        facts |= {"audio_codec": audio.codec, "sample_rate_hz": audio.sample_rate_hz, "channels": audio.channels}
    return facts


def _measure_all(root: Path, clips: Iterable[Clip], params: Params) -> Iterator[tuple[Clip, ClipFacts]]:
    """As they finish. Threads do: the work is in the decoder's processes."""
    workers = params.compute.workers or len(os.sched_getaffinity(0))
    waiting = iter(clips)
    running: dict[Future[ClipFacts], Clip] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for clip in islice(waiting, 2 * workers - len(running)):
                    running[pool.submit(clip_facts, root, clip, params)] = clip
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _line(clip_id: str, facts: ClipFacts, key: str) -> str:
    return json.dumps({"clip_id": clip_id, "key": key, **asdict(facts)}) + "\n"


def _read(store: Path, key: str) -> dict[str, ClipFacts]:
    known = {}
    lines = store.read_text(encoding="utf-8").splitlines() if store.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
            clip_id = row.pop("clip_id")
            if row.pop("key") == key:
                known[clip_id] = ClipFacts(**row)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # the line that a killed run was writing, or another version's
    return known
