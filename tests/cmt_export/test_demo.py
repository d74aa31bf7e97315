import csv
import json
import re

import numpy as np
from PIL import Image

from cmt_export.checkpoint import Checkpoint
from runtime import Guard


def test_the_demo_goes_the_whole_way(cmt, tmp_path):
    """Everything in one run, because it is the run people make first."""
    folder = tmp_path / "demo"
    done = cmt("demo", "-o", folder, "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["benign"]["right_label"] > 0.95 * facts["benign"]["n"]
    assert facts["benign"]["rejected"] < 0.15 * facts["benign"]["n"]
    assert {(cell["threat"], cell["attack"]) for cell in facts["cells"]} >= {
        ("nearly-white-box", "fgs"),
        ("nearly-white-box", "igs"),
        ("grey-box", "fgs"),
        ("grey-box", "igs"),
    }
    assert facts["cells"][0]["threat"] == "nearly-white-box"

    assert Checkpoint.load(folder / "model.pt").finished
    with Guard(folder / "guard.onnx", device="cpu") as guard:
        assert guard.spec.threshold > 0
        assert guard.spec.calibration.acceptance == 0.95

    pictures = sorted(path.relative_to(folder / "images").as_posix() for path in (folder / "images").rglob("*.png"))
    with open(folder / "verdicts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == pictures
    kinds = {kind: [row for row in rows if row["path"].startswith(kind)] for kind in ("benign", "attacked")}
    assert len(kinds["benign"]) == len(kinds["attacked"]) >= 50
    accepted = {kind: sum(row["accepted"] == "true" for row in those) for kind, those in kinds.items()}
    assert accepted["attacked"] < 0.5 * accepted["benign"]
    image = np.asarray(Image.open(folder / "images" / kinds["attacked"][0]["path"]))
    assert (image.shape, image.dtype) == ((8, 8), np.uint8)

    results = json.loads((folder / "results.json").read_text())
    assert results["complete"]
    assert len(results["data"]["sample"]) == facts["benign"]["n"]
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") > 20
    assert not re.findall(r"(?:src|href)=[\"']https?:", page)


def test_a_place_that_is_no_folder_is_refused(cmt, tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused = cmt("demo", "-o", tmp_path / "file")
    assert refused.code == 1
    assert "expected to make this folder" in refused.err
