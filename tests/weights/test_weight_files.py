"""Weight files in common variants: wrapped, prefixed, in parts, in half precision, damaged or malicious."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

from smcd_jax.files.placeholders import snapshot_folder
from smcd_jax.weights.tensor_files import file_sha256, find_tensor_file, open_tensors, save_tensors, tensor_file
from tests.errors import refused

NAMES = ("time_embed.0.weight", "out.bias")


def arrays(prefix: str = "") -> dict[str, np.ndarray]:
    return {prefix + name: np.full((2, 3), index, np.float32) for index, name in enumerate(NAMES)}


def torch_file(path, content):
    torch = pytest.importorskip("torch")

    def to_torch(value):
        if isinstance(value, dict):
            return {key: to_torch(part) for key, part in value.items()}
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    torch.save(to_torch(content), path)
    return path


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.diffusion_model.",
        "model.",
        "_forward_module.",
        "unet.",
    ],
)
def test_a_prefix_of_all_names_is_removed_with_a_note(tmp_path, prefix, caplog):
    save_tensors(tmp_path / "a.safetensors", arrays(prefix))
    tensors = open_tensors(tmp_path / "a.safetensors")
    assert tensors.keys() == set(NAMES)
    np.testing.assert_array_equal(tensors[NAMES[1]].numpy(), np.ones((2, 3)))
    assert prefix in caplog.text
    assert bool(caplog.text) == bool(prefix)


def test_a_prefix_of_some_names_stays(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {**arrays("module."), "step": np.ones(1, np.float32)})
    assert "module.out.bias" in open_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": arrays(), "epoch": 3},
        {"module": arrays(), "ds_version": "0.9"},
        {"model": arrays("module."), "optimizer": {"state": {0: {"exp_avg": np.ones(2)}}}, "step": 10},
        {"ema": arrays(), "optimizer": {"param_groups": []}},
        {"model": {"state_dict": arrays("_orig_mod.")}},
        {"net_g": arrays(), "iter": 5},
        {"params_ema": arrays(), "params": arrays()},
    ],
)
def test_dictionaries_around_the_tensors_are_opened(tmp_path, content):
    assert open_tensors(torch_file(tmp_path / "a.pth", content)).keys() == set(NAMES)


def test_several_unknown_dictionaries_are_refused(tmp_path):
    path = torch_file(tmp_path / "a.pth", {"teacher": arrays(), "student": arrays()})
    with refused(path=path):
        open_tensors(path)


def test_variants_are_read_only_without_the_standard_file_and_noted(tmp_path, caplog):
    save_tensors(tmp_path / "net.fp16.safetensors", arrays())
    assert tensor_file(tmp_path, "net").name == "net.fp16.safetensors"
    assert "net.fp16.safetensors" in caplog.text
    save_tensors(tmp_path / "net.safetensors", arrays())
    assert tensor_file(tmp_path, "net").name == "net.safetensors"
    save_tensors(tmp_path / "other.bf16.safetensors", arrays())
    assert tensor_file(tmp_path, "other").name == "other.bf16.safetensors"


def parts(folder, index: bool = True) -> None:
    names = [f"net-0000{part}-of-00002.safetensors" for part in (1, 2)]
    for name, file in zip(NAMES, names, strict=True):
        save_tensors(folder / file, {name: arrays()[name]})
    if index:
        content = {"metadata": {}, "weight_map": dict(zip(NAMES, names, strict=True))}
        (folder / "net.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize("index", [True, False])
def test_parts_are_read_together_with_or_without_their_index(tmp_path, index):
    parts(tmp_path, index)
    file = find_tensor_file(tmp_path, "net")
    assert open_tensors(file).keys() == set(NAMES)
    before = file_sha256(file)
    save_tensors(tmp_path / "net-00002-of-00002.safetensors", {NAMES[1]: np.zeros((2, 3), np.float32)})
    assert file_sha256(file) != before
    (tmp_path / "net-00002-of-00002.safetensors").unlink()
    with refused(path=tmp_path / "net-00002-of-00002.safetensors"):
        open_tensors(file)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b.bin"}}', '{"weight_map": "x"}', "{"]
)
def test_a_damaged_index_is_refused(tmp_path, text):
    (tmp_path / "net.safetensors.index.json").write_text(text)
    with refused(path=tmp_path / "net.safetensors.index.json"):
        open_tensors(tmp_path / "net.safetensors.index.json")


def test_the_error_for_a_missing_file_lists_the_existing_ones(tmp_path):
    (tmp_path / "weights.onnx").write_bytes(b"")
    with refused(path=tmp_path, value="net") as record:
        tensor_file(tmp_path, "net")
    assert "weights.onnx" in str(record.value)


# --- files in place of weight files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2821457103\n", "git-lfs"),
        (b"<!DOCTYPE html><html>Sign in</html>", "html"),
    ],
)
def test_pointers_of_git_lfs_and_web_pages_are_named(tmp_path, suffix, content, kind):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with refused(path=tmp_path / f"a{suffix}", value=kind):
        open_tensors(tmp_path / f"a{suffix}")


def test_a_folder_of_the_hugging_face_cache_leads_to_its_snapshot(tmp_path):
    repository = tmp_path / "models--org--name"
    for commit in ("aaa", "bbb"):
        (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "blobs").mkdir()
    with refused(path=repository, value=2):
        snapshot_folder(repository)
    (repository / "refs" / "main").write_text("bbb")
    assert snapshot_folder(repository) == repository / "snapshots" / "bbb"
    assert snapshot_folder(tmp_path) == tmp_path
    link = repository / "snapshots" / "bbb" / "net.safetensors"
    link.symlink_to("../../blobs/123")
    with refused(path=link):
        open_tensors(tensor_file(repository / "snapshots" / "bbb", "net"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02}q\x00.", b"\x93NUMPY", b"x" * 64])
def test_other_files_named_pth_are_refused_in_whole_sentences(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with refused(path=tmp_path / "a.pth") as record:
        open_tensors(tmp_path / "a.pth")
    assert "Weights only load failed" not in str(record.value)


# --- malicious files, refused within 400 MB of memory -----------------------------------------------------------------


def safetensors(header: dict | bytes, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, end: int, shape=(2,)) -> dict:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


HUGE = 1 << 50
MALICIOUS = {
    "long_header.safetensors": safetensors({"a": entry(0, 8)}, b"\0" * 8, length=HUGE),
    "header_beyond_file.safetensors": safetensors({"a": entry(0, 8)}, b"\0" * 8, length=4096),
    "overlapping.safetensors": safetensors({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
    "beyond_file.safetensors": safetensors({"a": entry(0, HUGE, (HUGE // 4,))}, b"\0" * 8),
    "other_shape.safetensors": safetensors({"a": entry(0, 8, (1 << 40,))}, b"\0" * 8),
    "negative.safetensors": safetensors({"a": entry(8, 0)}, b"\0" * 8),
    "deep.safetensors": safetensors(b"[" * 100_000, b""),
    "text.safetensors": safetensors(b"{", b""),
}


def test_malicious_files_are_refused_within_400_mb(tmp_path):
    for name, content in MALICIOUS.items():
        (tmp_path / name).write_bytes(content)
    with (
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w") as file,
    ):
        for _ in range(512):
            file.write(b"\0" * (1 << 20))
    with zipfile.ZipFile(tmp_path / "bomb_data.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\0.", zipfile.ZIP_STORED)
        archive.writestr("archive/data/0", b"\0" * (64 << 20))
    program = """
        import pathlib, sys
        from smcd_jax.errors import SMCDError
        from smcd_jax.weights.tensor_files import open_tensors
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                for tensor in open_tensors(path).values():
                    tensor.numpy()
                print("read", path.name)
            except SMCDError as error:
                assert error.path == str(path), error
        # Not getrusage, whose maximum includes the process that forked this one.
        status = pathlib.Path("/proc/self/status").read_text()
        print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    megabytes = int(done.stdout)  # any other output would mean that a file was read
    assert megabytes < 400
