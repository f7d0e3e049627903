"""Which pictures a source means, and where their outputs go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskclip import InputError
from maskclip.segmenting.inputs import Picture, find_pictures, write_broken

OUTPUT = Path("/nowhere/out")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder as people have them; nothing here is decoded."""
    for name in ("b.JPG", "a.png", "sub dir/ä.webp", "sub dir/deep/c.tif", "notes.md", "._a.png", ".thumbs/a.png", "d.png/inside.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return tmp_path / "photos"


def names(*sources: str | Path, output: Path = OUTPUT) -> list[str]:
    return [picture.name for picture in find_pictures([str(source) for source in sources], output)]


def test_a_folder_with_its_subfolders_without_what_is_hidden(photos: Path) -> None:
    assert names(photos) == ["a", "b", "d.png/inside", "sub dir/deep/c", "sub dir/ä"]


def test_linked_folders_are_followed_and_circles_are_not(photos: Path) -> None:
    (photos.parent / "far").mkdir()
    (photos.parent / "far" / "x.png").write_text("")
    (photos / "link").symlink_to(photos.parent / "far")
    (photos.parent / "far" / "back").symlink_to(photos)
    assert [name for name in names(photos) if name.startswith("link")] == ["link/x"]


def test_a_file_whatever_its_suffix(photos: Path) -> None:
    assert names(photos / "notes.md") == ["notes"]


def test_globs(photos: Path) -> None:
    assert names(f"{photos}/**/*.*[gp]") == ["a", "d.png/inside", "sub dir/ä"]
    assert names(f"{photos}/*/*.webp") == ["sub dir/ä"]
    with pytest.raises(InputError, match=r"no images fit .*\*\.md"):
        names(f"{photos}/*.md")


def test_relative_sources(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    assert find_pictures(["photos/*.png"], OUTPUT) == [Picture(str(photos / "a.png"), "a")]
    assert find_pictures(["photos/a.png", "."], OUTPUT)[:2] == [
        Picture(str(photos / "a.png"), "a"),  # once, as it was named first
        Picture(str(photos / "b.JPG"), "photos/b"),
    ]


def test_a_list_of_paths(photos: Path) -> None:
    elsewhere = photos.parent / "elsewhere" / "x.png"
    content = f"\ufeff# which\n\n a.png \r\nsub dir/ä.webp\nmissing.jpg\n{elsewhere}\n../elsewhere/y.png\nb.JPG\tother/name\n"
    (photos / "list.txt").write_text(content, encoding="utf-8")
    pictures = find_pictures([str(photos / "list.txt")], OUTPUT)
    below = photos.parent.relative_to("/").as_posix()
    expected = ["a", "sub dir/ä", "missing", f"{below}/elsewhere/x", f"{below}/elsewhere/y", "other/name"]
    assert [picture.name for picture in pictures] == expected
    assert pictures[0].path == str(photos / "a.png")


def test_names_that_are_no_utf8_survive_a_list(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Path(path).write_text("")
    write_broken(tmp_path / "broken.txt", [], [(Picture(path, os.fsdecode(b"\xff")), "why")])
    assert find_pictures([str(tmp_path / "broken.txt")], OUTPUT) == [Picture(path, os.fsdecode(b"\xff"))]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "no such file or folder: .*nowhere"),
        ("empty", "no images in .*empty"),
        ("nothing.txt", r"the list .*nothing\.txt names no images"),
        ("out.txt", "leads out of their folder: ../x"),
    ],
)
def test_what_names_nothing(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").write_text("# nothing\n\n")
    (tmp_path / "out.txt").write_text("a.png\t../x\n")
    with pytest.raises(InputError, match=said):
        names(tmp_path / source)


def test_two_suffixes_keep_them(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        (tmp_path / name).write_text("")
    assert names(tmp_path) == ["a_jpg", "a_png", "b"]


def test_two_pictures_for_one_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_text("")
    (tmp_path / "list.txt").write_text("one/a.jpg\tsame\ntwo/a.jpg\tsame\n")
    with pytest.raises(InputError, match=r"one/a\.jpg and .*two/a\.jpg would be written to the same place"):
        names(tmp_path / "list.txt")
    assert names(tmp_path / "one", tmp_path / "one" / "a.jpg") == ["a"]


def test_outputs_among_the_pictures_are_no_input(photos: Path) -> None:
    assert names(photos, output=photos / "sub dir") == ["a", "b", "d.png/inside"]
    with pytest.raises(InputError, match="is a folder of the input"):
        names(photos, output=photos)


def test_the_list_of_broken_pictures(tmp_path: Path) -> None:
    path, first, second = tmp_path / "broken.txt", Picture("/p/a.jpg", "a"), Picture("/q/sub/b.jpg", "sub/b")
    write_broken(path, [first], [(first, "cut\noff")])
    write_broken(path, [second], [(second, "no picture")])  # of another run into the same folder
    assert path.read_text().splitlines()[1:] == ["# cut off", "/p/a.jpg\ta", "# no picture", "/q/sub/b.jpg\tsub/b"]
    assert find_pictures([str(path)], OUTPUT) == [first, second]
    write_broken(path, [first, second], [])
    assert not path.exists()


@pytest.mark.parametrize("name", ["a .jpg ", " a", "tab\there", "line\nbreak", "car\rriage", '"quoted"', "#number", 'half"', "", "ünï ☃"])
def test_any_name_survives_the_list_of_broken_pictures(tmp_path: Path, name: str) -> None:
    path, picture = tmp_path / "broken.txt", Picture(f"/p/{name}.jpg", f"{name}x" if name else "x")
    write_broken(path, [picture], [(picture, "cut off")])
    assert find_pictures([str(path)], OUTPUT) == [picture]
    write_broken(path, [], [])
    assert find_pictures([str(path)], OUTPUT) == [picture]
    write_broken(path, [picture], [])
    assert not path.exists()


def test_a_list_of_paths_with_quotes(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text('"odd\\tname.jpg"\n"not json\n  plain.jpg\r\n')
    assert names(tmp_path / "list.txt") == ["odd\tname", '"not json', "plain"]
