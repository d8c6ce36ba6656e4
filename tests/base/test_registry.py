"""Registries: names and texts without imports, values when they are asked for, one name for one value."""

import pytest

import cmlab
from cmlab.base import registry as registries
from cmlab.base.registry import DATASETS, EDITS, EXTENSIONS, LOSSES, NETWORKS, SAMPLERS, Registry

ALL = [value for value in vars(registries).values() if isinstance(value, Registry)]


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.variable)
def test_texts_are_those_of_the_records_in_their_order(registry):
    texts, records = registry.texts(), registry.records()
    assert list(texts) == [record.name for record in records] == list(registry)
    for record in records:
        told = texts[record.name]
        assert (told.label, told.help, told.kind) == (record.label, record.help, record.kind)
        assert told.facts.items() <= record.facts.items()


@pytest.mark.parametrize("registry", [DATASETS, EDITS, LOSSES, NETWORKS, SAMPLERS], ids=lambda registry: registry.variable)
def test_what_a_menu_shows_has_a_label_and_a_line_of_help(registry):
    for record in registry.records():
        assert record.label and (record.help or registry is NETWORKS), record.name


def test_one_name_is_one_value():
    registry = Registry("thing", "THINGS")
    registry.register("a", "A", kind="old", size=3)(test_one_name_is_one_value)
    assert registry["a"] is test_one_name_is_one_value and registry.record("a").facts == {"size": 3}
    registry.register("a", "A", kind="new")(test_one_name_is_one_value)  # a module that is read again
    assert registry.of_kind("new") == ("a",) and registry.of_kind("old") == ()
    with pytest.raises(ValueError, match="there is a thing 'a' already"):
        registry.register("a")(len)


def test_unknown_names_lead_to_the_nearest():
    with pytest.raises(ValueError, match="unknown sampler 'huen': did you mean 'heun'"):
        SAMPLERS.record("huen")
    with pytest.raises(ValueError, match="unknown edit '42': choose one of inpaint, colorize"):
        EDITS.record("42")
    with pytest.raises(KeyError):
        SAMPLERS["huen"]
    assert "huen" not in SAMPLERS and "heun" in SAMPLERS


def test_entries_of_ones_own_are_registered_by_what_they_are():
    assert set(EXTENSIONS) >= {"data", "network", "loss", "sampler", "edit"}
    with pytest.raises(ValueError, match="unknown kind of entry 'samplr': did you mean 'sampler'"):
        cmlab.register("samplr", "mine")
