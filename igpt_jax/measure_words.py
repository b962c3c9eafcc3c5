"""The names that runs and evaluations write, in words."""

from typing import Final, Literal

_WORDS: Final = {
    "accuracy": "share that is right",
    "bits_per_dim": "bits a dimension, validation",
    "bits_per_image": "bits a picture",
    "card_accuracy": "cards that read as asked",
    "class_agreement": "nearest real picture is of the class asked for",
    "clip_score": "CLIP score of drawn pictures and their captions",
    "clip_score_real": "CLIP score of real pictures and their captions",
    "clip_score_shuffled": "CLIP score of drawn pictures and captions of others: chance",
    "codebook_usage": "share of codes used",
    "coverage": "coverage: real pictures with a drawn one near",
    "density": "density: real pictures that drawn ones lie near",
    "frechet_distance": "Fréchet distance",
    "fvd": "FVD of drawn videos",
    "gain": "share by which the nats a token are under that entropy",
    "gfid": "FID of drawn pictures",
    "inception_score": "Inception Score",
    "kernel_distance": "kernel distance",
    "kid": "KID (squared maximum mean discrepancy)",
    "lpips": "LPIPS of reconstructions",
    "marginal_entropy": "entropy of the tokens' marginal distribution, nats",
    "median_distance_generated": "median distance of drawn pictures to the nearest training one",
    "median_distance_held_out": "the same of validation pictures",
    "nats_per_caption_token": "nats a token of captions, validation",
    "nats_per_token": "nats a token, validation",
    "num_combinations": "different combinations",
    "num_generated": "drawn pictures",
    "num_held_out": "validation pictures",
    "num_images": "pictures",
    "num_train": "training pictures",
    "parameters_kept": "parameters kept",
    "parameters_trained": "parameters in training",
    "perplexity": "perplexity of codes",
    "pixel_bits_per_dim": "bits a dimension of pixels, at most",
    "precision": "precision: drawn pictures that lie among real ones",
    "psnr": "PSNR of reconstructions, dB",
    "ratio": "ratio of the medians; far under 1 where training pictures are copied",
    "recall": "recall: real pictures that lie among drawn ones",
    "reconstruction_frechet_distance": "Fréchet distance of reconstructions",
    "rfid": "rFID of reconstructions",
    "sampling_seconds": "sampling time a picture",
    "sfid": "sFID of drawn pictures",
    "share_nearer": "share of drawn pictures nearer than all but 1 % of validation pictures",
    "spatial_frechet_distance": "Fréchet distance of places",
    "ssim": "SSIM of reconstructions",
    "token_bits_per_dim": "bits a dimension of tokens, exactly",
    "training_pictures": "pictures seen in training",
    "training_seconds": "training time",
    "usage": "share of codes used",
}

_LOWER: Final = {"gfid", "sfid", "kid", "rfid", "fvd", "lpips", "frechet_distance",
                 "kernel_distance", "spatial_frechet_distance", "reconstruction_frechet_distance",
                 "nats_per_token", "nats_per_caption_token", "bits_per_dim", "pixel_bits_per_dim",
                 "training_seconds", "sampling_seconds"}  # fmt: skip
_HIGHER: Final = {"inception_score", "precision", "recall", "density", "coverage", "psnr", "ssim",
                  "gain", "card_accuracy", "class_agreement", "accuracy", "clip_score"}  # fmt: skip


def in_words(name: str) -> str:
    """A measure's name for people, with its unit; features in brackets stay."""
    base, bracket, features = name.partition("[")
    words = _WORDS.get(base, base.replace("_", " "))
    return f"{words} [{features}" if bracket else words


def better(name: str) -> Literal["lower", "higher", ""]:
    """Which way a measure is better; nothing where none is."""
    base = name.partition("[")[0]
    return "lower" if base in _LOWER else "higher" if base in _HIGHER else ""
