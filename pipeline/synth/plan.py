"""Which clips a data set has: a pure function of its size, so that a larger data set only adds clips."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.synth.identity import donor_of, subject_name

CATEGORIES = ("RVRA", "FVRA", "RVFA", "FVFA")
VIDEO_METHODS = ("face-swap", "mouth-redub")
AUDIO_METHODS = ("vocoder", "formant-transfer")
# Methods that borrow from the donor identity; the others rework the subject's own face or voice.
_BORROWING = ("face-swap", "formant-transfer")


@dataclass(frozen=True)
class ClipSpec:
    """Everything that decides the bytes of one clip. A method is "" where its modality is real."""

    seed: int
    difficulty: float
    identity: int
    take: int
    category: str
    video_method: str
    audio_method: str

    @property
    def file_name(self) -> str:
        """Name of the clip's file inside the clips folder."""
        return f"{subject_name(self.identity)}_t{self.take:04d}_{self.category}.mp4"

    @property
    def method(self) -> str:
        """Methods joined with "+", or "real"."""
        return "+".join(name for name in (self.video_method, self.audio_method) if name) or "real"

    def row(self) -> dict[str, str | int]:
        """Row of the manifest, {column: value}."""
        borrows = any(name in _BORROWING for name in (self.video_method, self.audio_method))
        subject = subject_name(self.identity)
        return {
            "path": f"clips/{self.file_name}",
            "dataset": "synth",
            "subject_id": subject,
            "source_id": subject_name(donor_of(self.identity)) if borrows else "",
            "target_id": subject,
            "video_label": int(bool(self.video_method)),
            "audio_label": int(bool(self.audio_method)),
            "label": int(self.category != "RVRA"),
            "category": self.category,
            "method": self.method,
        }


def plan_clips(*, identities: int, clips_per_identity: int, difficulty: float, seed: int) -> list[ClipSpec]:
    """Clips of the data set, sorted by file name.

    A take has one clip of each category; a last take that is cut short starts at another category for each
    identity. The two methods of a modality alternate over takes and identities, and inside a take its two
    fakes of a modality use one method each.

        identity 0, take 0:  RVRA  FVRA swap  RVFA vocoder  FVFA redub+formant
        identity 0, take 1:  RVRA  FVRA redub RVFA formant  FVFA swap+vocoder
    """
    specs = [
        _clip(seed, difficulty, identity, clip) for identity in range(identities) for clip in range(clips_per_identity)
    ]
    return sorted(specs, key=lambda spec: spec.file_name)


def _clip(seed: int, difficulty: float, identity: int, clip: int) -> ClipSpec:
    take, place = divmod(clip, len(CATEGORIES))
    category = CATEGORIES[(place + identity + take) % len(CATEGORIES)]
    group, member = divmod(identity, len(CATEGORIES))
    both = int(category == "FVFA")
    video = VIDEO_METHODS[(member + group + take + both) % 2]
    audio = AUDIO_METHODS[(member // 2 + group + take + both) % 2]
    return ClipSpec(
        seed=seed,
        difficulty=difficulty,
        identity=identity,
        take=take,
        category=category,
        video_method=video if category[0] == "F" else "",
        audio_method=audio if category[2] == "F" else "",
    )
