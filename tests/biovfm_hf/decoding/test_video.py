"""Videos: upright, with the shape of their pixels and all levels."""

from fractions import Fraction

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode
from tests.biovfm_hf.decoding.samples import assert_read, built, smooth

av = pytest.importorskip("av")


def test_a_rotated_video_with_wide_pixels_is_upright(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 60 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    pixels = decode(tmp_path / "a.mp4", slice_index=2)
    assert pixels.array.shape == (48, 64, 3) and abs(pixels.array.mean() - 120) < 4
    assert pixels.spacing == pytest.approx((1.0, 64 / 45))
    with pytest.raises(UserError, match="no frame 9"):
        decode(tmp_path / "a.mp4", slice_index=9)


@pytest.mark.parametrize(("pixels", "colour"), [("gray16le", False), ("yuv444p10le", True), ("gbrp12le", True)])
def test_all_levels_of_deep_videos_are_kept(tmp_path, pixels, colour):
    values = smooth(3, 4080, 48, 64).astype(np.uint16)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        deep = np.stack([values * 16] * 3, axis=-1) if colour else values
        frame = av.VideoFrame.from_ndarray(deep, format="rgb48le" if colour else "gray16le")
        for number in range(3):
            converted = frame.reformat(format=pixels)
            converted.pts = number
            container.mux(stream.encode(converted))
        container.mux(stream.encode())
    found = decode(tmp_path / "a.mkv", slice_index=1)
    assert found.array.dtype == np.uint16
    if colour:
        assert np.abs(found.array.astype(float) - deep).max() < 300 and found.window == (0.0, 65535.0)
    else:
        assert_read(tmp_path / "a.mkv", values.astype(float), 1, "video")
    assert len(np.unique(built(tmp_path / "a.mkv", "video")[0].pixels)) > 200
