"""The door to media: real files of several containers, and hostile ones."""

import contextlib
import errno
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline import media
from pipeline.decoder import container
from pipeline.media import files, process


def make(path: Path, *options: str, seconds: float = 2.0, sound: bool = True) -> Path:
    """A clip whose grey level is its frame number (25 fps, step 4) and whose sound is a tone."""
    picture = f"nullsrc=s=64x48:r=25:d={seconds},geq=lum='4*N':cb=128:cr=128"
    command = [media.ffmpeg_exe(), "-y", "-v", "error", "-f", "lavfi", "-i", picture]
    if sound:
        command += ["-f", "lavfi", "-i", f"sine=f=440:d={seconds}"]
    subprocess.run([*command, *options, f"file:{path}"], check=True)
    return path


CONTAINERS = {
    "clip.mp4": ["-c:v", "libx264", "-qp", "0", "-c:a", "aac"],
    "clip.mkv": ["-c:v", "libx264", "-qp", "0", "-c:a", "aac"],
    "clip.mov": ["-c:v", "mpeg4", "-q:v", "1", "-c:a", "pcm_s16le"],
    "clip.avi": ["-c:v", "mpeg4", "-q:v", "1", "-c:a", "pcm_s16le"],
    "clip.mpg": ["-c:v", "mpeg1video", "-q:v", "1", "-c:a", "mp2"],
    "clip.webm": ["-c:v", "libvpx", "-b:v", "2M", "-c:a", "libopus"],
}


def luma(frames: np.ndarray) -> np.ndarray:
    """Mean grey of each frame in units of frame numbers: video range 16..235 -> 0..255, four steps a frame."""
    return (frames.mean(axis=(1, 2, 3)) * 219 / 255 + 16) / 4


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, *CONTAINERS[name])
    info = media.probe(path)
    assert info.duration_s == pytest.approx(2, abs=0.05)
    assert info.fps == pytest.approx(25, abs=0.5)
    assert (info.width_px, info.height_px, info.audio is not None) == (64, 48, True)
    samples = media.read_sound(path, sample_rate_hz=16000).samples
    assert len(samples) == pytest.approx(32000, abs=1600)
    assert samples.std() > 0.01
    times = [0.5, 1.02, 0.5, 1.9]
    found = media.read_frames(path, times)
    frames = found.pixels
    assert frames.shape == (4, 48, 64, 3)
    assert np.abs(luma(frames) - found.times_s * 25).max() < 0.3
    assert np.abs(found.times_s - times).max() <= 0.0205
    assert np.array_equal(frames[0], frames[2])


def test_times_beyond_the_end_give_the_last_picture_there_is(tmp_path: Path) -> None:
    path = make(tmp_path / "c.mp4", *CONTAINERS["clip.mp4"])
    assert media.read_frames(path, [1.0, 7.0]).times_s.tolist() == [1.0, pytest.approx(1.96)]


def test_sound_that_starts_late_starts_late(tmp_path: Path) -> None:
    path = make(tmp_path / "c.mkv", *CONTAINERS["clip.mkv"])
    late = tmp_path / "late.mkv"
    command = [media.ffmpeg_exe(), "-v", "error", "-i", path, "-itsoffset", "0.5", "-i", path]
    subprocess.run([*command, "-map", "0:v", "-map", "1:a", "-c", "copy", late], check=True)
    samples = media.read_sound(late, sample_rate_hz=16000).samples
    first = int(np.argmax(np.abs(samples) > 0.01)) / 16000
    assert first == pytest.approx(0.5, abs=0.03)


def test_no_sound_is_its_own_error(tmp_path: Path) -> None:
    path = make(tmp_path / "c.mp4", "-c:v", "libx264", sound=False)
    assert media.probe(path).audio is None
    with pytest.raises(media.NoAudioError, match="no sound track"):
        media.read_sound(path, sample_rate_hz=16000)


def test_sound_without_picture_is_refused(tmp_path: Path) -> None:
    subprocess.run([media.ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "sine=d=1", tmp_path / "c.wav"], check=True)
    with pytest.raises(media.MediaError, match="no video stream"):
        media.probe(tmp_path / "c.wav")


NAMES = [
    *("-dash.mp4", "with space.mp4", "quo'te\".mp4", "new\nline.mp4", "tab\t.mp4", "100%.mp4", "%03d.mp4", "*.mp4"),
    *("a:b.mp4", "concat:a.mp4|b.mp4", "http:example.mp4", "pipe:0", "$(x);.mp4", "`x`&.mp4", "back\\slash.mp4"),
    os.fsdecode(b"not-utf-8-\xff\xfe.mp4"),
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(make(tmp_path / "plain.mp4", *CONTAINERS["clip.mp4"], seconds=0.5).read_bytes())
    assert media.inside(tmp_path, name) == path
    assert media.probe(path).width_px == 64
    assert len(media.read_frames(path, [0.1]).pixels) == 1
    assert len(media.read_sound(path, sample_rate_hz=8000).samples) > 3000


def test_unusable_files_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "random.mp4").write_bytes(os.urandom(5000))
    cut = make(tmp_path / "cut.mp4", *CONTAINERS["clip.mp4"])
    cut.write_bytes(cut.read_bytes()[:2000])
    os.mkfifo(tmp_path / "pipe.mp4")
    reasons = {
        "empty.mp4": "0 bytes",
        "text.mp4": "not a media file",
        "random.mp4": "not a media file",
        "cut.mp4": "moov atom not found",
        "none.mp4": "does not exist",
        "pipe.mp4": "not a file",
        ".": "a directory",
    }
    for name, reason in reasons.items():
        with pytest.raises(media.MediaError, match=reason):
            media.probe(tmp_path / name)


def playlists(inner: Path) -> dict[str, str]:
    """Files of every kind that asks ffmpeg to open another one."""
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{inner}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp2t"><Representation id="1" '
        f'bandwidth="1"><BaseURL>{inner}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    return {
        "hls": hls,
        "hls-http": hls.replace(str(inner), "http://127.0.0.1:9/a.ts"),
        "hls-protocol": hls.replace(str(inner), f"concat:{inner}|{inner}"),
        "ffconcat": f"ffconcat version 1.0\nfile '{inner}'\n",
        "sdp": sdp + "a=rtpmap:96 H264/90000\n",
        "dash": dash,
        "asx": f'<ASX version="3.0"><ENTRY><REF HREF="{inner}"/></ENTRY></ASX>',
        "ffmetadata": f";FFMETADATA1\ntitle={inner}\n",
        "image-sequence": f"{inner.parent}/%03d.png",
    }


@pytest.mark.parametrize("kind", playlists(Path("x")))
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "ffconcat", "sdp", "mpd"])
def test_playlists_that_open_other_files_are_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    inner = tmp_path / "inner.ts"
    inner.write_bytes(b"G" * 188 * 20)
    path = tmp_path / f"playlist.{suffix}"
    path.write_text(playlists(inner)[kind])
    with pytest.raises(media.MediaError, match=r"not a container|not a media file|no picture"):
        media.probe(path)


def test_paths_stay_inside_their_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "folder").symlink_to(tmp_path)
    for name in ("../secret.mp4", str(tmp_path / "secret.mp4"), "link.mp4", "folder/secret.mp4"):
        with pytest.raises(media.MediaError, match="outside the data root"):
            media.inside(root, name)
    assert media.inside(root, "a/../b.mp4") == root / "b.mp4"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A data root with a folder, and a secret outside it."""
    (tmp_path / "root" / "folder").mkdir(parents=True)
    (tmp_path / "outside" / "folder").mkdir(parents=True)
    (tmp_path / "root" / "folder" / "a.mp4").write_bytes(b"mine")
    (tmp_path / "outside" / "a.mp4").write_bytes(b"secret")
    return tmp_path / "root"


@pytest.mark.parametrize("swapped", ["folder", "folder/a.mp4"])
def test_a_link_that_is_put_there_after_the_check_is_not_followed(tree: Path, swapped: str) -> None:
    path = media.inside(tree, "folder/a.mp4")
    (tree / swapped).rename(tree / "gone")
    (tree / swapped).symlink_to(tree.parent / "outside" / ("" if swapped == "folder" else "a.mp4"))
    with pytest.raises(media.PassingError, match="outside the data root"):
        media.open_regular(path)


def test_a_file_that_was_found_inside_stays_that_one_however_often_it_is_asked_for(tree: Path) -> None:
    path = media.anywhere(media.inside(tree, "folder/a.mp4"))
    other = tree / "folder" / "other.mp4"
    other.write_bytes(b"another's")
    path.unlink()
    path.symlink_to(other)
    with pytest.raises(media.PassingError, match="outside the data root"):
        media.check_file(media.anywhere(path))
    assert media.check_file(media.anywhere(Path(str(path)))) == 9  # whoever names the link means where it leads


def test_links_that_stay_inside_are_followed(tree: Path) -> None:
    (tree / "relative.mp4").symlink_to("folder/a.mp4")
    (tree / "absolute.mp4").symlink_to(tree / "folder" / "a.mp4")
    (tree / "names").symlink_to(tree / "folder")
    (tree.parent / "elsewhere").symlink_to(tree)  # the root itself may be one
    for name in ("relative.mp4", "absolute.mp4", "names/a.mp4"):
        for root in (tree, tree.parent / "elsewhere"):
            with media.open_regular(media.inside(root, name)) as file:
                assert file.read() == b"mine"


def test_without_the_kernels_help_files_are_opened_all_the_same(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_OPENAT2", 100_000)  # ENOSYS
    with media.open_regular(media.inside(tree, "folder/a.mp4")) as file:
        assert file.read() == b"mine"


def decoders() -> list[psutil.Process]:
    """The processes that read media for this one: a server and its copy."""
    children = psutil.Process().children(recursive=True)  # also multiprocessing's own, and other tests' workers
    return [child for child in children if any("pipeline.decoder" in part for part in child.cmdline())]


def has_open(some: psutil.Process, path: Path) -> bool:
    return any(file.path == str(path) for file in some.open_files())


def end_decoders(some: list[psutil.Process]) -> None:
    for decoder in reversed(some):
        with contextlib.suppress(psutil.NoSuchProcess):  # one end may bring the other
            decoder.kill()
    psutil.wait_procs(some, timeout=10)


def test_a_process_that_takes_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "c.mp4", *CONTAINERS["clip.mp4"])
    end_decoders(decoders())  # those of other tests
    found = media.probe(path)
    monkeypatch.setattr(process, "WALL_SECONDS", 0.2)
    (_, copy) = decoders()
    copy.suspend()  # as one that never ends
    with pytest.raises(media.MediaError, match="longer than"):
        media.read_frames(path, [0.1])
    assert copy not in decoders()
    monkeypatch.undo()
    media.probe(path)
    monkeypatch.setattr(process, "WALL_SECONDS", 0.2)
    decoders()[1].suspend()
    with (
        pytest.raises(media.MediaError, match="longer than"),
        media.open_video(path, full_at_s=[0.1], small_height_px=24, found=found) as video,
    ):
        list(video.small())


@pytest.mark.parametrize(
    ("number", "passing", "said"),
    [
        (signal.SIGKILL, True, "ended by SIGKILL"),  # for want of memory, most likely
        (signal.SIGSEGV, False, "decoder died of it"),
        (signal.SIGXCPU, False, "takes more than 240 s of a core"),
    ],
)
def test_pictures_that_a_killed_decoder_owes_are_an_error(
    tmp_path: Path, number: int, passing: bool, said: str
) -> None:
    path = make(tmp_path / "c.mp4", *CONTAINERS["clip.mp4"], seconds=30)  # more than fits a pipe
    end_decoders(decoders())  # those of other tests
    with media.open_video(path, full_at_s=[0.1], small_height_px=48) as video:
        batches = video.small(batch=1)
        assert len(next(batches).times_s) == 1
        (copy,) = [p for p in decoders() if p.ppid() != os.getpid() and has_open(p, path)]  # its server may still, too
        copy.send_signal(number)
        with pytest.raises(media.MediaError, match=said) as raised:
            list(batches)
    assert isinstance(raised.value, media.PassingError) == passing
    assert len(media.read_frames(path, [0.1]).times_s) == 1


def test_only_what_the_bytes_say_is_a_verdict(tmp_path: Path) -> None:
    """A path may lead elsewhere tomorrow."""
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    for name, passing in {"text.mp4": False, "empty.mp4": True, "none.mp4": True, ".": True, "loop.mp4": True}.items():
        with pytest.raises(media.MediaError) as raised:
            media.probe(tmp_path / name)
        assert isinstance(raised.value, media.PassingError) == passing, name


def test_a_disk_that_fails_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Path("/proc/self/mem")  # its beginning cannot be read: EIO
    if not memory.exists():
        pytest.skip("there is no file here whose reading fails")
    monkeypatch.setattr(process, "open_regular", lambda _: memory.open("rb", buffering=0))
    with pytest.raises(media.PassingError, match="the disk failed"):
        media.probe(tmp_path / "c.mp4")


def test_a_clip_that_ends_where_its_disk_failed_is_no_short_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ffmpeg takes a failing disk for the end of the file."""
    path = make(tmp_path / "c.mp4", *CONTAINERS["clip.mp4"], seconds=0.5)

    def fail(fd: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    limits = {"max_streams": 32, "max_pixels": 1 << 20}
    with path.open("rb") as file, monkeypatch.context() as patched:
        patched.setattr(os, "read", fail)
        with pytest.raises(OSError, match="the disk failed"), container.open_file(file.fileno(), limits) as opened:
            assert opened.duration


def test_a_decoder_that_died_between_files_is_replaced(tmp_path: Path) -> None:
    path = make(tmp_path / "c.mp4", *CONTAINERS["clip.mp4"], seconds=0.5)
    media.probe(path)
    for some in (decoders()[1:], decoders()):  # the copy alone; then its server, too
        end_decoders(some)
        assert media.probe(path).height_px == 48
    assert media.probe(path).width_px == 64


def test_a_video_that_is_left_early_leaves_no_decoder_at_work(tmp_path: Path) -> None:
    path = make(tmp_path / "c.mp4", *CONTAINERS["clip.mp4"])
    with media.open_video(path, full_at_s=[0.1], small_height_px=48) as video:
        next(video.small(batch=1))
    assert not [p for p in decoders() if has_open(p, path)]


LONG = {
    "long.mp4": ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "50", "-c:a", "aac"],
    "variable.mkv": ["-c:v", "libx264", "-g", "50", "-vf", "select='not(mod(n,3))'", "-fps_mode", "vfr", "-c:a", "aac"],
    "long.webm": ["-c:v", "libvpx", "-deadline", "realtime", "-g", "50", "-c:a", "libopus"],
    "long.avi": ["-c:v", "mpeg4", "-g", "50", "-c:a", "mp3"],
    "b-frames.avi": ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "50", "-c:a", "pcm_s16le"],
    "long.ts": ["-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-c:a", "aac"],
}


@pytest.mark.parametrize("name", LONG)
def test_far_pictures_are_those_of_a_decoding_from_the_start(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, *LONG[name], seconds=16.0)
    times = [0.29, 9.01, 9.29, 15.49]
    found = media.read_frames(path, times)
    with media.open_video(path, full_at_s=[0.3], small_height_px=48) as video:
        every = list(video.small())
    seen, pixels = np.concatenate([f.times_s for f in every]), np.concatenate([f.pixels for f in every])
    nearest = np.abs(seen[None, :] - np.array(times)[:, None]).argmin(axis=1)
    assert np.array_equal(found.times_s, seen[nearest])
    assert np.array_equal(found.pixels, pixels[nearest])
    assert np.abs(found.times_s - times).max() < 0.065


@pytest.mark.parametrize("pattern", ["*.webm", "grid-*.mpg", "dfdc-*.mp4", "sadtalker-*.mp4"])
def test_real_recordings(realset: Path, pattern: str) -> None:
    path = sorted((realset / "clips").glob(pattern))[0]
    info = media.probe(path)
    frames = media.read_frames(path, [0.1, info.duration_s / 2]).pixels
    assert frames.shape == (2, min(info.height_px, 1080), info.width_px, 3)
    assert frames[0].std() > 5
    # A key picture in the grid's files: a jump to it goes too far, and reading begins again at the start.
    assert media.read_frames(path, [2.41]).times_s[0] == pytest.approx(2.41, abs=0.05)
    assert media.read_sound(path, sample_rate_hz=16000).samples.std() > 1e-4
