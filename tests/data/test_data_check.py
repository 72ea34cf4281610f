"""check_folder and read_folder: one report, every bad file in it, and DataError as the only exception."""

import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from spf.config import MAX_TEXT
from spf.data.check import check_folder
from spf.data.metadata import KEYS, METADATA, read_row
from spf.data.pictures import load_picture
from spf.data.records import Record, read_folder
from spf.errors import DataError


def kinds(findings) -> list[str]:
    return [finding.kind for finding in findings]


def the_problem(folder: Path):
    """The only problem of a folder; also requires that read_folder refuses it in the same words."""
    report = check_folder(folder)
    assert len(report.problems) == 1, report.to_text()
    assert not report.ok
    with pytest.raises(DataError) as caught:
        read_folder(folder)
    assert caught.value.problems == [str(report.problems[0])]
    return report.problems[0]


# good folders


def test_a_good_folder(picture_set):
    folder = picture_set()
    report = check_folder(folder)
    assert report.ok and report.pictures == 8 and not report.warnings
    assert report.targets == {"a winter hat": 8}
    assert report.smallest == report.largest == (96, 80)
    assert "8 usable pictures, ready to train" in report.to_text()
    assert json.loads(json.dumps(report.to_dict()))["pictures"] == 8
    assert read_folder(folder)[3] == Record(folder / "3.png", "a person, scene 3", "a winter hat")


def test_the_train_subfolder_of_the_imagefolder_convention(picture_set, tmp_path):
    picture_set(folder="train")
    assert [record.path.parent for record in read_folder(tmp_path)] == [tmp_path / "train"] * 8


def test_a_mark_at_the_start_blank_lines_carriage_returns_and_further_columns(picture_set, row):
    folder = picture_set("", "  ", json.dumps(row("0.png", base_text="a\t person\n on  a bench", author="me")) + "\r")
    path = folder / METADATA
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_folder(folder)[-1].base_text == "a person on a bench"


@pytest.mark.parametrize(
    "name", ["une façade été.png", "帽子 🎩.jpg", "sub folder/a b.webp", "./dot.JPEG", "#a%20&'.png"])
def test_names_with_spaces_and_any_script(picture_set, picture, row, name):
    folder = picture_set(row(name))
    (folder / name).parent.mkdir(exist_ok=True)
    picture(99).save(folder / name)
    assert read_folder(folder)[-1].path.samefile(folder / name)
    assert not check_folder(folder).warnings


def test_a_link_inside_the_folder_is_fine(picture_set, row):
    folder = picture_set(row("link.png", base_text="another text"))
    (folder / "link.png").symlink_to("0.png")
    assert check_folder(folder).ok


def test_a_phone_jpeg_with_an_embedded_preview_is_no_animation(picture_set, picture, row):
    folder = picture_set(row("phone.jpg"))
    picture(9).save(folder / "phone.jpg", format="MPO", save_all=True, append_images=[picture(10)])
    assert check_folder(folder).ok


# the folder


def test_missing_folder(tmp_path):
    assert the_problem(tmp_path / "nowhere").kind == "missing-folder"
    assert the_problem(tmp_path / ("n" * 5000)).kind == "missing-folder"
    assert the_problem(Path("a\0b")).kind == "missing-folder"
    (tmp_path / "file").touch()
    assert "is not a folder" in the_problem(tmp_path / "file").message


def test_empty_folder(tmp_path):
    problem = the_problem(tmp_path)
    assert problem.kind == "empty-folder"
    assert "spf dataset render" in problem.message


def test_folder_without_metadata(tmp_path, picture):
    picture().save(tmp_path / "A.PNG")
    problem = the_problem(tmp_path)
    assert problem.kind == "missing-metadata"
    assert "1 picture" in problem.message and "base_text" in problem.message and "dataset render" in problem.message


def test_metadata_without_rows(picture_set):
    assert the_problem(picture_set(count=0)).kind == "no-rows"


def test_metadata_in_utf16(picture_set, row):
    folder = picture_set()
    (folder / METADATA).write_text(json.dumps(row("0.png")), encoding="utf-16")
    assert "UTF-16" in the_problem(folder).message


def test_metadata_that_is_too_large(picture_set, monkeypatch):
    monkeypatch.setattr("spf.data.metadata.MAX_METADATA_BYTES", 100)
    assert the_problem(picture_set()).kind == "bad-metadata"


def test_metadata_that_cannot_be_read(picture_set, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "metadata.jsonl")

    monkeypatch.setattr("spf.data.metadata.read_rows", refuse)
    assert "Permission denied" in the_problem(picture_set()).message


# lines


@pytest.mark.parametrize(
    "line, kind",
    [
        ('{"file_name": "0.png", ', "bad-json"),
        ("{'file_name': '0.png'}", "bad-json"),
        ("[" * 100_000, "bad-json"),
        ('{"file_name": ' + "1" * 5000 + "}", "bad-json"),
        (b'{"file_name": "\xff"}', "not-utf8"),
        ('["0.png"]', "not-an-object"),
        ("null", "not-an-object"),
        ('{"base_text": "a", "target_text": "b"}', "missing-key"),
        ('{"file_name": "0.png", "base_text": "a person"}', "missing-key"),
        ({"file_name": 3, "base_text": "a", "target_text": "b"}, "wrong-type"),
        ({"file_name": "0.png", "base_text": None, "target_text": "b"}, "wrong-type"),
        ({"file_name": "0.png", "base_text": "a", "target_text": ["b"]}, "wrong-type"),
        ({"file_name": " ", "base_text": "a", "target_text": "b"}, "empty-text"),
        ({"file_name": "0.png", "base_text": "", "target_text": "b"}, "empty-text"),
        ({"file_name": "0.png", "base_text": " ,. \u200b", "target_text": "b"}, "empty-text"),
        ({"file_name": "0.png", "base_text": "a", "target_text": "\n"}, "empty-text"),
        ({"file_name": "0.png", "base_text": "a" * (MAX_TEXT + 1), "target_text": "b"}, "text-too-long"),
        ({"file_name": "0.png", "base_text": "a", "target_text": "b" * 100_000}, "text-too-long"),
        ({"file_name": "a" * 100_000, "base_text": "a", "target_text": "b"}, "text-too-long"),
        ({"file_name": "0.png", "base_text": "a\0", "target_text": "b"}, "bad-characters"),
        ({"file_name": "0.png\0", "base_text": "a", "target_text": "b"}, "bad-characters"),
        ({"file_name": "0.png", "base_text": "a", "target_text": "\ud800"}, "bad-characters"),
        ({"file_name": "\udc80.png", "base_text": "a", "target_text": "b"}, "bad-characters"),
        ({"file_name": "0.png", "base_text": "A  winter hat.", "target_text": "a winter HAT,"}, "target-equals-base"),
    ],
)
def test_a_bad_line(picture_set, line, kind):
    problem = the_problem(picture_set(line))
    assert (problem.kind, problem.line) == (kind, 9)
    assert len(problem.message) < 400 and problem.message.isprintable()


def test_every_mistake_of_a_line_is_named():
    _, problems = read_row(1, b'{"file_name": 1, "base_text": "", "other": 0}')
    assert kinds(problems) == ["wrong-type", "empty-text", "missing-key"]


def test_a_bad_line_does_not_hide_what_is_wrong_with_its_picture(picture_set, row):
    assert kinds(check_folder(picture_set(row("gone.png", base_text=""))).problems) == ["empty-text", "missing-file"]


any_text = st.text(st.characters(exclude_categories=()), max_size=12)  # lone surrogates too
texts = any_text | st.sampled_from(["a hat", "0.png", "..", "/", "a/0.png"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3), max_leaves=6)
objects = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, texts | values))
lines = st.binary(max_size=40) | (values | objects).map(json.dumps).map(str.encode)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(lines, max_size=6))
def test_no_metadata_breaks_the_check(lines):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.new("RGB", (64, 64)).save(folder / "0.png")
        (folder / METADATA).write_bytes(b"\n".join(lines))
        report = check_folder(folder)
        json.dumps(report.to_dict(), ensure_ascii=False).encode()
        report.to_text().encode()
        try:
            assert len(read_folder(folder)) == report.pictures > 0
        except DataError as error:
            assert len(error.problems) == len(report.problems) > 0
            str(error).encode()


# files


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/passwd", "a/../../secret.png", "..\\secret.png", "C:\\secret.png", "\\\\host\\share\\a.png",
     "link.png", "linked/secret.png", "loop/../../secret.png"],
)
def test_nothing_outside_the_folder_is_opened(picture_set, picture, row, tmp_path, monkeypatch, name):
    picture(50).save(tmp_path / "secret.png")
    folder = picture_set(row(name))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    opened = []
    monkeypatch.setattr("spf.data.pictures._regular_file", lambda path: opened.append(path.name) or path.open("rb"))
    report = check_folder(folder)
    assert kinds(report.problems) == ["escapes-folder"]
    assert report.problems[0].line == 9 and "secret.png" not in opened and "link.png" not in opened


@pytest.mark.parametrize(
    "name", ["gone.png", "sub/gone.png", "0.png/x.png", "n" * 300 + ".png", "dangling.png", "loop.png", "."])
def test_missing_file(picture_set, row, name):
    folder = picture_set(row(name))
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    assert the_problem(folder).kind in ("missing-file", "unreadable")


@pytest.mark.parametrize(
    "wrong, right", [("a.png", "A.PNG"), ("sub\\b.png", "sub/b.png"), ("e\u0301.png", "\u00e9.png")])
def test_the_file_that_was_meant_is_named(picture_set, picture, row, wrong, right):
    folder = picture_set(row(wrong))
    (folder / right).parent.mkdir(exist_ok=True)
    picture(9).save(folder / right)
    assert f"there is '{right}'" in the_problem(folder).message


def test_a_pipe_does_not_block(picture_set, row):
    folder = picture_set(row("pipe.png"))
    os.mkfifo(folder / "pipe.png")
    assert the_problem(folder).message.startswith("is not a file")


def encoded(picture: Image.Image, suffix: str, **options) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"x{suffix}")
        picture.save(path, **options)
        return path.read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("kept", [0, 4, 11, 20, 40, 0.5, 0.9])
@pytest.mark.parametrize("size", [(96, 80), (700, 600)])
def test_a_picture_cut_off_anywhere(picture_set, picture, row, suffix, kept, size):
    content = encoded(picture(9, size), suffix)
    folder = picture_set(row(f"x{suffix}"))
    (folder / f"x{suffix}").write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert the_problem(folder).kind == "corrupt"


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"just text", "not-a-picture"),
        (b"GIF89a" + bytes(100), "not-a-picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not-a-picture"),
        (b"%PDF-1.7", "not-a-picture"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "not-a-picture"),
        (b"SIMPLE  =                    T" + bytes(100), "not-a-picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "corrupt"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "corrupt"),
        (b"RIFF\x64\0\0\0WEBPVP8 " + bytes(100), "corrupt"),
    ],
)
def test_content_that_is_no_picture(picture_set, row, content, kind):
    folder = picture_set(row())
    (folder / "x.png").write_bytes(content)
    assert the_problem(folder).kind == kind


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "ICO", "PPM", "JPEG2000"])
def test_other_formats_under_a_picture_name(picture_set, picture, row, format):
    folder = picture_set(row())
    picture(9).save(folder / "x.png", format=format)
    assert the_problem(folder).kind == "not-a-picture"


@pytest.mark.parametrize(
    "name, format", [("x.png", "JPEG"), ("x.jpg", "WEBP"), ("x.webp", "PNG"), ("x.gif", "PNG"), ("x", "PNG")])
def test_a_suffix_that_does_not_fit(picture_set, picture, row, name, format):
    folder = picture_set(row(name))
    picture(9).save(folder / name, format=format)
    problem = the_problem(folder)
    assert problem.kind == "wrong-suffix" and "rename it to x." in problem.message


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_the_first_frame_of_an_animation_is_used_and_said_to_be(picture_set, picture, row, suffix):
    folder = picture_set(row(f"x{suffix}"))
    frames = [Image.new("RGB", (96, 80), "blue"), picture(11)]
    Image.new("RGB", (96, 80), "red").save(folder / f"x{suffix}", save_all=True, append_images=frames, lossless=True)
    report = check_folder(folder)
    assert report.ok and [(warning.kind, warning.line) for warning in report.warnings] == [("animated", 9)]
    assert "3 frames" in report.warnings[0].message
    assert load_picture(folder / f"x{suffix}", 64).getpixel((30, 30)) == (255, 0, 0)


def test_too_small(picture_set, picture, row):
    folder = picture_set(row())
    picture(9, (500, 63)).save(folder / "x.png")
    assert "500x63" in the_problem(folder).message
    assert check_folder(folder, minimum_size=63).ok
    assert not check_folder(folder, minimum_size=128).ok
    picture(9, (1, 1)).save(folder / "x.png")
    assert the_problem(folder).kind == "too-small"


def jpeg(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"\x01\x22\0\x02\x11\x01\x03\x11\x01"
    scan = b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3f\0"
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + scan


def webp(width: int, height: int) -> bytes:
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + b"VP8L" + struct.pack("<I", 8) + b"\x2f" + bytes(7)
    return b"RIFF" + struct.pack("<I", len(body)) + body


MEASURE = """
import json, resource, sys, time
from pathlib import Path
from spf.data.check import check_folder
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
report = check_folder(Path(sys.argv[1]))
seconds, after = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, (after - before) / 1024, [[problem.file, problem.kind] for problem in report.problems]]))
"""


def test_hostile_sizes_cost_neither_time_nor_memory(picture_set, row, png):
    """In a fresh process, where the peak of memory is that of the check."""
    hostile = {
        "a.png": png(50_000, 50_000), "b.png": png(9_000, 9_000), "c.png": png(2**31 - 1, 2**31 - 1),
        "d.jpg": jpeg(65_000, 65_000), "e.jpg": jpeg(8_001, 8_000), "f.png": png(64, 1_000_001),
        "g.png": png(64, 64, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 * 10**6)))),
        "h.webp": webp(60_000, 60_000),
    }
    folder = picture_set(*(row(name) for name in hostile))
    for name, content in hostile.items():
        (folder / name).write_bytes(content)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True)
    seconds, mebibytes, problems = json.loads(done.stdout)
    assert seconds < 2 and mebibytes < 256
    assert problems[:6] == [[name, "too-large"] for name in list(hostile)[:6]]
    assert problems[6] == ["g.png", "corrupt"] and problems[7][0] == "h.webp"
    assert not done.stderr


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_limit_of_pixels(picture_set, picture, row, monkeypatch, suffix):
    folder = picture_set(row(f"x{suffix}"))
    picture(9, (97, 80)).save(folder / f"x{suffix}")
    monkeypatch.setattr("spf.data.pictures.MAX_PIXELS", 96 * 80)
    assert the_problem(folder).kind == "too-large"


def test_no_pixels_at_all(picture_set, row, png):
    folder = picture_set(row())
    (folder / "x.png").write_bytes(png(0, 0))
    assert the_problem(folder).kind == "corrupt"


def test_a_file_that_is_too_large(picture_set, row):
    folder = picture_set(row())
    with (folder / "x.png").open("wb") as stream:
        stream.truncate(200 * 10**6)
    assert the_problem(folder).kind == "too-large"


# the set as a whole


def test_a_repeated_row(picture_set, row):
    problem = the_problem(picture_set(row("./0.png"), row("0.png")))
    assert problem.kind == "duplicate-row" and "line 9" in problem.message


@pytest.mark.parametrize(
    "change, kind",
    [
        ({"file_name": "0.png"}, "repeated-picture"),
        ({"file_name": "copy.png"}, "duplicate-picture"),
        ({"file_name": "A.png"}, "colliding-names"),
        ({"base_text": "A person wearing a  Winter hat, at sea"}, "base-names-target"),
    ],
)
def test_warnings_about_a_row(picture_set, picture, row, change, kind):
    folder = picture_set(row("a.png", base_text="a person, at home"), row(**change))
    picture(20).save(folder / "a.png")
    picture(0).save(folder / "copy.png")
    picture(21).save(folder / "A.png")
    picture(22).save(folder / "x.png")
    report = check_folder(folder)
    assert report.ok and len(read_folder(folder)) == 10
    assert [(warning.kind, warning.line) for warning in report.warnings if warning.line] == [(kind, 10)]


@pytest.mark.parametrize("base", ["a person with a winter hatch", "a person with a winter", "aa winter hat"])
def test_only_the_whole_phrase_counts_as_named(picture_set, picture, row, base):
    folder = picture_set(row(base_text=base))
    picture(9).save(folder / "x.png")
    assert not check_folder(folder).warnings


def test_pictures_that_no_row_names(picture_set, picture):
    folder = picture_set()
    (folder / "sub").mkdir()
    for name in ("sub/more.JPG", "more.png", ".hidden.png"):
        picture(9).save(folder / name)
    (folder / "notes.txt").touch()
    assert [warning.file for warning in check_folder(folder).warnings] == ["more.png", "sub/more.JPG"]


def test_pictures_of_other_kinds_are_not_passed_over_without_a_word(picture_set, picture, tmp_path):
    """What a phone saves, beside pictures that can be read and without any."""
    folder = picture_set()
    for name in ("IMG_1.HEIC", "sub/b.tiff", ".hidden.gif"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    report = check_folder(folder)
    assert report.ok and [(warning.file, warning.kind) for warning in report.warnings] == [
        ("IMG_1.HEIC", "foreign-picture"), ("sub/b.tiff", "foreign-picture")]
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_2.HEIC").write_bytes(b"x")
    problem = the_problem(tmp_path / "phone")
    assert problem.kind == "foreign-picture" and "IMG_2.HEIC" in problem.message and "JPEG" in problem.message


def test_few_pictures_and_many_phrases(picture_set, picture, row):
    assert kinds(check_folder(picture_set(count=3)).warnings) == ["few-pictures"]
    folder = picture_set(*(row("0.png", target_text=f"hat number {index}") for index in range(9)), folder="many")
    report = check_folder(folder)
    assert "many-phrases" in kinds(report.warnings)
    assert next(iter(report.targets.items())) == ("a winter hat", 8) and len(report.targets) == 10


def test_a_long_report_is_cut_for_the_exception_only(picture_set, row):
    folder = picture_set(*(row(f"gone{index}.png") for index in range(60)))
    report = check_folder(folder)
    assert "gone59.png" in report.to_text() and report.pictures == 8
    with pytest.raises(DataError) as caught:
        read_folder(folder)
    assert len(caught.value.problems) == 51 and caught.value.problems[-1] == "+10 more"
    assert "dataset check" in str(caught.value)


def test_control_characters_do_not_reach_the_terminal(picture_set, row):
    report = check_folder(picture_set(row("\x1b[31mred\u202e.png"), row("\x1b]0;title.png")))
    assert len(report.problems) == 2
    assert all(line.isprintable() for line in report.to_text().splitlines())
