"""The recipes for Kinetics-Sounds, AVE and AVMIT, whose clips sound, on their true layouts with tiny clips."""

from pathlib import Path

import pytest

from adapt.errors import DatasetError
from tests.pipeline.datasets.layouts import clips, film, put, run, splits

KINETICS = "label,youtube_id,time_start,time_end,split,is_cc\n"


@pytest.fixture
def kinetics(project: Path) -> Path:
    root = project / "kinetics_sounds"
    names = [name.replace("_", " ") for name in Path("data/labels/kinetics_sounds.txt").read_text().splitlines()]
    train = "".join(f'"{name}",train_{i:05d},10,20,train,0\n' for i, name in enumerate(names))
    put(root, {
        "annotations/train.csv": KINETICS + train + "abseiling,abseil_0001,10,20,train,0\n",
        "annotations/val.csv": KINETICS + "singing,-val_000001,5,15,val,0\ntapping pen,Val_0000002,0,10,val,0\n",
        "annotations/test.csv": KINETICS + "singing,test_000001,5,15,test,0\n",
        "train/train_00000_000010_000020.mp4": film(),
        "train/chopping_wood/train_00003.mp4": film(),
        "val/-val_000001_000005_000015.mp4": film(),
        "test/test_000001_000005_000015.mp4": film(),
    })  # fmt: skip
    return root


def test_kinetics_sounds_takes_31_classes_and_counts_what_is_missing(
    kinetics: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = run("kinetics_sounds")
    assert counts["n_labels"] == 31
    assert (
        counts["n_clips"] == 3 and counts["n_missing"] == 30
    )  # 28 of train, one of val; abseiling is none of the classes
    found = clips("kinetics_sounds")
    assert found["val/-val_000001"]["split"] == "test"
    assert found["val/-val_000001"]["path"] == "val/-val_000001_000005_000015.mp4"
    assert found["train/train_00003"]["label"] == "chopping_wood"
    assert "kinetics_sounds: 3 of 33 videos found; missing: train/train_00001.mp4" in caplog.text


def test_kinetics_sounds_takes_the_test_csv_as_its_variant_test(kinetics: Path) -> None:
    run("kinetics_sounds", variant="test")
    assert splits("kinetics_sounds") == {
        "test/test_000001": "test",
        "train/train_00000": "train",
        "train/train_00003": "train",
        "val/-val_000001": "val",
    }


@pytest.mark.parametrize(("row", "message"), [
    ("singing,short,0,10,val,0", r"val\.csv line 4: 'short' is no YouTube id of 11 characters"),
    ("singing,../../../ab,0,10,val,0", r"val\.csv line 4: '\.\./\.\./\.\./ab' is no YouTube id"),
    ("singing,val_0000003", r"val\.csv line 4: 2 fields where 6 are expected"),
])  # fmt: skip
def test_kinetics_sounds_names_the_place_of_a_malformed_row(kinetics: Path, row: str, message: str) -> None:
    with (kinetics / "annotations/val.csv").open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(DatasetError, match=message):
        run("kinetics_sounds")


def test_kinetics_sounds_refuses_a_csv_without_its_columns_or_classes(kinetics: Path) -> None:
    (kinetics / "annotations/train.csv").write_text("name,youtube_id\nsinging,train_00000\n")
    with pytest.raises(DatasetError, match=r"train\.csv line 1: column 'label' is missing"):
        run("kinetics_sounds")
    (kinetics / "annotations/train.csv").write_text(KINETICS + "singing,train_00000,0,10,train,0\n")
    with pytest.raises(DatasetError, match="no row has class 'blowing_nose'"):
        run("kinetics_sounds")


BELL, SPEECH, BARK = (
    "Church bell&RUhOCu3LNXM&good&0&10",
    "Male speech, man speaking&-hChcJAh5N0&good&5&10",
    "Bark&-hChcJAh5N0&good&3&6",
)


@pytest.fixture
def ave(project: Path) -> Path:
    root = project / "ave"
    put(root, {
        "Annotations.txt": f"Category&VideoID&Quality&StartTime&EndTime\n{BELL}\n{SPEECH}\n{BARK}\n",
        "trainSet.txt": f"{BELL}\n{BELL}\n", "valSet.txt": f"{SPEECH}\n", "testSet.txt": f"{BARK}\n",
        "AVE/RUhOCu3LNXM.mp4": film(), "AVE/-hChcJAh5N0.mp4": film(),
    })  # fmt: skip
    return root


def test_ave_has_a_clip_for_every_sample_also_of_a_video_with_two_events(ave: Path) -> None:
    assert run("ave") == {
        "n_clips": 3,
        "n_missing": 0,
        "n_left_out": 0,
        "n_failed": 0,
        "n_labels": 28,
        "n_train": 1,
        "n_val": 1,
        "n_test": 1,
    }
    assert splits("ave") == {
        "AVE/RUhOCu3LNXM": "train",
        "AVE/-hChcJAh5N0@Male speech, man speaking": "val",
        "AVE/-hChcJAh5N0@Bark": "test",
    }
    found = clips("ave")
    assert (
        found["AVE/-hChcJAh5N0@Bark"]["path"]
        == found["AVE/-hChcJAh5N0@Male speech, man speaking"]["path"]
        == "AVE/-hChcJAh5N0.mp4"
    )


@pytest.mark.parametrize(("line", "message"), [
    ("Bark&-hChcJAh5N0&good",
    r"testSet\.txt line 2: 'Bark&-hChcJAh5N0&good' is not `Category&VideoID&Quality&StartTime&EndTime`"),
    ("Bark&../../x&good&0&10", "line 2: .* is not `Category"),
    ("Bark&-hChcJAh5N0&good&0&ten", "line 2: .* is not `Category"),
    ("Thunder&-hChcJAh5N0&good&0&10", "line 2: category 'Thunder' is not in the label list"),
    ("Cat&-hChcJAh5N0&good&0&10", r"line 2: 'Cat' of '-hChcJAh5N0' is not in .*Annotations\.txt"),
])  # fmt: skip
def test_ave_names_the_place_of_a_malformed_line(ave: Path, line: str, message: str) -> None:
    (ave / "testSet.txt").write_text(f"{BARK}\n{line}\n")
    with pytest.raises(DatasetError, match=message):
        run("ave")


AVMIT_TEST = "filename,AVMIT_label,MIT_label,video_location,new_filename,tfrecord_filename\n"
AVMIT_TRAIN = "filename,actual_label,r1,r2,r3,label,video_location,tfrecord_filename\n"


@pytest.fixture
def avmit(project: Path) -> Path:
    root = project / "avmit"
    put(root, {
        "test_set.csv": AVMIT_TEST + "laughing/yt-a_1.mp4,giggling,laughing,training,giggling/giggling_1.mp4,x\n"
                                     "barking/yt-b_2.mp4,barking,barking,validation,barking/barking_1.mp4,x\n",
        "AVMIT_train.csv": AVMIT_TRAIN + "cooking/u7hOHgNEW1g_81.mp4,cooking,0,1,2,frying,MIT_training,x\n"
                                         "barking/yt-b_2.mp4,barking,0,1,2,barking,MIT_validation,x\n",
        "AVMIT_validation.csv": AVMIT_TRAIN + "frying/yt-c_3.mp4,frying,1,0,2,frying,MIT_training,x\n",
        **{f"Moments_in_Time_Raw/{name}.mp4": film() for name in
           ("training/laughing/yt-a_1", "validation/barking/yt-b_2", "training/cooking/u7hOHgNEW1g_81",
           "training/frying/yt-c_3")},
    })  # fmt: skip
    return root


def test_avmit_labels_by_its_own_classes_and_keeps_test_clips_out_of_train(avmit: Path) -> None:
    assert run("avmit") == {
        "n_clips": 4,
        "n_missing": 0,
        "n_left_out": 0,
        "n_failed": 0,
        "n_labels": 16,
        "n_train": 1,
        "n_val": 1,
        "n_test": 2,
    }
    found = clips("avmit")
    assert found["Moments_in_Time_Raw/training/laughing/yt-a_1"]["label"] == "giggling"
    assert found["Moments_in_Time_Raw/validation/barking/yt-b_2"]["split"] == "test"
    assert found["Moments_in_Time_Raw/training/cooking/u7hOHgNEW1g_81"]["label"] == "frying"


def test_avmit_does_with_the_test_set_alone(avmit: Path, caplog: pytest.LogCaptureFixture) -> None:
    (avmit / "AVMIT_train.csv").unlink()
    (avmit / "AVMIT_validation.csv").unlink()
    assert run("avmit")["n_clips"] == 2
    assert "avmit: the lists name 2 test clips, the published ones 960" in caplog.text


@pytest.mark.parametrize(("row", "message"), [
    ("../../secret.mp4,barking,barking,training,x,x",
    r"test_set\.csv line 4: path 'Moments_in_Time_Raw/training/\.\./\.\./secret\.mp4' leads out"),
    ("barking/a.mp4,barking,barking,elsewhere,x,x", "line 4: location 'elsewhere' or class 'barking' is unknown"),
    ("barking/a.mp4,meowing,barking,training,x,x", "line 4: location 'training' or class 'meowing' is unknown"),
    ("barking/a.mp4", "line 4: 1 fields where 6 are expected"),
])  # fmt: skip
def test_avmit_names_the_place_of_a_malformed_row(avmit: Path, row: str, message: str) -> None:
    with (avmit / "test_set.csv").open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(DatasetError, match=message):
        run("avmit")
