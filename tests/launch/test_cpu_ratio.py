"""Pairs of measurements: their order, their ratios, and a pair of the small model."""

from __future__ import annotations

import json
import sys

import pytest

from launch import cpu_ratio


def figures(rate: float) -> dict[str, float]:
    return {"tflop": 3.0, "seconds": 3.0 / rate, "tflop_per_second": rate, "matmul_tflop_per_second": 0.2}


def test_the_order_alternates_and_ratios_are_ours_to_theirs(monkeypatch, tmp_path, capsys):
    orders = []

    def measured(_, order):
        orders.append(tuple(order))
        return {"smcd_jax": figures(0.15), "diffusers": figures(0.1), "ratio": 1.0 + len(orders)}

    monkeypatch.setattr(cpu_ratio, "measure_pair", measured)
    monkeypatch.setattr(sys, "argv", ["cpu_ratio.py", "--pairs", "3", "--output", str(tmp_path / "ratio.json")])
    cpu_ratio.main()
    assert orders == [("smcd_jax", "diffusers"), ("diffusers", "smcd_jax"), ("smcd_jax", "diffusers")]
    assert [pair["ratio"] for pair in json.loads((tmp_path / "ratio.json").read_text())["pairs"]] == [2, 3, 4]
    assert "median 3.000, 2.000 to 4.000" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pair_of_the_small_model(monkeypatch, tmp_path):
    pytest.importorskip("diffusers")
    file = tmp_path / "ratio.json"
    arguments = ["--preset", "tiny", "--pairs", "1", "--passes", "1", "--output", str(file)]
    monkeypatch.setattr(sys, "argv", ["cpu_ratio.py", *arguments])
    cpu_ratio.main()
    pair = json.loads(file.read_text())["pairs"][0]
    assert pair["ratio"] == pytest.approx(pair["smcd_jax"]["tflop_per_second"] / pair["diffusers"]["tflop_per_second"])
    assert pair["diffusers"]["tflop"] > 0
