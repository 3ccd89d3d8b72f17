"""What a user notices who trains on a zip or tar: the same data set as the folder, and nothing outside is touched."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart.answering import find
from headstart.data import archive, unpacking
from headstart.data.dataset import Dataset
from headstart.data.loading import folder_of, load_dataset, load_labelled
from headstart.errors import BadData, BadSetting, DiskFull, HeadstartError
from headstart.modalities.png import encode

TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photo(seed: int) -> bytes:
    """A PNG that no other seed gives."""
    return encode(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))


def photos(*classes: str, each: int = 6) -> dict[str, bytes]:
    """Paths and contents of a small data set."""
    return {
        f"{name}/{number}.png": photo(1000 * place + number)
        for place, name in enumerate(classes or ("cat", "dog"))
        for number in range(each)
    }


def as_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_zip(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def as_tar(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    mode: Any = next(mode for suffix, mode in TARS.items() if path.name.endswith(suffix))
    with tarfile.open(path, mode) as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for info in extra:
            packed.addfile(info)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def same(one: Dataset, other: Dataset) -> bool:
    """Whether both hold the same photos, with the same classes and splits."""
    return one.hash == other.hash and one.classes == other.classes


def reasons(data: Dataset) -> dict[str, str]:
    return {file.path: file.reason for file in data.skipped}


# ---- the same as the folder


@pytest.mark.parametrize("name", ["a.zip", "A.ZIP", *(f"a{suffix}" for suffix in TARS)])
def test_an_archive_is_the_same_data_set_as_its_folder(name: str, tmp_path: Path) -> None:
    files = photos()
    pack = as_zip if name.lower().endswith(".zip") else as_tar
    data = load_dataset(pack(tmp_path / name, files))
    assert same(data, load_dataset(as_folder(tmp_path / "folder", files)))
    assert data.root == tmp_path / name
    assert [file.read_bytes() for file in data.files] == [files[item.path] for item in data.items]
    assert not (tmp_path / "cat").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_every_usual_packing_of_a_zip_is_read(method: int, tmp_path: Path) -> None:
    files = photos()
    data = load_dataset(as_zip(tmp_path / "a.zip", files, method=method))
    assert [file.read_bytes() for file in data.files] == [files[item.path] for item in data.items]


def test_the_folder_that_an_archive_is_wrapped_in_is_looked_through(tmp_path: Path) -> None:
    files = {f"pets/photos/{name}": content for name, content in photos().items()}
    data = load_dataset(as_zip(tmp_path / "a.zip", {"pets/README.txt": b"hello", **files}))
    assert data.classes == ("cat", "dog")
    assert len(data) == 12
    assert data.items[0].path == "pets/photos/cat/0.png"


def test_folders_for_splits_count_in_an_archive_too(tmp_path: Path) -> None:
    files = {f"wrapped/{side}/{name}": photo(hash((side, name)) % 2**32) for side in ("train", "val", "test")
             for name in photos(each=3)}  # fmt: skip
    data = load_dataset(as_zip(tmp_path / "a.zip", files))
    assert [len(data.only(side)) for side in ("train", "validation", "test")] == [6, 6, 6]
    assert data.user_splits


def test_clutter_is_passed_over_and_the_rest_is_listed(tmp_path: Path) -> None:
    clutter = {"__MACOSX/cat/._0.png": b"x", "cat/.DS_Store": b"x", "cat/Thumbs.db": b"x", ".git/config": b"x"}
    odd = {"cat/notes.txt": b"words", "cat/empty.png": b"", "dog/more.zip": b"PK\x03\x04 and so on", "README": b"hi"}
    data = load_dataset(as_zip(tmp_path / "a.zip", {**photos(), **clutter, **odd}))
    assert set(reasons(data)) == set(odd)
    assert reasons(data)["dog/more.zip"] == "an archive inside the archive, which is not looked into"
    assert reasons(data)["README"] == "not in a class folder"


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = as_zip(tmp_path / "inner.zip", photos("emu", "fox")).read_bytes()
    data = load_dataset(as_tar(tmp_path / "a.tar", {**photos(), "dog/z.zip": inner}))
    assert data.classes == ("cat", "dog")


def test_names_written_on_windows_or_a_mac_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(6):
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = f"cat\\{number}.png"
            packed.writestr(info, photo(number))
            packed.writestr(f"KAFE/{number}.png", photo(100 + number))
    # UTF-8 without the flag that says so, as the Finder writes it
    path.write_bytes(path.read_bytes().replace(b"KAFE", "fé1".encode()))
    assert set(load_dataset(path).classes) == {"cat", "fé1"}


def test_a_run_can_be_opened_when_its_archive_is_gone(tmp_path: Path) -> None:
    data = load_dataset(as_zip(tmp_path / "a.zip", photos()))
    (tmp_path / "a.zip").unlink()
    with pytest.raises(OSError, match=r"No such file|Not a directory"):
        data.files[0].read_bytes()


def test_an_archive_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", photos())
    data = load_dataset(path)
    as_zip(path, photos("cat", "dog", "emu"))
    assert load_dataset(path).classes == ("cat", "dog", "emu")
    as_zip(path, photos("emu", "fox"))
    with pytest.raises(OSError, match="no longer in the archive"):
        data.file("cat/0.png").read_bytes()


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_many_threads_read_one_archive_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = photos(each=40)
    data = load_dataset((as_zip if name.endswith("zip") else as_tar)(tmp_path / name, files))
    archive._index.cache_clear()
    barrier = threading.Barrier(16)
    arranged: list[int] = []
    arrange = archive._arranged
    monkeypatch.setattr(archive, "_arranged", lambda *given: [arranged.append(1), arrange(*given)][1])

    def read(_: int) -> bool:
        barrier.wait()
        return all(file.read_bytes() == files[item.path] for item, file in zip(data.items, data.files, strict=True))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(16)))
    assert len(arranged) == 1


def test_photos_of_an_archive_are_answered_and_judged(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {**photos(), "cat/notes.txt": b"words", "dog/.hidden.png": b"x"})
    found = find([path], frozenset({".png"}))
    assert [str(file) for file in found] == [f"{path}/{name}" for name in sorted(photos())]
    (one,) = find([path / "cat" / "3.png"], frozenset({".png"}))
    assert one.read_bytes() == photos()["cat/3.png"]
    assert len(load_labelled(path, classes=("cat", "dog", "emu")).test) == 12
    with pytest.raises(BadData, match="classes that the model does not know: 'dog'"):
        load_labelled(path, classes=("cat", "emu"))


# ---- what leads out is never followed


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside.png", "'..'"),
        ("cat/../../outside.png", "'..'"),
        ("/tmp/outside.png", "absolute"),
        ("C:/outside.png", "drive"),
        ("C:\\outside.png", "drive"),
        ("..\\outside.png", "'..'"),
    ],
)
def test_a_name_that_leads_out_is_listed_and_not_read(name: str, reason: str, tmp_path: Path) -> None:
    data = load_dataset(as_zip(tmp_path / "a.zip", {**photos(), name: photo(77)}))
    assert len(data) == 12
    (why,) = reasons(data).values()
    assert reason in why


@pytest.mark.parametrize("name", ["../outside.png", "/tmp/outside.png", "cat/../../outside.png"])
def test_a_tar_with_a_name_that_leads_out_writes_nothing_there(name: str, tmp_path: Path, cache: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    before = set(tmp_path.iterdir())
    data = load_dataset(as_tar(inner / "a.tar.gz", {**photos(), name: photo(77)}))
    assert len(data) == 12
    assert list(reasons(data)) == [name]
    assert set(tmp_path.iterdir()) - before <= {cache}
    assert not os.path.exists("/tmp/outside.png")


def test_links_are_followed_inside_an_archive_and_never_out_of_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(photo(5))
    links = [
        link("dog/good.png", "../cat/0.png"),
        link("dog/hard.png", "cat/1.png", tarfile.LNKTYPE),
        link("dog/out.png", str(secret)),
        link("dog/up.png", "../../secret.png"),
        link("dog/gone.png", "none.png"),
        link("dog/round.png", "round.png"),
        link("bird", "cat"),
    ]
    data = load_dataset(as_tar(tmp_path / "a.tar", photos(), *links))
    assert {item.path for item in data.items} - set(photos()) == {"dog/good.png", "dog/hard.png"}
    assert data.file("dog/good.png").read_bytes() == photos()["cat/0.png"]
    assert reasons(data) == {
        "dog/out.png": "a link that leads out of the archive",
        "dog/up.png": "a link that leads out of the archive",
        "dog/gone.png": "a link that leads nowhere",
        "dog/round.png": "a link that leads to itself",
        "bird": "a link to a folder, which is not followed in an archive",
    }


def test_a_link_in_a_zip_that_leads_out_is_listed(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", photos())
    with zipfile.ZipFile(path, "a") as packed:
        info = zipfile.ZipInfo("cat/out.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    assert reasons(load_dataset(path)) == {"cat/out.png": "a link that leads out of the archive"}


def test_devices_and_pipes_in_a_tar_are_listed(tmp_path: Path) -> None:
    data = load_dataset(as_tar(tmp_path / "a.tar", photos(), link("cat/pipe", "", tarfile.FIFOTYPE)))
    assert reasons(data) == {"cat/pipe": "not a regular file"}


# ---- what cannot be read


def test_an_encrypted_member_is_listed(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", photos())
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the last member's line in the list of all
    content[entry + 8] |= 1
    path.write_bytes(content)
    assert reasons(load_dataset(path)) == {"dog/5.png": "encrypted (unpack it with its password)"}


def test_of_two_members_of_one_name_the_later_counts_as_when_unpacking(tmp_path: Path) -> None:
    as_zip(tmp_path / "a.zip", photos())
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
        packed.writestr("cat/0.png", photo(99))
    data = load_dataset(tmp_path / "a.zip")
    assert data.file("cat/0.png").read_bytes() == photo(99)
    assert reasons(data) == {"cat/0.png": "the archive holds a later file of the same name, which is used"}


def test_a_member_that_is_larger_than_it_says_is_stopped_and_listed(tmp_path: Path) -> None:
    bomb = photo(1) + bytes(50_000_000)
    path = as_zip(tmp_path / "a.zip", {**photos(), "cat/bomb.png": bomb})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, 1000)  # what its line says of its size
    path.write_bytes(content)
    assert reasons(load_dataset(path))["cat/bomb.png"].endswith("it is larger than the archive says")


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_member_of_absurd_size_is_not_unpacked(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST", 1_000_000)
    pack = as_zip if name == "a.zip" else as_tar
    path = pack(tmp_path / name, {**photos(), "cat/bomb.png": photo(1) + bytes(2_000_000)})
    assert "GB when unpacked" in reasons(load_dataset(path))["cat/bomb.png"]


def test_an_archive_that_swells_beyond_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SWELLING", 10)
    path = as_zip(tmp_path / "a.zip", {**photos(), "cat/bomb.png": bytes(30_000_000)})
    with pytest.raises(BadData, match="a zip bomb"):
        load_dataset(path)


def test_a_damaged_member_is_listed_and_the_others_count(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", photos(), method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(photo(3)) + 60] ^= 0xFF
    path.write_bytes(content)
    data = load_dataset(path)
    assert len(data) == 11
    assert reasons(data) == {"cat/3.png": "it is damaged in the archive: its checksum is wrong"}


@pytest.mark.parametrize("name", ["a.zip", *(f"a{suffix}" for suffix in TARS)])
def test_an_archive_that_is_cut_short_or_none_is_refused(name: str, tmp_path: Path) -> None:
    whole = (as_zip if name == "a.zip" else as_tar)(tmp_path / name, photos(each=60))
    whole.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(BadData, match="is damaged"):
        load_dataset(whole)
    whole.write_bytes(b"this is no archive")
    with pytest.raises(BadData, match="is damaged"):
        load_dataset(whole)


def needs_a_later_version(content: bytes) -> bytes:
    entry = content.rindex(b"PK\x01\x02")
    return content[: entry + 6] + b"\x63" + content[entry + 7 :]


def misspells_a_name(content: bytes) -> bytes:
    return content.replace("ä".encode(), b"\xff\xfe")


@pytest.mark.parametrize("change", [needs_a_later_version, misspells_a_name])
def test_a_zip_whose_list_of_members_is_odd_is_refused(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {**photos(), "cat/ä.png": photo(99)})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadData, match="is damaged"):
        load_dataset(path)


def test_an_archive_without_photos_or_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="is empty"):
        load_dataset(as_zip(tmp_path / "a.zip", {}))
    with pytest.raises(BadData, match=r"holds files \(2\), but no class folders"):
        load_dataset(as_zip(tmp_path / "b.zip", {"1.png": photo(1), "2.png": photo(2)}))
    with pytest.raises(BadData, match="no readable photo in archive"):
        load_dataset(as_tar(tmp_path / "c.tar", {"cat/1.txt": b"text", "dog/2.png": b""}))


def test_what_is_no_archive_or_table_is_refused_with_what_can_be_given(tmp_path: Path) -> None:
    for name, fix in {"a.rar": "pack it as .zip or .tar", "a.txt": "an archive of one"}.items():
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(BadData, match="is a file, not a folder") as caught:
            folder_of(tmp_path / name)
        assert fix in caught.value.fix
    with pytest.raises(BadData, match="is an address"):
        folder_of("https://example.org/photos.zip")
    with pytest.raises(BadSetting, match="class names are given for an archive"):
        load_dataset(as_zip(tmp_path / "a.zip", photos()), classes=["a", "b"])
    with pytest.raises(BadSetting, match="columns are named"):
        load_dataset(tmp_path / "a.zip", columns="label=x")


# ---- compressed tars


def test_a_compressed_tar_is_unpacked_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_tar(tmp_path / "a.tar.gz", photos())
    load_dataset(path)
    (kept,) = (cache / "archives").iterdir()
    monkeypatch.setattr(unpacking, "_unpack", lambda *_: pytest.fail("unpacked again"))
    archive._index.cache_clear()
    load_dataset(path)
    assert list((cache / "archives").iterdir()) == [kept]


def test_a_compressed_tar_is_unpacked_again_when_the_cache_was_cleared(tmp_path: Path, cache: Path) -> None:
    data = load_dataset(as_tar(tmp_path / "a.tar.gz", photos()))
    shutil.rmtree(cache)
    assert data.files[0].read_bytes() == photos()["cat/0.png"]


def test_a_compressed_bomb_is_refused_and_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "LEAST", 1_000_000)
    path = as_tar(tmp_path / "a.tar.gz", {**photos(), "cat/bomb.png": bytes(30_000_000)})
    with pytest.raises(BadData, match="more than 200 times its size"):
        load_dataset(path)
    assert list((cache / "archives").iterdir()) == []


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "SPARE", 1 << 62)
    with pytest.raises(DiskFull, match="no room to unpack"):
        load_dataset(as_tar(tmp_path / "a.tar.gz", photos()))
    assert list((cache / "archives").iterdir()) == []


def test_unpacked_tars_that_were_used_longest_ago_make_room(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_dataset(as_tar(tmp_path / "a.tar.gz", photos()))
    monkeypatch.setattr(unpacking, "TOTAL", 1)
    load_dataset(as_tar(tmp_path / "b.tar.gz", photos("emu", "fox")))
    assert len(list((cache / "archives").iterdir())) == 1


# ---- whatever bytes come


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["a.zip", "a.tar", "a.tgz"]), st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255))))
def test_no_change_of_bytes_gives_more_than_a_refusal(tmp_path: Path, name: str, changes: list[Any]) -> None:
    folder = tmp_path / "whole"
    folder.mkdir(exist_ok=True)
    if not (folder / name).exists():
        (as_zip if name == "a.zip" else as_tar)(folder / name, photos(each=2))
    content = bytearray((folder / name).read_bytes())
    for place, change in changes:
        content[place % len(content)] ^= change
    (tmp_path / name).write_bytes(content)
    archive._index.cache_clear()
    try:
        held = archive.index(tmp_path / name)
    except HeadstartError:
        return
    for member in held.files.values():
        try:
            member.read_bytes()
        except OSError:
            continue
