"""PGM and PPM of more than 8 bits, PAM and PFM: the stored numbers."""

import numpy as np
import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode
from tests.biovfm_hf.decoding.samples import RNG, assert_read, colours, smooth


def test_ppm_of_16_bits():
    array = RNG.integers(0, 4096, (7, 9, 3)).astype(np.uint16)
    assert np.array_equal(decode(b"P6\n# deep\n9 7\n4095\n" + array.astype(">u2").tobytes()).array, array)


def test_numbers_as_text_or_binary_are_not_scaled(tmp_path):
    """Pillow scales them to 65535; a record's window is in the numbers of the file."""
    for magic, values in ((b"P5", smooth()), (b"P2", smooth()), (b"P6", colours()), (b"P3", colours())):
        numbers = values.astype(">u2")
        body = numbers.tobytes() if magic in (b"P5", b"P6") else " ".join(map(str, numbers.ravel())).encode()
        (tmp_path / "a.ppm").write_bytes(magic + b"\n# deep\n80 64 # size\n4080\n" + body)
        assert_read(tmp_path / "a.ppm", values)


@pytest.mark.parametrize("row", ["# a row\n{}\n", "{} # a row\n"])
@pytest.mark.parametrize("width", [1, 10, 40])
def test_numbers_as_text_may_be_wide_and_have_comments(width, row):
    rows = "".join(row.format(" ".join(f"{int(number):{width}d}" for number in line)) for line in smooth())
    assert np.array_equal(decode(b"P2\n80 64\n4080\n" + rows.encode()).array, smooth())


@pytest.mark.parametrize(("indent", "between"), [("", "\t"), ("  ", " "), ("\t", " \t")])
def test_fields_of_pam_may_be_indented_and_have_tabs(indent, between):
    fields = {"WIDTH": 80, "HEIGHT": 64, "DEPTH": 1, "MAXVAL": 4080}
    lines = "".join(f"{indent}{name}{between}{value}\n" for name, value in fields.items())
    data = f"P7\n{lines}{indent}ENDHDR\n".encode() + smooth().astype(">u2").tobytes()
    assert np.array_equal(decode(data).array, smooth())


@pytest.mark.parametrize(("depth", "kind"), [(1, "u1"), (1, ">u2"), (2, "u1"), (3, ">u2"), (4, "u1")])
def test_pam_of_any_depth(tmp_path, depth, kind):
    top = 255 if kind == "u1" else 4080
    values = smooth(top=top) if depth < 3 else colours(top)
    stored = np.dstack([values] + [np.full_like(values[..., :1] if depth == 4 else values, 7)] * (depth in (2, 4)))
    header = f"P7\nWIDTH 80\nHEIGHT 64\nDEPTH {depth}\n# a comment\nMAXVAL {top}\nTUPLTYPE ANY\nENDHDR\n"
    (tmp_path / "a.pam").write_bytes(header.encode() + stored.astype(kind).tobytes())
    assert_read(tmp_path / "a.pam", values)


def test_pam_of_two_levels_is_black_and_white():
    data = b"P7\nWIDTH 3\nHEIGHT 1\nDEPTH 1\nMAXVAL 1\nTUPLTYPE BLACKANDWHITE\nENDHDR\n\0\1\0"
    assert np.array_equal(decode(data).array, [[0, 255, 0]])


@pytest.mark.parametrize("values", [smooth() / 7, colours() / 7])
def test_pfm_as_opencv_writes_it(tmp_path, values):
    cv2 = pytest.importorskip("cv2")
    values = values.astype(np.float32)
    cv2.imwrite(str(tmp_path / "a.pfm"), values[..., ::-1] if values.ndim == 3 else values)
    assert_read(tmp_path / "a.pfm", values)
    magic = b"PF" if values.ndim == 3 else b"Pf"
    assert np.array_equal(decode(magic + b"\n80 64\n1.0\n" + values[::-1].astype(">f4").tobytes()).array, values)


@pytest.mark.parametrize(
    "data",
    [b"P7\nWIDTH 4\nENDHDR\n", b"P7\nWIDTH 9999999\nHEIGHT 9999999\nDEPTH 1\nMAXVAL 1\nENDHDR\n", b"Pf 9 9 -1\n",
     b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 9\nMAXVAL 1\nENDHDR\n" + bytes(200), b"PF 9 9 1 \n",
     b"P5 80 64 4095\n" + bytes(99), b"P2 80 64 4095\n1 2 3", b"P2 2 1 300\n1 x", b"P5 99999 99999 300\n",
     b"P5 2 2 70000\n" + bytes(99)],
)  # fmt: skip
def test_damaged_files_are_refused(data):
    with pytest.raises(UserError):
        decode(data, name="a.pgm")


@pytest.mark.parametrize(
    "data",
    [b"P5\nANNA 4\n255\n", b"P6 4 ANNA 255\n", b"P5 ANNABELLA-MARIA 4\n255\n", b"P2 1 1 255\nANNA", b"P1 2 1\nANNA",
     b"Pf\nANNA 4\n-1\n", b"P2 1 1 255\nANNABELLA-MARIA", b"P4 ANNA 4\n", b"P5 4 4 ANNA\n"],
)  # fmt: skip
def test_no_message_repeats_what_the_file_says(data):
    with pytest.raises(UserError, match=r"Error: \.\.\.|: \.\.\.") as refused:
        decode(data, name="a.pgm")
    assert "ANNA" not in str(refused.value)
