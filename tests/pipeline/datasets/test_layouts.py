"""The layouts of public data sets, each over a tree with the true names and metadata."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.manifest import Clip, ManifestError, find_leaks
from pipeline.manifest.build import build_manifest
from pipeline.manifest.check import check_manifest
from pipeline.workspace import Workspace
from tests.pipeline.layout_suite import Expected, LayoutSuite, Tree
from tests.pipeline.tiny import TinyClips, write_wav

Put = Callable[..., None]


class TestFakeAVCeleb(LayoutSuite):
    layout, table = "fakeavceleb", "meta_data.csv"

    def write(self, root: Path, put: Put) -> dict[str, Expected]:
        # The nameless last column, the folder's other prefix, a file in two rows, target2: a person or a number.
        rows = [
            ("id00076", "-", "-", "real", "A", "RealVideo-RealAudio", "00109.mp4"),
            ("id00166", "-", "-", "real", "A", "RealVideo-RealAudio", "00010.mp4"),
            ("id00476", "-", "-", "real", "A", "RealVideo-RealAudio", "00077.mp4"),
            ("id00076", "-", "-", "rtvc", "B", "RealVideo-FakeAudio", "00109_fake.mp4"),
            ("id00166", "id01236", "-", "faceswap", "C", "FakeVideo-RealAudio", "00010_id01236.mp4"),
            ("id00166", "id01236", "-", "wav2lip", "C", "FakeVideo-RealAudio", "00010_id01236.mp4"),
            ("id00476", "id01521", "10", "wav2lip", "D", "FakeVideo-FakeAudio", "00077_10_id01521_wavtolip.mp4"),
            ("id00476", "id01521", "id01777", "fsgan-wav2lip", "D", "FakeVideo-FakeAudio", "00077_id01521_1.mp4"),
            ("id00999", "-", "-", "real", "A", "RealVideo", "00001.mp4"),
        ]
        lines = ["source,target1,target2,method,category,type,race,gender,path,"]
        for source, target1, target2, method, category, kind, name in rows:
            folder = f"{kind}/African/men/{source}"
            lines.append(
                f"{source},{target1},{target2},{method},{category},{kind},African,men,{name},FakeAVCeleb/{folder}"
            )
            put(f"{folder}/{name}", fake=category != "A")
        (root / "meta_data.csv").write_text("\n".join(lines) + "\n")
        expected = {
            "RealVideo-RealAudio/African/men/id00076/00109.mp4": Expected("RVRA", "real", {"id00076"}),
            "RealVideo-RealAudio/African/men/id00166/00010.mp4": Expected("RVRA", "real", {"id00166"}),
            "RealVideo-RealAudio/African/men/id00476/00077.mp4": Expected("RVRA", "real", {"id00476"}),
            "RealVideo-FakeAudio/African/men/id00076/00109_fake.mp4": Expected("RVFA", "rtvc", {"id00076"}),
            "FakeVideo-RealAudio/African/men/id00166/00010_id01236.mp4": Expected(
                "FVRA", "faceswap-wav2lip", {"id00166", "id01236"}
            ),
            "FakeVideo-FakeAudio/African/men/id00476/00077_10_id01521_wavtolip.mp4": Expected(
                "FVFA", "wav2lip", {"id00476", "id01521"}
            ),
            "FakeVideo-FakeAudio/African/men/id00476/00077_id01521_1.mp4": Expected(
                "FVFA", "fsgan-wav2lip", {"id00476", "id01521", "id01777"}
            ),
        }
        put(self.left_out()[0])
        return {path: replace(each, group="African men") for path, each in expected.items()}

    def left_out(self) -> list[str]:
        return ["RealVideo-RealAudio/African/men/id00076/of another version.mp4"]

    def refused(self) -> dict[str, str]:
        return {"RealVideo/African/men/id00999/00001.mp4": "line 10: type 'RealVideo' is not one of Real"}


class TestSwanDf(LayoutSuite):
    layout, table = "swan-df", "nowhere"

    def write(self, root: Path, put: Put) -> dict[str, Expected]:
        real = {
            "SWAN-Idiap/IDIAP/session_01/iPhone/00001/4_00001_m_01_04_p_2.mp4": {"4_00001"},
            "SWAN-Idiap/IDIAP/session_02/iPad/00006/4_00006_m_02_01_t_2.mp4": {"4_00006"},
            "SWAN-Idiap/IDIAP/session_01/iPad/00021/4_00021_f_01_07_t_2.mp4": {"4_00021"},
            "SWAN-Idiap/IDIAP/session_01/iPad/00051/4_00051_f_01_02_t_2.mp4": {"4_00051"},
        }
        fake = {
            "SWAN-DF/videos/256x256/00001/"
            "4_00001_m_01_04_p_2-model_256d-train_masknocolor-blending_m2s1-to-00006.mp4": (
                "256d-masknocolor-m2s1",
                {"4_00001", "4_00006"},
            ),
            "SWAN-DF/videos/160x160/00021/"
            "4_00021_f_01_07_t_2-model_160d-train_maskmkl-blending_m4o4e15b150r7-to-00022.mp4": (
                "160d-maskmkl-m4o4e15b150r7",
                {"4_00021", "4_00022"},
            ),
        }
        not_talking = "SWAN-Idiap/IDIAP/session_02/iPhone/00003/4_00003_m_02_01_p_1.mp4"
        voices = {
            path: root / "SWAN-DF/audios/wav" / path
            for path in (
                "00001/4_00001_m_01_04_p_2-freevc-pretrained-tuned70k-to-00006.wav",  # of a recording and its face swap
                "00001/4_00001_m_01_04_p_2-yourtts-zs-vc-to-00006.wav",
                "00051/4_00051_f_01_02_t_2-diffvc-a-b-to-00052.wav",  # of a recording that has no such face swap
                "00021/4_00021_f_01_07_t_2-hifivc-a-b-to-00024.wav",  # to another person than the face swap
                "00099/4_00099_f_01_07_t_2-hifivc-a-b-to-00024.wav",  # of nothing that is here
            )
        }
        for number, path in enumerate(voices.values()):
            write_wav(path, hz=200 + 50 * number)
        for path in (*real, not_talking, *self.refused()):
            put(path)
        for path in fake:
            put(path, fake=True)
        first, second, third, fourth, _ = (path.relative_to(root).as_posix() for path in voices.values())
        (one, _, twentyone, fiftyone), (swap, _) = real, fake
        both = {"4_00001", "4_00006"}
        expected = {path: Expected("RVRA", "real", who) for path, who in real.items()} | {
            path: Expected("FVRA", method, who) for path, (method, who) in fake.items()
        }
        expected |= {
            f"{one} + {first}": Expected("RVFA", "freevc-pretrained-tuned70k", both),
            f"{one} + {second}": Expected("RVFA", "yourtts-zs-vc", both),
            f"{fiftyone} + {third}": Expected("RVFA", "diffvc-a-b", {"4_00051", "4_00052"}),
            f"{twentyone} + {fourth}": Expected("RVFA", "hifivc-a-b", {"4_00021", "4_00024"}),
            f"{swap} + {first}": Expected("FVFA", "256d-masknocolor-m2s1+freevc-pretrained-tuned70k", both),
            f"{swap} + {second}": Expected("FVFA", "256d-masknocolor-m2s1+yourtts-zs-vc", both),
        }
        return {path: replace(each, group="women" if "_f_" in path else "men") for path, each in expected.items()}

    def left_out(self) -> list[str]:
        return ["SWAN-DF/audios/wav/00099/4_00099_f_01_07_t_2-hifivc-a-b-to-00024.wav"]

    def refused(self) -> dict[str, str]:
        return {
            "SWAN-DF/videos/256x256/00001/holiday.mp4": "the name is not SWAN's SITE_PERSON",
            "SWAN-DF/videos/256x256/00001/4_00001_m_01_04_p_2-newmodel-to-00006.mp4": "-blending_B-to-PERSON.mp4",
        }


def lav_df(
    file: str, split: str, *, video: bool, audio: bool, periods: list[Any], original: str | None
) -> dict[str, Any]:
    """An entry as in metadata.min.json."""
    return {
        "file": file, "n_fakes": len(periods), "fake_periods": periods, "duration": 1.5, "original": original,
        "modify_video": video, "modify_audio": audio, "split": split, "video_frames": 37, "audio_channels": 1,
        "audio_frames": 24000,
    }  # fmt: skip


class TestLavDf(LayoutSuite):
    layout, table, official_splits = "lav-df", "metadata.json", True

    def write(self, root: Path, put: Put) -> dict[str, Expected]:
        entries = [
            lav_df("train/000001.mp4", "train", video=False, audio=False, periods=[], original=None),
            lav_df("train/000002.mp4", "train", video=True, audio=False, periods=[[0.5, 0.9]], original="000001.mp4"),
            lav_df("dev/000003.mp4", "dev", video=False, audio=False, periods=[], original=None),
            lav_df(
                "dev/000004.mp4", "dev", video=False, audio=True, periods=[[0.6, 1], [0, 0.2]], original="000003.mp4"
            ),
            lav_df("test/000005.mp4", "test", video=False, audio=False, periods=[], original=None),
            lav_df("test/000006.mp4", "test", video=True, audio=True, periods=[[0.4, 1.1]], original="000005.mp4"),
            lav_df("test/000007.mp4", "test", video=False, audio=False, periods=[[0, 1]], original="000005.mp4"),
            lav_df("test/000008.mp4", "test", video=True, audio=False, periods=[[1, 0.5]], original="000005.mp4"),
            lav_df("test/000009.mp4", "test", video=True, audio=False, periods=[], original="000005.mp4"),
        ]
        broken = lav_df("test/000010.mp4", "test", video=True, audio=False, periods=[], original=None)
        del broken["split"]
        for entry in entries:
            put(entry["file"], fake=entry["n_fakes"] > 0)
        (root / "metadata.min.json").write_text(json.dumps([*entries, broken, "nonsense"]))
        put("train/000123.mp4")
        return {
            "train/000001.mp4": Expected("RVRA", "real", {"000001"}, "train"),
            "train/000002.mp4": Expected("FVRA", "wav2lip", {"000001"}, "train", ((0.5, 0.9),)),
            "dev/000003.mp4": Expected("RVRA", "real", {"000003"}, "val"),
            "dev/000004.mp4": Expected("RVFA", "tts", {"000003"}, "val", (), ((0.0, 0.2), (0.6, 1.0))),
            "test/000005.mp4": Expected("RVRA", "real", {"000005"}, "test"),
            "test/000006.mp4": Expected("FVFA", "wav2lip-tts", {"000005"}, "test", ((0.4, 1.1),), ((0.4, 1.1),)),
        }

    def left_out(self) -> list[str]:
        return ["train/000123.mp4"]

    def refused(self) -> dict[str, str]:
        return {
            "test/000007.mp4": "neither modify_video nor modify_audio is true",
            "test/000008.mp4": "[1, 0.5] is not [start, end] in seconds",
            "test/000009.mp4": "no fake segment of any length is listed",
            "test/000010.mp4": "the metadata",
            "entry 10": "not an object with a text `file`",
        }

    def params(self, root: Path, **split: object) -> Any:
        return super().params(root, **split).model_copy(update={"max_failed_fraction": 0.9})


def av1m(file: str, kind: str, video: list[Any], audio: list[Any]) -> dict[str, Any]:
    """An entry as in train_metadata.json."""
    return {
        "file": file, "original": str(Path(file).with_name("real.mp4")), "split": "train", "modify_type": kind,
        "audio_model": "yourtts" if "audio" in kind or "both" in kind else None, "fake_segments": video + audio,
        "audio_fake_segments": audio, "visual_fake_segments": video, "video_frames": 37, "audio_frames": 24000,
    }  # fmt: skip


class TestAvDeepfake1M(LayoutSuite):
    layout, table, official_splits = "av-deepfake1m", "train_metadata.json", True

    def write(self, root: Path, put: Put) -> dict[str, Expected]:
        one, two, three = "id00012/21Uxsk56VDQ/00001", "id00015/0fijmz4vTVU/00002", "id00018/5pWFCSdxRYQ/00003"
        train = [
            av1m(f"{one}/real.mp4", "real", [], []),
            av1m(f"{one}/fake_video_fake_audio.mp4", "both_modified", [[0.2, 0.5]], [[0.2, 0.48]]),
            av1m(f"{two}/real.mp4", "real", [], []),
            # As released: a segment of the other modality, which modify_type calls real.
            av1m(f"{two}/real_video_fake_audio.mp4", "audio_modified", [[0.9, 1.2]], [[0.3, 0.4], [0.9, 1.2]]),
            av1m(f"{two}/fake_video_real_audio.mp4", "visual", [[0.9, 1.2]], []),
        ]
        val = [
            av1m(f"{three}/real.mp4", "real", [], []),
            av1m(f"{three}/fake_video_real_audio.mp4", "visual_modified", [[1.0, 1.3]], []),
        ]
        for split, entries in (("train", train), ("val", val)):
            (root / f"{split}_metadata.json").write_text(json.dumps(entries))
            for entry in entries:
                put(f"{split}/{entry['file']}", fake=bool(entry["fake_segments"]))
        return {
            f"train/{one}/real.mp4": Expected("RVRA", "real", {"id00012"}, "train"),
            f"train/{one}/fake_video_fake_audio.mp4": Expected(
                "FVFA", "lipsync+yourtts", {"id00012"}, "train", ((0.2, 0.5),), ((0.2, 0.48),)
            ),
            f"train/{two}/real.mp4": Expected("RVRA", "real", {"id00015"}, "train"),
            f"train/{two}/real_video_fake_audio.mp4": Expected(
                "RVFA", "yourtts", {"id00015"}, "train", (), ((0.3, 0.4), (0.9, 1.2))
            ),
            f"val/{three}/real.mp4": Expected("RVRA", "real", {"id00018"}, "val"),
            f"val/{three}/fake_video_real_audio.mp4": Expected(
                "FVRA", "lipsync", {"id00018"}, "val", ((1.0, 1.3),)
            ),
        }  # fmt: skip

    def refused(self) -> dict[str, str]:
        file = "train/id00015/0fijmz4vTVU/00002/fake_video_real_audio.mp4"
        return {file: "modify_type 'visual' is not one of real"}

    def check_official(self, clips: list[Clip], expected: dict[str, Expected]) -> None:
        """No labels of the test set are published: val is the test, and val comes out of train by speaker."""
        assert {c.split for c in clips if c.official_split == "val"} == {"test"}
        assert {c.split for c in clips if c.official_split == "train"} == {"train", "val"}
        assert not find_leaks(clips)


class TestDfdc(LayoutSuite):
    layout, table, official_splits = "dfdc", "metadata.json", True

    def write(self, root: Path, put: Put) -> dict[str, Expected]:
        parts = {
            "dfdc_train_part_0": {
                "aagfhgtpmv.mp4": {"label": "FAKE", "split": "train", "original": "vudstovrck.mp4"},
                "vudstovrck.mp4": {"label": "REAL", "split": "train"},
                "abarnvbtwb.mp4": {"label": "Real", "split": "train", "original": None},
                "zzzzzzzzzz.mp4": {"label": "MAYBE", "split": "train"},
            },
            "dfdc_train_part_1": {
                "aapnvogymq.mp4": {"label": "FAKE", "split": "train", "original": "jdubbvfswz.mp4"},
                "jdubbvfswz.mp4": {"label": "REAL", "split": "train"},
            },
        }
        for part, entries in parts.items():
            for name, entry in entries.items():
                put(f"{part}/{name}", fake=entry["label"] == "FAKE")
            (root / part / "metadata.json").write_text(json.dumps(entries))
        for folder, lines in (
            ("test", ("aalscayrfi.mp4,1", "aamntidqxi.mp4,0")),
            ("validation", ("afoovlsmtx.mp4,0",)),
        ):
            for line in lines:
                put(f"{folder}/videos/{line[:-2]}", fake=line.endswith("1"))
            (root / folder / "labels.csv").write_text("\n".join(("filename,label", *lines)) + "\n")
        # What else the test set tells of its clips is not their labels.
        (root / "test" / "metadata.json").write_text(json.dumps({"aalscayrfi.mp4": {"augmentations": {}}}))
        return {
            "test/videos/aalscayrfi.mp4": Expected("FVRA", "unknown", {"aalscayrfi"}, "test"),
            "test/videos/aamntidqxi.mp4": Expected("RVRA", "real", {"aamntidqxi"}, "test"),
            "validation/videos/afoovlsmtx.mp4": Expected("RVRA", "real", {"afoovlsmtx"}, "val"),
            "dfdc_train_part_0/aagfhgtpmv.mp4": Expected("FVRA", "unknown", {"vudstovrck"}, "train"),
            "dfdc_train_part_0/vudstovrck.mp4": Expected("RVRA", "real", {"vudstovrck"}, "train"),
            "dfdc_train_part_0/abarnvbtwb.mp4": Expected("RVRA", "real", {"abarnvbtwb"}, "train"),
            "dfdc_train_part_1/aapnvogymq.mp4": Expected("FVRA", "unknown", {"jdubbvfswz"}, "train"),
            "dfdc_train_part_1/jdubbvfswz.mp4": Expected("RVRA", "real", {"jdubbvfswz"}, "train"),
        }

    def refused(self) -> dict[str, str]:
        return {"dfdc_train_part_0/zzzzzzzzzz.mp4": "label 'MAYBE' is not REAL or FAKE"}

    def test_the_train_parts_alone_are_no_official_splits(self, tree: Tree, tmp_path: Path) -> None:
        for folder in ("test", "validation"):
            shutil.rmtree(tree[0] / folder)
        with pytest.raises(ManifestError, match=r"only the official train split: .* use split\.kind: subject"):
            build_manifest(Workspace(tmp_path / "work"), self.params(tree[0], kind="official"))


class TestFolders(LayoutSuite):
    layout, table = "folders", "real"

    def write(self, root: Path, put: Put) -> dict[str, Expected]:
        for path in ("real/ann/1.mp4", "real/bob/2.MP4", "real/cleo.mp4"):
            put(path)
        for path in ("fake/ann/session 1/1.mp4", "fake/2.mp4"):
            put(path, fake=True)
        put("Real/dan/1.mp4")
        (root / "real" / "notes.txt").write_text("not a video")
        (root / "fake" / "elsewhere").symlink_to("/etc")
        return {
            "real/ann/1.mp4": Expected("RVRA", "real", {"ann"}),
            "real/bob/2.MP4": Expected("RVRA", "real", {"bob"}),
            "real/cleo.mp4": Expected("RVRA", "real", {"real/cleo.mp4"}),
            "fake/ann/session 1/1.mp4": Expected("FVRA", "unknown", {"ann"}),
            "fake/2.mp4": Expected("FVRA", "unknown", {"fake/2.mp4"}),
        }

    def left_out(self) -> list[str]:
        return ["Real/dan/1.mp4"]

    def refused(self) -> dict[str, str]:
        return {"fake/elsewhere": "outside the data root"}


class TestCsv(LayoutSuite):
    layout, table, official_splits = "csv", "manifest.csv", True

    def write(self, root: Path, put: Put) -> dict[str, Expected]:
        lines = [
            "path,subject_id,video_label,audio_label,method,target_id,split,video_segments,audio_path,group",
            "1.mp4,ann,Real,REAL,,,train,,,",
            "2.mp4,ann,1,none,swap,bob; cleo,train,0.5-0.75;1-1.25,,",
            "3.mp4,dan,0,Fake,,,dev,,,Ainu women",
            " 4.mp4 , eve,real,real ,,,test,,,",
            "1.mp4,ann,real,fake,vocoder,,train,,dubs/1.wav,",
            ",,,,,,,,,",
        ]
        (root / "manifest.csv").write_text("\n".join(lines) + "\n")
        for number in range(1, 6):
            put(f"{number}.mp4", fake=number in (2, 3))
        write_wav(root / "dubs/1.wav", hz=300)
        return {
            "1.mp4": Expected("RVRA", "real", {"ann"}, "train"),
            "1.mp4 + dubs/1.wav": Expected("RVFA", "vocoder", {"ann"}, "train"),
            "2.mp4": Expected("FV-", "swap", {"ann", "bob", "cleo"}, "train", ((0.5, 0.75), (1.0, 1.25))),
            "3.mp4": Expected("RVFA", "unknown", {"dan"}, "val", group="Ainu women"),
            "4.mp4": Expected("RVRA", "real", {"eve"}, "test"),
        }

    def left_out(self) -> list[str]:
        return ["5.mp4"]


class TestSynth(TestCsv):
    layout = "synth"


def test_a_leak_of_official_splits_is_reported_with_people_splits_and_clips(
    tmp_path: Path, tiny: TinyClips, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [
        lav_df(f"{split}/{number:06}.mp4", split, video=False, audio=False, periods=[], original=original)
        for number, split, original in (
            (1, "train", None),
            (2, "train", "000001.mp4"),
            (3, "dev", "000001.mp4"),
            (4, "dev", None),
            (5, "test", None),
        )
    ]
    for entry in entries:
        tiny.put(tmp_path / "data" / entry["file"])
    (tmp_path / "data" / "metadata.json").write_text(json.dumps(entries))
    workspace = Workspace(tmp_path / "work")
    params = TestLavDf().params(tmp_path / "data", kind="official")
    build_manifest(workspace, params)
    said = " ".join(capsys.readouterr().err.split())
    assert "LEAK: 1 people stand in train and val: 000001 (train: 2 clips, val: 1 clips)" in said
    result = check_manifest(workspace, params)
    assert result["leaks"]["split"] == [{"person": "000001", "clips": {"train": 2, "val": 1}, "donor_only": False}]
    told = "The splits LEAK: 1 people stand in more than one, in 3 clips"
    assert any(text.startswith(told) for text in result["warnings"])
    # By subject the person is kept together, and the official splits' leak is still told.
    by_subject = TestLavDf().params(tmp_path / "data")
    assert not find_leaks(build_manifest(workspace, by_subject))
    result = check_manifest(workspace, by_subject)
    assert result["leaks"]["split"] == []
    assert [leak["person"] for leak in result["leaks"]["official"]] == ["000001"]
    assert any(text.startswith("The official splits LEAK") for text in result["warnings"])
