"""Packaging of sepprune-tp: what it needs, what each extra adds, and why."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION_FILE = (ROOT / "sepprune_tp" / "version.py").read_text(encoding="utf-8")
VERSION = re.findall(r'^__version__ = "([^"]+)"', VERSION_FILE, re.MULTILINE)[0]

CORE = [
    # The networks, their autograd and the tensor function modes that the channel labels ride on.
    "torch>=2.4",
    # The host: groups, importances and pruners. Its internals that we replace are those of 1.6.
    "torch-pruning>=1.6,<1.7",
    # Imported by torch-pruning, and by torch for its conversions to arrays.
    "numpy>=1.24,<3",
]

EXTRAS = {
    "asteroid": [
        # The separation models. One exact version: its attributes hold channel counts we keep true.
        "asteroid==0.7.0",
        # torchaudio 2.11 is its newest release, and refuses torch 2.15 (other CUDA build).
        "torch>=2.11,<2.15",
        # Imported by Asteroid; has to match torch's CUDA build, see the line above.
        "torchaudio>=2.11,<2.12",
        # Asteroid's torchmetrics imports pkg_resources, which setuptools 82 no longer has.
        "setuptools<82",
        # Asteroid imports it without declaring it.
        "requests>=2.28",
    ],
    "train": [
        # Training loops and checkpoints of the recovery.
        "lightning>=2.4,<3",
        # Reads and writes WAV and FLAC.
        "soundfile>=0.12,<1",
        # Resampling and filters for the recordings.
        "scipy>=1.10,<2",
        # BSS-eval SDR, the SDRi of the tables, at a speed that allows 100s of mixtures.
        "fast-bss-eval>=0.1.4,<0.2",
        # Mixing and segmenting recordings.
        "numpy>=1.24,<3",
    ],
    "files": [
        # Pruned models on disk: plain tensors and a JSON header, no pickle.
        "safetensors>=0.4.3,<1",
    ],
    "hub": [
        # Uploads a pruned model with its card; Asteroid brings it, and downloads with it.
        "huggingface_hub>=0.25,<3",
    ],
    "cli": [
        # The command line; 0.12 is the first that reads Annotated options.
        "typer>=0.12,<1",
        # Tables and progress bars in the terminal.
        "rich>=13.7,<16",
        # The plot of channels kept; the report draws without a display (Agg). Brings Pillow, which
        # writes spectrograms.
        "matplotlib>=3.8,<4",
        # Options in a file, and the conf.yml of Asteroid's recipes.
        "pyyaml>=6,<7",
    ],
    "export": [
        # Writes the ONNX file of `sepprune export`.
        "onnx>=1.16,<2",
        # Runs that file, to check that it gives the model's output before it is handed over.
        "onnxruntime>=1.19,<2",
    ],
    "demo": [
        # Speech synthesiser in a wheel: makes the mixtures that the shipped model was trained on.
        "espeakng-loader>=0.2.4,<0.3",
    ],
    "benchmark": [
        # Reads the configurations of the experiments.
        "pyyaml>=6,<7",
        # Intelligibility of what is heard.
        "pystoi>=0.4,<0.5",
        # Perceived quality (ITU-T P.862); built from source, which needs a C compiler.
        "pesq>=0.0.4,<0.1",
    ],
    "docs": [
        # Renders the pages of docs/ with search and navigation, from files alone; brings mkdocs.
        "mkdocs-material>=9.5,<10",
        # Makes the reference of our docstrings, without importing what they document.
        "mkdocstrings[python]>=1.0,<2",
        # Turns equations into MathML, so that the pages load no script for them.
        "latex2mathml>=3.77,<4",
    ],
    "zoo": [
        # Networks of images: more than 100 families.
        "timm>=1.0.20,<2",
        # Networks of text, speech and images.
        "transformers>=5,<6",
        # Networks of images and video, detection and segmentation; goes with torch 2.11 to 2.14.
        "torchvision>=0.26,<0.30",
        # Conv-TasNet, HDemucs and Conformer; has to match torch's CUDA build.
        "torchaudio>=2.11,<2.12",
        # Demucs from its second version to the hybrid transformer.
        "demucs>=4.1,<5",
        # Separates music by a recurrent network per source.
        "openunmix>=1.3,<2",
        # Band-split transformers.
        "bs-roformer>=1.2,<2",
        # SepFormer, RE-SepFormer, DPRNN, SkiM and MetricGAN.
        "speechbrain>=1.1,<2",
        # Imported by ultralytics, which asks for the variant that needs a display.
        "opencv-python-headless>=4.10",
        # Counts MACs for ultralytics, which is installed without what it asks for.
        "ultralytics-thop>=2.2",
        # Imported by ultralytics.
        "psutil>=5.9",
        # Imported by DeepFilterNet, which is installed without its pin of numpy 1.
        "loguru>=0.7,<1",
        # The command line of the benchmark.
        "typer>=0.12,<1",
    ],
    "test": [
        # Reads the configurations of the benchmarks, which the tests try.
        "pyyaml>=6,<7",
        # The test runner.
        "pytest>=8.2,<10",
        # Runs the test files on several cores.
        "pytest-xdist>=3.5,<4",
        # How much of the package the tests run, also in processes that they start.
        "pytest-cov>=7,<8",
        # Ends a test that hangs.
        "pytest-timeout>=2.3,<3",
        # Random masks for the invariants.
        "hypothesis>=6.100,<7",
        # Format and lint; pinned, since each release changes what passes.
        "ruff==0.17.5",
        # Types; pinned for the same reason.
        "mypy==2.4.1",
        # Image models that the graph is tried on; 0.26 to 0.29 go with torch 2.11 to 2.14.
        "torchvision>=0.26,<0.30",
        # A second opinion on MACs of the layers that it counts right.
        "thop>=0.1.1.post2209072238",
    ],
}
# Everything that a user of models can ask for; it needs no compiler.
OPTED = ("benchmark", "docs", "test", "zoo")
EXTRAS["all"] = sorted({need for name in EXTRAS if name not in OPTED for need in EXTRAS[name]})

setup(
    name="sepprune-tp",
    version=VERSION,
    description="Shrinks trained speech separation networks: channel gates on torch-pruning",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="sepprune-tp authors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["sepprune_tp", "sepprune_tp.*"]),
    package_data={"sepprune_tp": ["py.typed", "demo/assets/**"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["sepprune = sepprune_tp.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Typing :: Typed",
    ],
)
