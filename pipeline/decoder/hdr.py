"""HDR pictures as a screen without HDR shows them: what is as bright as paper or darker looks the same.

BT.2408 puts white paper at 203 nits, which is 75 % of HLG's signal. It becomes SDR's white, and what is brighter is cut
off there, so that a face has the colours that an SDR camera would have given it. Light is mixed in 16 bits.
"""

from __future__ import annotations

_WHITE_NITS, _WHITE_HLG = 203.0, 0.75
_SYSTEM_GAMMA = 1.2
"""HLG's, of a screen of 1000 nits. It is meant for a pixel's brightness and here raises each colour alone; that an
eighth of the colourfulness is taken away before keeps skin within 6 of 255."""
_KEPT_COLOUR = 7 / 8
_BT709 = ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730))
"""Light of BT.2020's primaries in those of BT.709."""
_LUMINANCE = (0.2126, 0.7152, 0.0722)
_SIGNAL = "val/maxval"
_PQ = (
    f"pow(max(pow({_SIGNAL},1/78.84375)-0.8359375,0)/(18.8515625-18.6875*pow({_SIGNAL},1/78.84375)),1/0.1593017578125)"
    f"*10000/{_WHITE_NITS}"
)
_HLG_SCENE = "if(lte({0},0.5),{0}*{0}/3,(exp(({0}-0.55991073)/0.17883277)+0.28466892)/12)"
_HLG = f"{_HLG_SCENE.format(_SIGNAL)}/({_HLG_SCENE.format(_WHITE_HLG)})"
_SRGB = "if(lt({0},0.0031308),12.92*{0},1.055*pow({0},1/2.4)-0.055)"
_LIGHT = {16: (_PQ, 1.0, 1.0), 18: (_HLG, _SYSTEM_GAMMA, _KEPT_COLOUR)}
"""Of a transfer (H.273's number): the light of a signal, 1 of white paper; what it is raised to; the colour kept."""
HDR = frozenset(_LIGHT)
"""The transfers of HDR: PQ and HLG."""


def tone_map(transfer: int) -> list[tuple[str, str]]:
    """The filters (name, options) from RGB of the transfer, with BT.2020's primaries, to sRGB."""
    light, gamma, kept = _LIGHT[transfer]
    grey = [sum(_LUMINANCE[k] * _BT709[k][j] for k in range(3)) for j in range(3)]
    mixed = [[kept * _BT709[i][j] + (1 - kept) * grey[j] for j in range(3)] for i in range(3)]
    mix = ":".join(f"{'rgb'[i]}{'rgb'[j]}={mixed[i][j]:.6f}" for i in range(3) for j in range(3))
    shown = _SRGB.format(f"pow({_SIGNAL},{gamma})")
    return [
        ("format", "gbrp16le"),
        ("lutrgb", _each(f"min({light},1)")),
        ("colorchannelmixer", mix),
        ("lutrgb", _each(shown)),
    ]


def _each(share: str) -> str:
    return ":".join(f"{name}='maxval*{share}'" for name in "rgb")
