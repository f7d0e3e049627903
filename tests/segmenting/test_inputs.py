"""The images of a source and the names of their outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from maskclip import InputError
from maskclip.segmenting.inputs import InputImage, find_inputs, with_pages, write_broken

OUTPUT = Path("/nowhere/out")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A typical folder of photos. The files are empty: nothing here is decoded."""
    for name in ("b.JPG", "a.png", "sub dir/ä.webp", "sub dir/deep/c.tif", "notes.md", "._a.png", ".thumbs/a.png", "d.png/inside.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return tmp_path / "photos"


def names(*sources: str | Path, output: Path = OUTPUT) -> list[str]:
    return [image.name for image in find_inputs([str(source) for source in sources], output)[0]]


def test_a_folder_with_its_subfolders_without_hidden_files(photos: Path) -> None:
    assert names(photos) == ["a.png", "b.JPG", "d.png/inside.png", "sub dir/deep/c.tif", "sub dir/ä.webp"]


def test_links_to_folders_are_followed_once(photos: Path) -> None:
    (photos.parent / "far").mkdir()
    (photos.parent / "far" / "x.png").write_text("")
    (photos / "link").symlink_to(photos.parent / "far")
    (photos.parent / "far" / "back").symlink_to(photos)
    assert [name for name in names(photos) if name.startswith("link")] == ["link/x.png"]


def test_a_file_with_any_suffix(photos: Path) -> None:
    assert names(photos / "notes.md") == ["notes.md"]


def test_globs(photos: Path) -> None:
    assert names(f"{photos}/**/*.*[gp]") == ["a.png", "d.png/inside.png", "sub dir/ä.webp"]
    assert names(f"{photos}/*/*.webp") == ["sub dir/ä.webp"]
    with pytest.raises(InputError, match=r"no images in .*\*\.md \(input\): give .*; left out: files that are not images: 1 \.md"):
        names(f"{photos}/*.md")


def test_relative_sources(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    assert find_inputs(["photos/*.png"], OUTPUT)[0] == [InputImage(str(photos / "a.png"), "a.png")]
    assert find_inputs(["photos/a.png", "."], OUTPUT)[0][:2] == [
        InputImage(str(photos / "a.png"), "a.png"),  # once, as it was named first
        InputImage(str(photos / "b.JPG"), "photos/b.JPG"),
    ]


def test_a_list_of_paths(photos: Path) -> None:
    elsewhere = photos.parent / "elsewhere" / "x.png"
    content = f"\ufeff# which\n\n a.png \r\nsub dir/ä.webp\nmissing.jpg\n{elsewhere}\n../elsewhere/y.png\nb.JPG\tother/name\n"
    (photos / "list.txt").write_text(content, encoding="utf-8")
    images, _ = find_inputs([str(photos / "list.txt")], OUTPUT)
    below = photos.parent.relative_to("/").as_posix()
    expected = ["a.png", "sub dir/ä.webp", "missing.jpg", f"{below}/elsewhere/x.png", f"{below}/elsewhere/y.png", "other/name"]
    assert [image.name for image in images] == expected
    assert images[0].path == str(photos / "a.png")


def test_names_that_are_not_utf8_survive_a_list(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Path(path).write_text("")
    write_broken(tmp_path / "broken.txt", [], [(InputImage(path, os.fsdecode(b"\xff")), "why")])
    assert find_inputs([str(tmp_path / "broken.txt")], OUTPUT)[0] == [InputImage(path, os.fsdecode(b"\xff"))]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", r"no such file or folder: .*nowhere \(input\): give an image, a folder or a glob, as in input=photos/$"),
        ("empty", r"no images in .*empty \(input\): give an image, a folder or a glob, as in input=photos/$"),
        ("nothing.txt", r"the list .*nothing\.txt has no images"),
        ("out.txt", "outside of the output folder: ../x"),
    ],
)
def test_sources_without_images(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").write_text("# nothing\n\n")
    (tmp_path / "out.txt").write_text("a.png\t../x\n")
    with pytest.raises(InputError, match=message):
        names(tmp_path / source)


def test_names_do_not_depend_on_neighbours(tmp_path: Path) -> None:
    for name in ("cat.jpg", "cat.png", "cat_jpg.png", "b.png"):
        (tmp_path / name).write_text("")
    assert names(tmp_path) == ["b.png", "cat.jpg", "cat.png", "cat_jpg.png"]
    assert names(tmp_path / "cat.jpg") == ["cat.jpg"]


def test_two_images_with_the_same_output(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_text("")
    (tmp_path / "list.txt").write_text("one/a.jpg\tsame\ntwo/a.jpg\tsame\n")
    with pytest.raises(InputError, match=r"the outputs of .*one/a\.jpg and .*two/a\.jpg would have the same name, same: use the folder"):
        names(tmp_path / "list.txt")
    with pytest.raises(InputError, match=r"the same name, a\.jpg"):
        names(tmp_path / "one", tmp_path / "two")
    assert names(tmp_path / "one", tmp_path / "one" / "a.jpg") == ["a.jpg"]
    assert names(tmp_path) == ["one/a.jpg", "two/a.jpg"]


def test_an_output_that_is_the_input_is_refused_with_a_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "my photos [2]"
    folder.mkdir()
    Image.new("L", (4, 4)).save(folder / "a.png")
    with pytest.raises(InputError, match="is a folder of the input") as error:
        find_inputs([str(folder)], folder)
    assert str(error.value).endswith(f"""such as output='"{folder}/segmented"'""")


def test_an_output_folder_below_the_input_does_not_hide_images(photos: Path) -> None:
    assert names(photos, output=photos / "sub dir") == names(photos)
    with pytest.raises(InputError, match="is a folder of the input"):
        names(photos, output=photos)


def test_files_that_are_left_out_are_counted(photos: Path) -> None:
    (photos / "phone.HEIC").write_text("")
    expected = {".md": 1, ".heic": 1}
    for source in (photos, f"{photos}/*"):
        assert find_inputs([str(source)], OUTPUT)[1].suffixes == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_list_in_the_encodings_that_windows_writes(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "list.txt").write_bytes(f"{mark}ä.png\r\nsub/b.jpg\r\n".encode(encoding))
    assert names(tmp_path / "list.txt") == ["ä.png", "sub/b.jpg"]


def draw_pages(path: Path, count: int) -> None:
    pages = [Image.new("L", (8, 6), 40 * page) for page in range(count)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def test_every_page_has_a_stable_name(tmp_path: Path) -> None:
    draw_pages(tmp_path / "scan.tif", 3)
    draw_pages(tmp_path / "wave.gif", 2)
    (tmp_path / "broken.tif").write_text("no image")
    Image.new("L", (8, 6)).save(tmp_path / "a.jpg")
    images = find_inputs([str(tmp_path)], OUTPUT)[0]
    pages = ["scan.tif", "scan.tif.page-0002", "scan.tif.page-0003", "wave.gif", "wave.gif.page-0002"]
    assert [image.name for image in with_pages(images)] == ["a.jpg", "broken.tif", *pages]
    assert [image.page for image in with_pages(images)] == [0, 0, 0, 1, 2, 0, 1]


def test_a_page_survives_the_list_of_broken_images(tmp_path: Path) -> None:
    draw_pages(tmp_path / "scan.tif", 3)
    path, page = tmp_path / "broken.txt", InputImage(str(tmp_path / "scan.tif"), "scan.tif.page-0002", 1)
    write_broken(path, [page], [(page, "cut off")])
    again = find_inputs([str(path)], OUTPUT)[0]
    assert again == [page] == with_pages(again)
    write_broken(path, [page], [])
    assert not path.exists()


@pytest.mark.parametrize("line", ["a.tif\t\t0", "a.tif\tname\tlast"])
def test_invalid_pages(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(line)
    with pytest.raises(InputError, match=r"as the page of a\.tif: give a number from 1"):
        names(tmp_path / "list.txt")


def test_a_page_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.tif\t\t3\na.tif\n")
    assert [(image.name, image.page) for image in find_inputs([str(tmp_path / "list.txt")], OUTPUT)[0]] == [
        ("a.tif.page-0003", 2),
        ("a.tif", 0),
    ]


def test_the_list_of_broken_images(tmp_path: Path) -> None:
    path, first, second = tmp_path / "broken.txt", InputImage("/p/a.jpg", "a"), InputImage("/q/sub/b.jpg", "sub/b")
    write_broken(path, [first], [(first, "cut\noff")])
    write_broken(path, [second], [(second, "no image")])  # of another run into the same folder
    assert path.read_text().splitlines()[1:] == ["# cut off", "/p/a.jpg\ta", "# no image", "/q/sub/b.jpg\tsub/b"]
    assert find_inputs([str(path)], OUTPUT)[0] == [first, second]
    write_broken(path, [first, second], [])
    assert not path.exists()


@pytest.mark.parametrize("name", ["a .jpg ", " a", "tab\there", "line\nbreak", "car\rriage", '"quoted"', "#number", 'half"', "", "ünï ☃"])
def test_any_name_survives_the_list_of_broken_images(tmp_path: Path, name: str) -> None:
    path, image = tmp_path / "broken.txt", InputImage(f"/p/{name}.jpg", f"{name}x" if name else "x")
    write_broken(path, [image], [(image, "cut off")])
    assert find_inputs([str(path)], OUTPUT)[0] == [image]
    write_broken(path, [], [])
    assert find_inputs([str(path)], OUTPUT)[0] == [image]
    write_broken(path, [image], [])
    assert not path.exists()


def test_a_list_of_paths_with_quotes(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text('"odd\\tname.jpg"\n"not json\n  plain.jpg\r\n')
    assert names(tmp_path / "list.txt") == ["odd\tname.jpg", '"not json', "plain.jpg"]
