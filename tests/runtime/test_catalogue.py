"""The catalogue's facts: whole, well-formed, and true of the networks that are built here."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from anymask.runtime.catalogue import CATALOGUE, find

NAMES = {
    "vit_b", "vit_l", "vit_h", "medsam", "mobile_sam", "efficient_sam_ti", "efficient_sam_s", "hq_sam_vit_b",
    "hq_sam_vit_l", "hq_sam_vit_h", "hq_sam_tiny", "edge_sam", "edge_sam_3x", "repvit_sam",
}  # fmt: skip
each = pytest.mark.parametrize("checkpoint", CATALOGUE, ids=lambda checkpoint: checkpoint.name)


def test_these_are_in_it():
    assert {checkpoint.name for checkpoint in CATALOGUE} == NAMES


def test_no_name_and_no_file_stands_twice():
    names = [name for checkpoint in CATALOGUE for name in (checkpoint.name, *checkpoint.aliases)]
    assert len(set(names)) == len(names)
    assert len({checkpoint.url for checkpoint in CATALOGUE}) == len(CATALOGUE)
    digests = [checkpoint.sha256 for checkpoint in CATALOGUE if checkpoint.sha256]
    assert len(set(digests)) == len(digests)


@each
def test_each_is_well_formed(checkpoint):
    assert re.fullmatch(r"[a-z0-9_]+", checkpoint.name)
    for address in (checkpoint.url, checkpoint.origin):
        parts = urlsplit(address)
        assert (parts.scheme, parts.query, parts.fragment) == ("https", "", "")
        assert parts.hostname
    assert checkpoint.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", checkpoint.sha256)
    assert checkpoint.licence
    assert checkpoint.url.endswith(".zip") == (checkpoint.member is not None)


def test_sam_files_carry_the_start_of_their_digest_of_old():
    """The published SAM files are named after the start of their MD5; the names are part of the address."""
    for name, mark in (("vit_b", "01ec64"), ("vit_l", "0b3195"), ("vit_h", "4b8939")):
        assert find(name).url.endswith(f"sam_{name}_{mark}.pth")


@each
def test_each_is_found_by_all_its_names(checkpoint):
    assert all(find(name) is checkpoint for name in (checkpoint.name, *checkpoint.aliases))


def test_others_are_not_found():
    assert find("") is None
    assert find("VIT_B") is None
    assert find("../vit_b") is None


@pytest.mark.torch
@each
def test_each_names_a_network_that_is_built_here(checkpoint):
    """Family, sizes and number of parameters; the file has four bytes for each number, and little beside them."""
    torch = pytest.importorskip("torch")
    from anymask.model.families import build_network, family_of, published_config

    config = published_config(checkpoint.config)
    assert family_of(config).name == checkpoint.family
    with torch.device("meta"):
        network = build_network(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == checkpoint.parameters
    if checkpoint.member is None:
        assert 1.0 <= checkpoint.size / (4 * sum(t.numel() for t in network.state_dict().values())) < 1.01


@pytest.mark.torch
def test_aliases_of_networks_are_aliases_of_checkpoints():
    pytest.importorskip("torch")
    from anymask.model.families import FAMILIES

    for family in FAMILIES:
        for name, config in family.published.items():
            known = [item for item in CATALOGUE if name in (item.config, item.name, *item.aliases)]
            assert known, f"no checkpoint for {name}"
            assert any(item.family == config.family for item in known)
