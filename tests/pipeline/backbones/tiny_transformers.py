"""Folders as the hub has them, of networks of a few thousand numbers: config, tensors, what they are fed."""

import json
from pathlib import Path
from typing import Any

import torch

BODY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
PATCHES = {**BODY, "image_size": 32, "patch_size": 8}
SPEECH = {
    **BODY,
    "conv_dim": [16] * 6,
    "conv_kernel": [10, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
PICTURE = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "size": {"shortest_edge": 40}, "resample": 3}
PICTURE |= {"crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
EAR = {
    "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_layers": 1,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 48, "vocab_size": 8, "max_target_positions": 4,
    "max_source_positions": 50, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1,
}  # fmt: skip
PREDICTOR = {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2, "crop_size": 32}
TEXT = {**BODY, "vocab_size": 8, "max_position_embeddings": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1}
TINY: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", SPEECH, {}),
    "xls-r": ("Wav2Vec2", SPEECH | STABLE, {"do_normalize": True, "sampling_rate": 16000}),
    "wavlm": ("WavLM", SPEECH, {"do_normalize": False}),
    "hubert": ("Hubert", SPEECH, {"do_normalize": True}),
    "whisper": ("Whisper", EAR, {"feature_size": 80, "n_fft": 400, "hop_length": 160, "chunk_length": 1}),
    "clip": ("CLIP", {"vision_config": PATCHES, "text_config": TEXT, "projection_dim": 4}, PICTURE),
    "siglip": ("Siglip", {"vision_config": PATCHES, "text_config": TEXT}, PICTURE),
    "vit": ("ViT", PATCHES, PICTURE),
    "dinov2": ("Dinov2", PATCHES, PICTURE),
    "dinov2-registers": ("Dinov2WithRegisters", PATCHES, PICTURE),
    "dinov3": ("DINOv3ViT", PATCHES | {"num_register_tokens": 4}, PICTURE),
    "videomae": ("VideoMAE", PATCHES | {"num_frames": 8}, PICTURE),
    "vjepa2": ("VJEPA2", PATCHES | PREDICTOR, PICTURE),
}
"""{folder: class, config, what it is fed}"""
HEARING = ("wav2vec2", "xls-r", "wavlm", "hubert", "whisper")
TOKENED = ("clip", "vit", "dinov2", "dinov2-registers", "dinov3")


def network(name: str) -> Any:
    """transformers' own, with random weights, in evaluation mode."""
    import transformers

    kind, config, _ = TINY[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config)).eval()
        for tensor in net.parameters():  # fresh ones are near zero: nothing would show
            tensor.data += 0.1 * torch.randn_like(tensor)
    return net


def write(folder: Path, name: str) -> Path:
    """As save_pretrained and the preprocessor's leave it."""
    network(name).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(TINY[name][2]))
    return folder


def change(path: Path, **more: Any) -> None:
    """Writes further entries into a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
