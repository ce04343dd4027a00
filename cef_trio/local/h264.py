"""H.264 pictures without an encoder: every macroblock has uncompressed samples (I_PCM). Pure.

The demo needs a video of a known rate on machines without ffmpeg. A macroblock may have uncompressed samples (ITU-T
H.264, 7.3.5, ``mb_type`` 25), so a picture is a header and samples, plays in any player, and has a chosen size. Samples
are never 0, so they contain no start code and need no escaping.
"""

from __future__ import annotations

from typing import Final

MACROBLOCK: Final = 16
"""Luma samples a side."""
MACROBLOCK_BYTES: Final = 2 + 256 + 64 + 64
"""``mb_type`` with its alignment, then Y, Cb and Cr."""
_I_PCM: Final = b"\x0d\x00"
"""``mb_type`` 25 as ue(v), 000011010, and seven alignment bits."""


class _Bits:
    """A bit string, most significant bit first."""

    def __init__(self) -> None:
        self._bits = ""

    def fixed(self, value: int, width: int) -> None:
        self._bits += f"{value:0{width}b}"

    def ue(self, value: int) -> None:
        """Append an unsigned Exp-Golomb code (9.1)."""
        code = f"{value + 1:b}"
        self._bits += "0" * (len(code) - 1) + code

    def trailing(self) -> bytes:
        """Append the stop bit and zeros to the end of the byte (7.3.2.11); return the bytes."""
        self._bits += "1"
        return self.aligned()

    def aligned(self) -> bytes:
        self._bits += "0" * (-len(self._bits) % 8)
        return bytes(int(self._bits[at : at + 8], 2) for at in range(0, len(self._bits), 8))


def sequence_parameters(width: int, height: int) -> bytes:
    """Return the SPS: baseline profile, level 4.0; sizes in macroblocks."""
    bits = _Bits()
    for value in (66, 0xC0, 40):  # profile_idc, constraint flags, level_idc
        bits.fixed(value, 8)
    bits.ue(0)  # seq_parameter_set_id
    bits.ue(0)  # log2_max_frame_num_minus4
    bits.ue(2)  # pic_order_cnt_type: output order is decoding order
    bits.ue(0)  # max_num_ref_frames
    bits.fixed(0, 1)  # gaps_in_frame_num_value_allowed_flag
    bits.ue(width - 1)
    bits.ue(height - 1)
    bits.fixed(0b1_1_0_0, 4)  # frame_mbs_only, direct_8x8_inference, no cropping, no VUI
    return b"\x67" + bits.trailing()


def picture_parameters() -> bytes:
    """Return the PPS: CAVLC, one slice group, deblocking can be turned off."""
    bits = _Bits()
    bits.ue(0)  # pic_parameter_set_id
    bits.ue(0)  # seq_parameter_set_id
    bits.fixed(0b0_0, 2)  # CAVLC, no picture order present
    bits.ue(0)  # num_slice_groups_minus1
    bits.ue(0)  # num_ref_idx_l0_default_active_minus1
    bits.ue(0)  # num_ref_idx_l1_default_active_minus1
    bits.fixed(0b0_00, 3)  # no weighted prediction
    for _ in range(3):  # pic_init_qp, pic_init_qs, chroma_qp_index_offset
        bits.ue(0)
    bits.fixed(0b1_0_0, 3)  # deblocking_filter_control_present_flag
    return b"\x68" + bits.trailing()


def picture(width: int, height: int, number: int) -> bytes:
    """Return the ``number``-th picture, a moving gradient, as one IDR slice; sizes in macroblocks."""
    bits = _Bits()
    bits.ue(0)  # first_mb_in_slice
    bits.ue(7)  # slice_type: all slices of the picture are I
    bits.ue(0)  # pic_parameter_set_id
    bits.fixed(0, 4)  # frame_num
    bits.ue(number % 2)  # idr_pic_id: differs from the picture before
    bits.fixed(0b0_0, 2)  # dec_ref_pic_marking
    bits.ue(0)  # slice_qp_delta
    bits.ue(1)  # disable_deblocking_filter_idc
    bits.ue(25)  # mb_type of the first macroblock: I_PCM
    parts = [b"\x65", bits.aligned()]
    for row in range(height):
        for column in range(width):
            if row or column:
                parts.append(_I_PCM)
            parts.append(_samples(column * 5 + row * 3 + number * 4, 255 * column // width, number))
    parts.append(b"\x80")
    return b"".join(parts)


def _samples(luma: int, blue: int, red: int) -> bytes:
    return bytes((16 + luma % 220,)) * 256 + bytes((16 + blue % 220,)) * 64 + bytes((16 + red % 220,)) * 64
