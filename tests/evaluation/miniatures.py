"""Miniatures of every benchmark, in the layout of its source."""

import numpy as np
from PIL import Image

from evaluation.tasks import read_records


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def grey(label, seed, size=24):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(50 + 80 * label, 20, (size, size)), 0, 255).astype(np.uint8)


def write_nih(root):
    classes = read_records()["nih_chestxray14"].classes
    lines, lists = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age"], {"train_val": [], "test": []}
    rng = np.random.default_rng(0)
    for patient in range(60):
        for follow in range(2):
            name = f"{patient:08d}_{follow:03d}.png"
            held = [c for c in classes if rng.random() < 0.4]
            lines.append(f"{name},{'|'.join(held) or 'No Finding'},{follow},{patient},50")
            lists["test" if patient >= 42 else "train_val"].append(name)
            save(root / f"images_{1 + patient % 2:03d}" / "images" / name, grey(len(held) > 5, patient * 2 + follow))
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    for name, words in lists.items():
        (root / f"{name}_list.txt").write_text("\n".join(words))


def write_chexpert(root, with_test=False):
    classes = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    rng = np.random.default_rng(1)
    for split, count in (("train", 40), ("valid", 16), *((("test", 14),) if with_test else ())):
        lines = ["Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(classes)]
        for patient in range(count):
            person = f"patient{patient + {'train': 0, 'valid': 500, 'test': 900}[split]:05d}"
            for view, side in (("view1_frontal", "Frontal"), ("view2_lateral", "Lateral")):
                path = f"CheXpert-v1.0-small/{split}/{person}/study1/{view}.jpg"
                marks = ["" if v < 0 else f"{v:.1f}" for v in rng.choice([-1, 0.0, 1.0], 5)]
                marks = [m if (patient + i) % 3 else "-1.0" for i, m in enumerate(marks)]
                lines.append(f"{path},Male,50,{side},AP,{','.join(marks)}")
                save(
                    root / "CheXpert-v1.0-small" / split / person / "study1" / f"{view}.jpg",
                    grey(patient % 2, patient),
                )
        (root / "CheXpert-v1.0-small" / f"{split}.csv").write_text("\n".join(lines) + "\n")


def write_sars(root):
    for group, count in (("Covid", 8), ("Healthy", 5), ("Others", 8)):
        for patient in range(count):
            for number in range(1 + patient % 3):
                path = root / "New_Data_CoV2" / group / f"Patient ({patient + 1})" / f"{number}.png"
                save(path, grey(group == "Covid", patient * 10 + number))


def write_brain(root):
    import h5py

    root.mkdir(parents=True, exist_ok=True)
    for number in range(1, 46):
        patient = (number - 1) // 3
        with h5py.File(root / f"{number}.mat", "w") as held:
            data = held.create_group("cjdata")
            data["label"] = np.array([[1.0 + patient % 3]])
            data["PID"] = np.array([[ord(c)] for c in f"P{patient:04d}"], np.uint16)
            data["image"] = grey(patient % 3, number).astype(np.int16).T * 9
            data["tumorMask"] = np.zeros((24, 24), np.uint8)


def write_montgomery(root):
    for number in range(1, 19):
        name = f"MCUCXR_{number:04d}_{number % 2}.png"
        image = grey(0, number)
        for side, columns in (("left", slice(2, 10)), ("right", slice(14, 22))):
            mask = np.zeros((24, 24), np.uint8)
            mask[4:20, columns] = 255
            image = np.where(mask > 0, 200, image).astype(np.uint8)
            save(root / "MontgomerySet" / "ManualMask" / f"{side}Mask" / name, mask)
        save(root / "MontgomerySet" / "CXR_png" / name, image)


def write_volume(path, array, flip=False):
    import nibabel

    affine = np.diag([-1.0, -1.0, 2.0, 1.0] if flip else [1.0, 1.0, 2.0, 1.0])
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def write_volumes(folder, names, classes, labels_folder="labelsTr", images_folder="imagesTr"):
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        label = np.zeros((16, 18, 6), np.int16)
        for value in range(1, classes):
            label[1 + value % 12 : 4 + value % 12, 3 + value % 10 : 9 + value % 10, 1:5] = value
        image = (rng.normal(0, 20, label.shape) + 300 * (label > 0)).astype(np.int16)
        write_volume(folder / images_folder / name, image, flip=bool(number % 2))
        write_volume(folder / labels_folder / name, label, flip=bool(number % 2))


def write_amos(root):
    write_volumes(root / "amos22", [f"amos_{n:04d}.nii.gz" for n in (1, 4, 9, 600)], 16)
    write_volumes(root / "amos22", [f"amos_{n:04d}.nii.gz" for n in (8, 13, 22)], 16, "labelsVa", "imagesVa")


def write_msd(task, stem, classes):
    def write(root):
        write_volumes(root / task, [f"{stem}_{n:03d}.nii.gz" for n in range(1, 7)], classes)
        (root / task / "imagesTr" / f"._{stem}_001.nii.gz").write_bytes(b"resource fork")

    return write


def write_busi(root):
    for label, name in enumerate(("normal", "benign", "malignant")):
        for number in range(1, 13):
            save(root / "Dataset_BUSI_with_GT" / name / f"{name} ({number}).png", grey(label, number))
            save(root / "Dataset_BUSI_with_GT" / name / f"{name} ({number})_mask.png", grey(0, number))


def write_bccd(root):
    box = (
        "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>12</ymax></bndbox></object>"
    )
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        names = [f"BloodImage_{split}_{n}" for n in range(count)]
        for number, name in enumerate(names):
            image = grey(0, number)
            boxes = ""
            for label, cell in enumerate(("RBC", "WBC", "Platelets")):
                image[2:12, 8 * label : 8 * label + 8] = 60 + 80 * label
                boxes += box.format(cell, 8 * label, 8 * label + 8)
            boxes += box.format("RBC", 5, 5)  # an empty box, as the set has some
            save(root / "BCCD" / "JPEGImages" / f"{name}.jpg", image)
            path = root / "BCCD" / "Annotations" / f"{name}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"<annotation>{boxes}</annotation>")
        lists = root / "BCCD" / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("\n".join(names))


def write_fundus(root):
    for part in ("DRIVE", "ChaseDB", "DR-Hagis"):
        for split in ("Train", "Test"):
            base = root / "Vessels-Datasets" / part / split / "Original"
            for number in range(5):
                mask = np.zeros((24, 24), bool)
                mask[::4] = True
                save(base / "Images" / f"{number}.jpg", np.where(mask, 40, 200).astype(np.uint8))
                one_bit = part == "DR-Hagis"
                save(base / "Labels" / f"{number}.png", mask if one_bit else mask.astype(np.uint8) * 255)


WRITERS = {
    "nih_chestxray14": write_nih,
    "chexpert": write_chexpert,
    "sars_cov2_ct": write_sars,
    "brain_tumor": write_brain,
    "montgomery": write_montgomery,
    "amos_ct": write_amos,
    "msd_heart": write_msd("Task02_Heart", "la", 2),
    "msd_hippocampus": write_msd("Task04_Hippocampus", "hippocampus", 3),
    "msd_spleen": write_msd("Task09_Spleen", "spleen", 2),
    "busi": write_busi,
    "bccd": write_bccd,
    "bccd_boxes": write_bccd,
    "fundus_vessels": write_fundus,
}


def write_medmnist(root, record):
    """A MedMNIST file of `record`'s kind, its images bright where the first label is high."""
    volumes, outputs, arrays = record.options.get("volumes"), len(record.classes), {}
    for split, count in (("train", 3 * outputs), ("val", 2 * outputs), ("test", 2 * outputs)):
        if record.kind.startswith("multi-label"):
            labels = np.eye(outputs, dtype=np.uint8)[np.arange(count) % outputs]
        else:
            labels = (np.arange(count) % outputs)[:, None].astype(np.uint8)
        shape = (28, 28, 28) if volumes else (28, 28, 3) if record.name in COLOURED else (28, 28)
        noise = np.random.default_rng(count).integers(0, 40, (count, *shape))
        bright = (200 * labels[:, :1] // max(outputs - 1, 1)).reshape(-1, *[1] * len(shape))
        arrays |= {f"{split}_images": (noise + bright).astype(np.uint8), f"{split}_labels": labels}
    root.mkdir(exist_ok=True)
    np.savez_compressed(root / f"{record.name}.npz", **arrays)


COLOURED = ("pathmnist", "dermamnist", "retinamnist", "bloodmnist")
