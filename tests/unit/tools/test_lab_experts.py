"""The comparison of experts and generalist, with models small enough for a test."""

import torch

from ai.models import corpus, train
from ai.models.corpus import DOMAINS
from ai.models.train import GENERALIST, Recipe
from tools.lab import experts
from tools.lab.frame import Run

SMALL = Recipe("tiny", steps=30, batch=4, window=128, width=16, tables=(512, 512), warmup_steps=3)


def test_every_model_is_compared_on_every_domain(tmp_path, monkeypatch):
    monkeypatch.setenv("QUORIX_CACHE", str(tmp_path))
    monkeypatch.setattr(train, "RECIPES", {"tiny": SMALL})
    monkeypatch.setattr(experts, "WINDOWS", 8)
    generate = corpus.generate
    monkeypatch.setattr(corpus, "generate", lambda domain: generate(domain, 60_000))
    threads = torch.get_num_threads()
    run = Run()
    experts.experts(run, "tiny", 0)
    torch.set_num_threads(threads)
    table = {row["model"]: row for row in run.figures["bits_per_byte"]}
    assert set(table) == {*DOMAINS, GENERALIST} and set(run.figures["training_cpu_s"]) == set(table)
    for target, domain in zip(run.targets, DOMAINS, strict=True):
        assert target.name.startswith(domain)
        assert target.measured == round(table[GENERALIST][domain] - table[domain][domain], 4)
    assert sum(target.ok for target in run.targets) >= 6  # even so little training tells the domains apart
    assert all(table[domain][domain] < 8 for domain in DOMAINS)

    again = Run()
    experts.experts(again, "tiny", 0)
    assert again.figures["bits_per_byte"] == run.figures["bits_per_byte"] and not again.figures["training_cpu_s"]
