import hashlib
import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from calibration.datasets import load_dataset, make_dataset
from runtime.errors import CmtError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CMT_CACHE", str(folder))
    return folder


def picture(value, *, size=(4, 5), channels=1):
    shape = size if channels == 1 else (*size, channels)
    return np.random.default_rng(value).integers(0, 256, shape, np.uint8)


def write_folder(root, *, classes=("cat", "dog"), per_class=3, **options):
    for split, offset in (("train", 0), ("test", 100)):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for index in range(per_class):
                image = picture(offset + 10 * number + index, **options)
                Image.fromarray(image).save(root / split / name / f"{index}.png")
    return root


def arrays(**changes):
    images = np.stack([picture(index) for index in range(6)])
    labels = np.array([0, 1, 2, 0, 1, 2])
    return {"x_train": images, "y_train": labels, "x_test": images[::-1], "y_test": labels} | changes


def write_npz(path, **changes):
    np.savez(path, **{name: value for name, value in arrays(**changes).items() if value is not None})
    return path


def test_digits_are_all_there_once_and_split_the_same_every_time():
    found, again = load_dataset("digits"), load_dataset("digits")
    assert (len(found.train), len(found.test), found.input_shape) == (1437, 360, (8, 8, 1))
    assert found.classes == tuple("0123456789")
    assert (found.train.digest, found.test.digest) == (again.train.digest, again.test.digest)
    ours = sorted(image.tobytes() for split in (found.train, found.test) for image in split.images)
    bundled = load_digits().images
    assert ours == sorted(np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in bundled)
    assert found.test.images.max() == 255


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_folder_is_read_as_it_was_written(tmp_path, channels):
    found = load_dataset(write_folder(tmp_path, channels=channels))
    assert (found.name, found.classes, found.input_shape) == (str(tmp_path), ("cat", "dog"), (4, 5, channels))
    assert found.train.labels.tolist() == found.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.stack([picture(100 + value, channels=channels) for value in (0, 1, 2, 10, 11, 12)])
    np.testing.assert_array_equal(found.test.images, expected.reshape(found.test.images.shape))
    assert (found.train.labels.dtype, found.train.images.dtype) == (np.int64, np.uint8)


def test_grey_pictures_saved_as_colour_become_grey(tmp_path):
    write_folder(tmp_path)
    for path in tmp_path.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    assert load_dataset(tmp_path).input_shape == (4, 5, 1)


@pytest.mark.parametrize("stored", ["L", "RGB"])
def test_one_coloured_training_image_makes_all_coloured(tmp_path, stored):
    write_folder(tmp_path)
    last = tmp_path / "train" / "dog" / "x.png"
    for number in range(20):
        Image.fromarray(picture(number)).convert(stored).save(tmp_path / "train" / "dog" / f"w{number}.png")
    Image.fromarray(picture(9, channels=3)).save(last)
    assert load_dataset(tmp_path).input_shape == (4, 5, 3)
    last.unlink()
    assert load_dataset(tmp_path).input_shape == (4, 5, 1)


def test_a_coloured_test_image_beside_grey_training_images(tmp_path):
    write_folder(tmp_path)
    Image.fromarray(picture(9, channels=3)).save(tmp_path / "test" / "dog" / "x.png")
    with pytest.raises(UsageError, match=r"test/dog/x\.png: expected a grey image as all of train/ are, got a"):
        load_dataset(tmp_path)


def test_hidden_files_and_subfolders(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / ".git").mkdir()
    (tmp_path / "train" / "cat" / ".DS_Store").write_bytes(b"no image")
    for name in ("more", ".ipynb_checkpoints"):
        (tmp_path / "train" / "cat" / name).mkdir()
        Image.fromarray(picture(7)).save(tmp_path / "train" / "cat" / name / "x.png")
    found = load_dataset(tmp_path)
    assert found.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_folder(tmp_path / "data")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(picture(7)).save(elsewhere / "x.png")
    cat = tmp_path / "data" / "train" / "cat"
    (cat / "linked").symlink_to(elsewhere)
    (cat / "around").symlink_to(cat)
    found = load_dataset(tmp_path / "data")
    assert found.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    (elsewhere / "y.png").symlink_to("absent.png")
    with pytest.raises(UsageError, match=r"y\.png: expected an image, got: No such file.*; mend or remove the file"):
        load_dataset(tmp_path / "data")


def test_a_class_without_training_images_is_named(tmp_path):
    write_folder(tmp_path, classes=("cat", "dog", "eel"))
    for path in (tmp_path / "train" / "dog").iterdir():
        path.unlink()
    found = load_dataset(tmp_path)
    with pytest.raises(UsageError, match=r"of every class, as a Classmap needs, got none of dog; add some, or leave"):
        found.require_every_class("a Classmap")
    found.require_classes(("cat", "dog", "eel"), owner="it")


def test_class_without_test_images(tmp_path):
    write_folder(tmp_path, classes=("cat", "dog", "eel"))
    for path in (tmp_path / "test" / "dog").iterdir():
        path.unlink()
    (tmp_path / "test" / "dog").rmdir()
    assert load_dataset(tmp_path).test.labels.tolist() == [0, 0, 0, 2, 2, 2]


def test_folder_is_decoded_once(tmp_path, cache):
    first = load_dataset(write_folder(tmp_path))
    path = tmp_path / "test" / "dog" / "2.png"
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = load_dataset(tmp_path)
    assert second.test.digest == first.test.digest
    np.testing.assert_array_equal(second.test.images, first.test.images)
    assert isinstance(second.test.images, np.memmap)
    assert len(list(cache.iterdir())) == 1
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(UsageError, match=r"2\.png: expected an image"):
        load_dataset(tmp_path)


def test_failed_decoding_leaves_no_cache(tmp_path, cache):
    write_folder(tmp_path)
    (tmp_path / "train" / "dog" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"broken\.png: expected an image, got: .*mend or remove the file"):
        load_dataset(tmp_path)
    assert list(cache.iterdir()) == []


def test_damaged_cache_says_what_to_delete(tmp_path, cache):
    load_dataset(write_folder(tmp_path))
    [entry] = cache.iterdir()
    (entry / "test_images.npy").write_bytes(b"")
    with pytest.raises(CmtError, match=r"expected a readable cache, got .*; delete that folder"):
        load_dataset(tmp_path)


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CMT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CmtError, match=r"expected a writable cache, got .*set CMT_CACHE"):
        load_dataset(write_folder(tmp_path / "data"))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"CMT_CACHE": "own", "XDG_CACHE_HOME": "xdg"}, "own"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/cmt"),
        ({}, "home/.cache/cmt"),
    ],
    ids=["own", "xdg", "home"],
)
def test_where_the_cache_lives(tmp_path, monkeypatch, variables, expected):
    for name in ("CMT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_dataset(write_folder(tmp_path / "data"))
    assert (tmp_path / expected).is_dir()


def test_mixed_sizes_are_refused_or_fitted(tmp_path):
    write_folder(tmp_path)
    Image.fromarray(picture(1, size=(8, 9))).save(tmp_path / "train" / "dog" / "large.png")
    with pytest.raises(UsageError, match=r"large\.png: expected 4x5 like 0\.png, got 8x9; .* --size 4x5"):
        load_dataset(tmp_path)
    found = load_dataset(tmp_path, size=(4, 5))
    assert found.train.images.shape == (7, 4, 5, 1)
    np.testing.assert_array_equal(found.train.images[0, ..., 0], picture(0))


def remove_test(root):
    for path in sorted((root / "test").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (root / "test").rmdir()


def empty_test(root):
    for path in (root / "test").rglob("*.png"):
        path.unlink()


def unknown_class(root):
    (root / "test" / "fox").mkdir()


def one_class(root):
    for path in (root / "train" / "dog").iterdir():
        path.unlink()
    (root / "train" / "dog").rmdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_test, "test: expected a folder of class folders, got none; a data set has train/ and test/"),
        (empty_test, "test: expected <class>/<image file> below it, got no file"),
        (unknown_class, "test: expected only the classes of train/, got fox too"),
        (one_class, "train: expected at least two class folders, got 1: cat"),
    ],
)
def test_folders_of_another_form(tmp_path, change, message):
    change(write_folder(tmp_path))
    with pytest.raises(UsageError, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "shown"), [(b"a\nb", r"'a\\nb'"), (b"x\xff", r"'x\\udcff'")], ids=["two lines", "not UTF-8"]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_class_folders_that_no_guard_file_can_name(tmp_path, split, name, shown):
    write_folder(tmp_path)
    os.mkdir(os.fsencode(tmp_path / split) + b"/" + name)
    message = f"{split}: expected names that are one line of text in UTF-8, got {shown}; rename them$"
    with pytest.raises(UsageError, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize("axes", [3, 4])
def test_npz(tmp_path, axes):
    images = arrays()["x_train"]
    images = images if axes == 3 else images[..., np.newaxis]
    found = load_dataset(write_npz(tmp_path / "d.npz", x_train=images, y_train=np.array([[0], [1], [2]] * 2, np.uint8)))
    assert (found.classes, found.input_shape) == (("0", "1", "2"), (4, 5, 1))
    assert found.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(found.test.images[0, ..., 0], picture(5))


@pytest.mark.parametrize(
    "names", [np.array(["a", "b", "é"]), np.array([b"a", b"b", "é".encode()])], ids=["text", "bytes"]
)
def test_npz_may_name_its_classes(tmp_path, names):
    assert load_dataset(write_npz(tmp_path / "d.npz", classes=names)).classes == ("a", "b", "é")


def test_npz_with_names_may_leave_classes_without_a_training_image(tmp_path):
    path = write_npz(tmp_path / "d.npz", y_train=np.array([0, 0, 2, 2, 3, 3]), classes=np.array(list("abcd")))
    assert load_dataset(path).classes == ("a", "b", "c", "d")


def test_a_large_label_costs_no_memory(tmp_path):
    path = write_npz(tmp_path / "d.npz", y_train=np.array([0, 1, 2, 0, 1, 10**6]))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="got 0, 1, 2, 1000000; number them so"):
            load_dataset(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None, "y_test": None}, "expected the arrays .* got no x_test, y_test"),
        ({"x_train": arrays()["x_train"] / 255}, r"train: expected uint8 images .* got float64 .* not floats"),
        ({"x_train": np.zeros((6, 4, 5, 2), np.uint8)}, r"expected uint8 images \(N, H, W\[, 1 or 3\]\)"),
        ({"x_train": np.zeros((0, 4, 5), np.uint8), "y_train": np.zeros(0, int)}, "train: expected at least one image"),
        ({"x_test": np.zeros((0, 4, 5)), "y_test": np.zeros(0)}, "test: expected at least one image, got none; add"),
        ({"x_train": np.zeros((6, 0, 5), np.uint8)}, r"train: expected uint8 images .* got uint8 \(6, 0, 5, 1\)"),
        ({"y_train": np.arange(5) % 3}, "train: expected 6 integer labels, got int64"),
        ({"y_train": np.array(2)}, r"train: expected 6 integer labels, got int64 \(\)"),
        ({"y_train": np.arange(6) / 2}, r"train: expected 6 integer labels, got float64 \(6,\); number the classes"),
        ({"y_train": np.arange(6) > 2}, r"train: expected 6 integer labels, got bool \(6,\); number the classes"),
        ({"y_train": np.array([0, 5, 10] * 2)}, "train: expected labels that count from 0 .* got 0, 5, 10; number"),
        ({"y_train": np.array([1, 2, 3] * 2)}, "train: expected labels that count from 0 without a gap, got 1, 2, 3;"),
        ({"y_train": np.array([255, 0, 1] * 2, np.uint8)}, "got 0, 1, 255; number them so, or name every class"),
        ({"y_train": np.zeros(6, int), "y_test": np.zeros(6, int)}, "expected at least two distinct classes, got 0"),
        ({"y_test": np.array([0, 1, 2, 3, 0, 0])}, r"test: expected labels in \[0, 3\), got 0 to 3"),
        ({"y_train": np.array([-1, 1, 2, 0, 0, 0])}, "train: expected labels that count from 0 .*, got -1, 0, 1, 2;"),
        (
            {"y_train": np.array([-1, 1, 2, 0, 0, 0]), "classes": np.array(["a", "b", "c"])},
            r"train: expected labels in \[0, 3\), got -1 to 2",
        ),
        ({"classes": np.array(["a", "a", "b"])}, "expected at least two distinct classes, got a, a, b"),
        ({"classes": np.zeros(0, "U1")}, "expected at least two distinct classes, got none"),
        ({"classes": np.array([["a", "b", "c"]])}, r"classes: expected a list of text, got <U1 \(1, 3\); store one"),
        ({"classes": np.array("abc")}, r"classes: expected a list of text, got <U3 \(\); store one name"),
        ({"classes": np.arange(3)}, r"classes: expected a list of text, got int64 \(3,\); store one name"),
        ({"classes": np.array(["", "b", "c"])}, r"classes: expected names that are one line of text .* got ''; rename"),
        ({"classes": np.array(["a\n", "b", "\ud800"])}, r"d\.npz: classes: .* got 'a\\n', '\\ud800'; rename them$"),
        ({"classes": np.array([b"a", b"b", b"\xe9"])}, r"classes: expected names in UTF-8, got b'\\xe9'; store them"),
        ({"x_test": np.zeros((6, 5, 5), np.uint8)}, "expected train and test images of one shape, got 4x5x1 and 5x5x1"),
        ({"y_train": np.array([{}] * 6)}, "expected an .npz of plain arrays"),
    ],
    ids=[
        *("missing", "floats", "two channels", "no training", "no test", "no row", "few labels", "one number"),
        *("float labels", "bool labels", "gaps", "from one", "255 for none", "one class", "unknown label"),
        *("negative label", "negative label, named", "same name", "no name", "names in 2-D", "names in one"),
        *("numbers as names", "empty name", "name of two lines", "names in Latin-1", "shapes", "pickle"),
    ],
)
def test_npz_of_another_form(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        load_dataset(write_npz(tmp_path / "d.npz", **changes))


def one_array():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04broken", b"no zip", one_array()], ids=["empty", "cut off", "text", "npy"]
)
def test_npz_that_is_none(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"d\.npz: expected an \.npz of plain arrays, got"):
        load_dataset(tmp_path / "d.npz")


def test_one_array_in_place_of_an_archive_is_called_so(tmp_path):
    (tmp_path / "d.npz").write_bytes(one_array())
    with pytest.raises(
        UsageError, match=r"d\.npz: expected an \.npz .*, got a single array; write it with numpy.savez"
    ):
        load_dataset(tmp_path / "d.npz")


def header(shape, major=1):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    content = file.getvalue()
    return content[:6] + bytes([major]) + content[7:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", r"x_train\.npy: the magic string is not correct"),
        (b"", r"x_train\.npy: EOF"),
        (header((10**12, 28, 28)), r"x_train\.npy: a header that claims .* bytes \(784,000\.0 GB\) before 128 bytes"),
        (header((4, 5, 5)) + bytes(10), r"x_train\.npy: "),
        (header((1, 1, 1), major=3) + bytes(10), r"x_train\.npy: format version \(3, 0\)"),
        (header((-1, -1, -1)) + bytes(10), r"x_train\.npy: "),
    ],
    ids=["no magic", "empty", "claims", "cut off", "version", "negative"],
)
def test_npz_with_a_member_that_is_no_array(tmp_path, content, message):
    write_npz(tmp_path / "d.npz", x_train=None)
    with zipfile.ZipFile(tmp_path / "d.npz", "a") as archive:
        archive.writestr("x_train.npy", content)
    with pytest.raises(UsageError, match=rf"d\.npz: expected an \.npz of plain arrays, got {message}") as caught:
        load_dataset(tmp_path / "d.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "missing.npz", "note.txt"])
def test_sources_of_no_kind(tmp_path, name):
    (tmp_path / "note.txt").touch()
    with pytest.raises(UsageError, match=r"expected 'digits', a folder with train/ and test/, or an \.npz file"):
        load_dataset(tmp_path / name)


def small(labels=(0, 1, 1, 0), first=0):
    part = (np.stack([picture(first + index) for index in range(4)]), np.array(labels))
    return make_dataset("small", ("cat", "dog"), part, part).test


def test_digest_is_of_shape_images_and_labels():
    split = small()
    content = b"[4, 4, 5, 1]" + split.images.tobytes() + split.labels.astype("<i8").tobytes()
    assert split.digest == hashlib.sha256(content).hexdigest()
    assert len({split.digest, small(labels=(0, 1, 1, 1)).digest, small(first=1).digest}) == 3


def test_sample_is_distinct_ascending_and_drawn_by_its_seed():
    split = load_dataset("digits").test
    rows = split.sample(100, seed=3)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert (len(rows), rows.dtype) == (100, np.int64)
    np.testing.assert_array_equal(rows, split.sample(100, seed=3))
    assert rows.tolist() != split.sample(100, seed=4).tolist()
    assert split.sample(1000).tolist() == list(range(360))


def test_what_a_model_asks_of_its_data():
    found = load_dataset("digits")
    found.require_classes(tuple("0123456789"), owner="guard.onnx")
    found.require_shape((8, 8, 1), owner="guard.onnx")
    with pytest.raises(UsageError, match=r"digits: expected the classes of guard\.onnx \(a, b\), got 0, 1"):
        found.require_classes(("a", "b"), owner="guard.onnx")
    with pytest.raises(UsageError, match=r"expected images of 9x8x1 as guard\.onnx takes, got 8x8x1; choose other"):
        found.require_shape((9, 8, 1), owner="guard.onnx")


def test_a_size_is_recommended_where_it_can_be_fitted(tmp_path):
    found = load_dataset(write_folder(tmp_path))
    with pytest.raises(UsageError, match=r"expected images of 9x8x1 as guard\.onnx takes, got 4x5x1; .* --size 9x8"):
        found.require_shape((9, 8, 1), owner="guard.onnx")
    with pytest.raises(UsageError, match=r"expected images of 4x5x3 .* got 4x5x1; choose other data"):
        found.require_shape((4, 5, 3), owner="guard.onnx")


@pytest.mark.parametrize("source", ["digits", "d.npz"])
def test_a_size_for_arrays_is_refused(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "d.npz")
    with pytest.raises(UsageError, match=f"--size 8x9: expected a folder of image files to fit, got {source}; leave"):
        load_dataset(source, size=(8, 9))


def test_a_folder_called_digits_does_not_hide_the_bundled_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "digits")
    assert load_dataset("digits").input_shape == (8, 8, 1)
    assert load_dataset("./digits").input_shape == (4, 5, 1)
