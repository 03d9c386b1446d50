"""The decoders that may run: what cameras, phones, sites and editors write. The rest is attack surface.

ffmpeg brings over 500, most for games, images and screen recorders of the nineties that nobody has looked at since.
"""

_PICTURE = (
    "h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9",
    "mpeg4", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "mpeg1video", "mpeg2video", "h263", "h263p", "flv",
    "mjpeg", "vc1", "wmv1", "wmv2", "wmv3", "vp6", "vp6f", "theora", "svq3",
    "prores", "dnxhd", "dvvideo", "cfhd", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "v210",
)  # fmt: skip
_SOUND = (
    "aac", "aac_latm", "mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float", "opus", "libopus", "vorbis",
    "flac", "alac", "ac3", "eac3", "dca", "amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb",
    "wmav1", "wmav2", "wmapro", "wmalossless", "wavpack", "speex", "nellymoser", "gsm", "gsm_ms", "qdm2",
    "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_swf", "pcm_alaw", "pcm_mulaw", "pcm_bluray", "pcm_dvd",
    "pcm_s8", "pcm_u8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be",
    "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be",
)  # fmt: skip
CODECS = _PICTURE + _SOUND
"""Names of ffmpeg's decoders, not of what they decode."""
