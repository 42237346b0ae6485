"""Predicted masks as files: volumes in the space of their labels, images and slices as PNG."""

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from evaluation.probes.masks.saved import MaskWriter, as_voxels, check_format, saving
from evaluation.tasks import Split
from evaluation.tasks.images import SliceMasks, VolumeSlices
from evaluation.tasks.volumes import _classes, _header, load

AFFINES = {
    "straight": np.diag([0.7, 0.9, 5.0, 1.0]),
    "radiologist's": np.array([[-0.7, 0, 0, 90], [0, -0.9, 0, 60], [0, 0, 5.0, -20], [0, 0, 0, 1.0]]),
    "on its side": np.array([[0, 0, 2.0, -9], [-0.5, 0, 0, 7], [0, 1.5, 0, 0], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_a_saved_volume_lies_where_its_labels_lie(tmp_path, name):
    """For any order and direction of the file's axes; compared in nibabel's canonical form."""
    rng = np.random.default_rng(0)
    original = nibabel.Nifti1Image(rng.integers(0, 3, (6, 5, 4), np.uint8), AFFINES[name])
    nibabel.save(original, tmp_path / "labels.nii.gz")
    slices = VolumeSlices(
        [tmp_path / "labels.nii.gz"], [(0, z) for z in range(_header(tmp_path / "labels.nii.gz").shape[2])], load,
        lambda array: _classes(array, 3), "",
    )  # fmt: skip
    masks = SliceMasks(slices)
    header = _header(tmp_path / "labels.nii.gz")
    split = Split(slices, masks=masks, case_of_image=np.zeros(len(masks), int), affine=header.affine[None])
    decided = np.stack([masks[z] for z in range(len(masks))])
    MaskWriter(tmp_path, split, "auto").write(0, decided)
    saved, expected = nibabel.load(tmp_path / "00001.nii.gz"), nibabel.as_closest_canonical(original)
    assert np.array_equal(np.asarray(saved.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_allclose(saved.affine, expected.affine, atol=1e-6)
    spacing = np.array(header.spacing)[::-1]
    np.testing.assert_allclose(spacing, nibabel.affines.voxel_sizes(expected.affine), rtol=1e-6)


def test_without_an_affine_the_spacing_stands(tmp_path):
    split = Split([0] * 3, masks=[0] * 3, case_of_image=np.zeros(3, int), spacing=np.array([[5.0, 0.8, 0.7]]))
    MaskWriter(tmp_path, split, "nifti").write(0, np.zeros((3, 4, 6), np.uint8))
    saved = nibabel.load(tmp_path / "00001.nii.gz")
    assert saved.shape == (6, 4, 3) and saved.header.get_zooms() == pytest.approx((0.7, 0.8, 5.0))


def test_images_and_slices_are_png_files_with_class_numbers(tmp_path):
    masks = np.random.default_rng(0).integers(0, 3, (2, 4, 5), np.uint8)
    split = Split([0, 0], masks=[0, 0])
    MaskWriter(tmp_path, split, "auto").write(0, masks[0])
    MaskWriter(tmp_path, split, "png").write(7, masks)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "00001.png")), masks[0])
    for number, mask in enumerate(masks, start=1):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "00008" / f"{number:04d}.png")), mask)


def trial(folder, save_masks="auto", cases=None):
    split = Split([0, 0], masks=[0, 0], case_of_image=cases)
    task = SimpleNamespace(name="discs", splits={"test": split})
    return SimpleNamespace(masks=folder, task=task, run=SimpleNamespace(save_masks=save_masks))


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), saving(trial(tmp_path / "masks")) as save:
        save(0, np.zeros((2, 2), np.uint8))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with saving(trial(tmp_path / "masks")) as save:
        save(0, np.zeros((2, 2), np.uint8))
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["00001.png"]
    with saving(trial(None)) as save:
        save(0, np.zeros((2, 2), np.uint8))


def test_nifti_of_single_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="single images"):
        check_format(trial(tmp_path, "nifti"))
    check_format(trial(tmp_path, "nifti", np.zeros(2, int)))


def test_upright_slices_turn_back_into_voxels():
    voxels = np.arange(24).reshape(2, 3, 4)
    upright = np.moveaxis(voxels[::-1, ::-1].swapaxes(0, 1), 2, 0)
    assert np.array_equal(as_voxels(upright), voxels)
